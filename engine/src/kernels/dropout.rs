//! Dropout whose mask is a function of (seed, step, micro-batch, site, index): nothing to save, the same on resume.

use super::{floats, rows_per_task};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// `x * mask / (1 - p)`; the same call on a gradient is the backward pass.
pub fn dropout(x: &Tensor, p: f32, key: u64) -> Result<Tensor> {
    let values = floats(x)?;
    let (limit, scale) = ((f64::from(p) * 2f64.powi(32)) as u32, 1.0 / (1.0 - p));
    let mut y = vec![0.0; values.len()];
    y.par_iter_mut().zip(values.par_iter()).enumerate().with_min_len(rows_per_task(1)).for_each(|(i, (y, x))| {
        *y = if (mix(key ^ mix(i as u64)) >> 32) as u32 >= limit { x * scale } else { 0.0 };
    });
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
