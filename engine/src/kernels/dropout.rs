//! Dropout and noise that are functions of (seed, step, micro-batch, site, index): nothing to save, the same on resume.

use super::{
    rows_per_task,
    values::{Element, each, hold, room, typed},
};
use crate::{Result, random::mix};
use candle_core::Tensor;
use rayon::prelude::*;

/// `x * mask / (1 - p)`; the same call on a gradient is the backward pass.
pub fn dropout(x: &Tensor, p: f32, key: u64) -> Result<Tensor> {
    let (shape, held) = (x.shape().clone(), hold(x)?);
    let (limit, scale) = ((f64::from(p) * 2f64.powi(32)) as u32, 1.0 / (1.0 - p));
    let dtype = x.dtype();
    typed!(dtype, T => each!(held.values(), x => {
        let mut y = room::<T>(x.len());
        y.par_iter_mut().zip(x).enumerate().with_min_len(rows_per_task(1)).for_each(|(i, (y, x))| {
            let kept = (mix(key ^ mix(i as u64)) >> 32) as u32 >= limit;
            *y = T::of(if kept { x.get() * scale } else { 0.0 });
        });
        Ok(T::tensor(y, shape)?)
    }))
}

/// x (tokens, width) in float32 plus noise: each value uniform in ±`bounds[its token]`.
pub fn noise(x: &Tensor, bounds: &[f32], key: u64) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let uniform = |i: usize| (mix(key ^ mix(i as u64)) >> 40) as f32 * (2.0 / (1u32 << 24) as f32) - 1.0;
    let mut values = vec![0f32; tokens * width];
    values.par_chunks_mut(width).zip(bounds).enumerate().with_min_len(rows_per_task(width)).for_each(
        |(token, (row, bound))| {
            row.iter_mut().enumerate().for_each(|(i, value)| *value = bound * uniform(token * width + i));
        },
    );
    super::add(x.clone(), &Tensor::from_vec(values, (tokens, width), x.device())?)
}
