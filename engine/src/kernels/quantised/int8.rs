//! 8-bit integers with the largest absolute value of each row as its scale, as the weights of LLM.int8 (Dettmers et
//! al., 2022) and of bitsandbytes. By rows, since a row is one output: its error scales with its own weights alone, and
//! a scale costs nothing. Activations stay as they are, so no outlier needs a path of its own.

use super::{Blocks, OnDevice, by_block, codes::largest};
use crate::Result;
use candle_core::Device;
use rayon::prelude::*;

#[derive(Debug)]
pub struct Int8 {
    codes: Vec<i8>,
    /// A step of each row.
    steps: Vec<f32>,
    columns: usize,
}

impl Int8 {
    pub fn new(values: &[f32], columns: usize) -> Self {
        let columns = columns.max(1);
        let mut codes = vec![0; values.len()];
        let rows = codes.par_chunks_mut(columns).zip(values.par_chunks(columns));
        let steps = rows.map(|(codes, row)| {
            let most = largest(row);
            let factor = if most > 0.0 { 127.0 / most } else { 0.0 };
            codes.iter_mut().zip(row).for_each(|(code, v)| *code = (v * factor).round_ties_even() as i8);
            most / 127.0
        });
        let steps = steps.collect();
        Self { codes, steps, columns }
    }
}

impl Blocks for Int8 {
    fn read(&self, from: usize, out: &mut [f32]) {
        by_block(from, out, self.columns, |row, first, out| {
            let (step, codes) = (self.steps[row], &self.codes[row * self.columns + first..]);
            out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(*code) * step);
        });
    }

    fn bytes(&self) -> usize {
        self.codes.len() + self.steps.len() * 4
    }

    fn on(&self, _: (usize, usize), device: &Device) -> Result<OnDevice> {
        let codes: Vec<u8> = self.codes.iter().map(|code| code.cast_unsigned()).collect();
        let table: [f32; 256] = std::array::from_fn(|byte| f32::from((byte as u8).cast_signed()));
        OnDevice::table(&codes, &table, self.steps.clone(), self.columns, device)
    }
}
