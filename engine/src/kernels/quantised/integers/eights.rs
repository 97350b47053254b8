//! Activations in 8 bits, a scale for each block, rounded as llama.cpp rounds them (`quantize_row_q8_0`, `q8_1`, `q8_K` of
//! ggml), so that both get the same sums.

use crate::kernels::values::{Element, Values, each, simd};
use half::f16;
use rayon::prelude::*;

/// Values of a block of x: what the blocks of a weight want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// With a scale in float16.
    Of32,
    /// With a scale in float32.
    Of256,
}

impl Width {
    pub const fn columns(self) -> usize {
        match self {
            Self::Of32 => 32,
            Self::Of256 => 256,
        }
    }

    /// Codes that are added up together for weights with an offset or a minimum.
    const fn summed(self) -> usize {
        match self {
            Self::Of32 => 32,
            Self::Of256 => 16,
        }
    }
}

/// Rows of x.
#[derive(Debug)]
pub struct Eights {
    width: Width,
    columns: usize,
    codes: Vec<i8>,
    /// One for each block.
    scales: Vec<f32>,
    /// Scale times sum of a block's codes, in float16's steps; empty where blocks are of 256.
    weighted: Vec<f32>,
    sums: Vec<i32>,
}

/// One row of [`Eights`].
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [f32],
    pub weighted: &'a [f32],
    /// Of 32 or of 16 codes each.
    pub sums: &'a [i32],
}

impl Eights {
    /// Rounds x (rows, columns), which whole blocks fill.
    pub fn new(x: Values, columns: usize, width: Width) -> Self {
        assert!(columns > 0 && columns.is_multiple_of(width.columns()), "rows are no whole blocks");
        let rows = x.len() / columns;
        let mut codes = vec![0; rows * columns];
        let mut scales = vec![0.0; rows * columns / width.columns()];
        let mut weighted = vec![0.0; if width == Width::Of32 { scales.len() } else { 0 }];
        let mut sums = vec![0; rows * columns / width.summed()];
        each!(x, x => {
            // Tasks of a few thousand values: one token is not shared out.
            let part = (8192 / columns).max(1) * columns;
            let blocks = part / width.columns();
            match width {
                Width::Of32 => x.par_chunks(part)
                    .zip(codes.par_chunks_mut(part))
                    .zip(scales.par_chunks_mut(blocks).zip(weighted.par_chunks_mut(blocks)))
                    .zip(sums.par_chunks_mut(blocks))
                    .for_each(|(((x, codes), (scales, weighted)), sums)| of_32(x, codes, scales, weighted, sums)),
                Width::Of256 => x.par_chunks(part)
                    .zip(codes.par_chunks_mut(part))
                    .zip(scales.par_chunks_mut(blocks))
                    .zip(sums.par_chunks_mut(part / width.summed()))
                    .for_each(|(((x, codes), scales), sums)| of_256(x, codes, scales, sums)),
            }
        });
        Self { width, columns, codes, scales, weighted, sums }
    }

    pub fn rows(&self) -> usize {
        self.codes.len() / self.columns
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn width(&self) -> Width {
        self.width
    }

    pub fn row(&self, i: usize) -> Row<'_> {
        let part = |width: usize| i * (self.columns / width)..(i + 1) * (self.columns / width);
        let blocks = part(self.width.columns());
        Row {
            codes: &self.codes[part(1)],
            weighted: if self.weighted.is_empty() { &[] } else { &self.weighted[blocks.clone()] },
            scales: &self.scales[blocks],
            sums: &self.sums[part(self.width.summed())],
        }
    }
}

simd! {
    fn of_32[T: Element](x: &[T], codes: &mut [i8], scales: &mut [f32], weighted: &mut [f32], sums: &mut [i32]) {
        for (i, (x, codes)) in x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).enumerate() {
            let mut values = [0f32; 32];
            values.iter_mut().zip(x).for_each(|(v, x)| *v = x.get());
            let most = values.iter().fold(0f32, |most, v| if v.abs() > most { v.abs() } else { most });
            let scale = most / 127.0;
            let factor = if most > 0.0 { 127.0 / most } else { 0.0 };
            let mut sum = 0;
            for (code, v) in codes.iter_mut().zip(&values) {
                let rounded = (v * factor).round_ties_even() as i32;
                *code = rounded as i8;
                sum += rounded;
            }
            sums[i] = sum;
            scales[i] = f16::from_f32(scale).to_f32();
            weighted[i] = f16::from_f32(scale * sum as f32).to_f32();
        }
    }

    fn of_256[T: Element](x: &[T], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        for (i, (x, codes)) in x.chunks_exact(256).zip(codes.chunks_exact_mut(256)).enumerate() {
            // The value that is largest without its sign becomes -128 or so.
            let (mut most, mut size) = (0f32, 0f32);
            for x in x {
                let v = x.get();
                if v.abs() > size {
                    (most, size) = (v, v.abs());
                }
            }
            let factor = if size > 0.0 { -127.0 / most } else { 0.0 };
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x.get() * factor).round_ties_even().min(127.0) as i32 as i8;
            }
            for (sum, codes) in sums[i * 16..].iter_mut().zip(codes.chunks_exact(16)) {
                *sum = codes.iter().map(|code| i32::from(*code)).sum();
            }
            scales[i] = if size > 0.0 { 1.0 / factor } else { 0.0 };
        }
    }
}
