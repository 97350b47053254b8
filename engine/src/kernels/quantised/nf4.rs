//! 4-bit NormalFloat (Dettmers et al., 2023, appendix E), as bitsandbytes stores it: two codes a byte, the first in the
//! upper half, blocks of 64 along the rows with their largest absolute value as scale.

use super::{Blocks, OnDevice, by_block, codes};
use crate::Result;
use candle_core::Device;
use rayon::prelude::*;
use std::sync::LazyLock;

/// Values of one scale.
pub const BLOCK: usize = 64;

/// Quantiles of the normal distribution, brought to [-1, 1], 0 among them.
const TABLE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Both values of a byte.
static PAIRS: LazyLock<[[f32; 2]; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| [TABLE[byte >> 4], TABLE[byte & 15]]));

#[derive(Debug)]
pub struct Nf4 {
    codes: Vec<u8>,
    scales: Scales,
}

#[derive(Debug)]
enum Scales {
    Plain(Vec<f32>),
    /// Less their mean, in 8 bits with a scale for each 256.
    Double {
        codes: Vec<u8>,
        scales: Vec<f32>,
        mean: f32,
    },
}

impl Nf4 {
    pub fn new(values: &[f32], double: bool) -> Self {
        let mut bytes = vec![0; values.len().div_ceil(2)];
        let blocks = bytes.par_chunks_mut(BLOCK / 2).zip(values.par_chunks(BLOCK));
        let scales: Vec<f32> = blocks.map(|(bytes, values)| encode(values, bytes)).collect();
        Self { codes: bytes, scales: if double { Scales::double(&scales) } else { Scales::Plain(scales) } }
    }
}

/// Codes of one block, and its scale.
fn encode(values: &[f32], bytes: &mut [u8]) -> f32 {
    let scale = codes::largest(values);
    let inverse = 1.0 / scale.max(1e-38);
    for (byte, pair) in bytes.iter_mut().zip(values.chunks(2)) {
        let code = |i: usize| pair.get(i).map_or(0, |v| codes::nearest(&TABLE, v * inverse));
        *byte = code(0) << 4 | code(1);
    }
    scale
}

impl Scales {
    fn double(all: &[f32]) -> Self {
        let mean = (all.iter().copied().map(f64::from).sum::<f64>() / all.len().max(1) as f64) as f32;
        let shifted: Vec<f32> = all.iter().map(|s| s - mean).collect();
        let mut bytes = vec![0; all.len()];
        let blocks = bytes.chunks_mut(codes::BLOCK).zip(shifted.chunks(codes::BLOCK));
        let scales = blocks.map(|(bytes, values)| codes::encode(&codes::SIGNED, values, bytes)).collect();
        Self::Double { codes: bytes, scales, mean }
    }

    fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Double { codes, scales, mean } => {
                codes::SIGNED[usize::from(codes[block])] * scales[block / codes::BLOCK] + mean
            }
        }
    }
}

impl Blocks for Nf4 {
    fn read(&self, from: usize, out: &mut [f32]) {
        let pairs: &[[f32; 2]; 256] = &PAIRS;
        by_block(from, out, BLOCK, |block, first, mut out| {
            let (scale, mut at) = (self.scales.get(block), block * BLOCK + first);
            if at % 2 == 1 {
                out[0] = pairs[usize::from(self.codes[at / 2])][1] * scale;
                (out, at) = (&mut out[1..], at + 1);
            }
            for (out, byte) in out.chunks_mut(2).zip(&self.codes[at / 2..]) {
                out.iter_mut().zip(pairs[usize::from(*byte)]).for_each(|(out, value)| *out = value * scale);
            }
        });
    }

    fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => scales.len() * 4,
            Scales::Double { codes, scales, .. } => codes.len() + scales.len() * 4,
        };
        self.codes.len() + scales
    }

    fn on(&self, (rows, columns): (usize, usize), device: &Device) -> Result<OnDevice> {
        let scales = (0..(rows * columns).div_ceil(BLOCK)).map(|block| self.scales.get(block)).collect();
        OnDevice::table(&self.codes, PAIRS.as_flattened(), scales, BLOCK, device)
    }
}
