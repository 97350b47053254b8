//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_`.

use super::optimizers::{groups, in_place, join};
use crate::{
    Result,
    kernels::{
        floats,
        lanes::{finite, sum},
        profile::time,
    },
    model::{Grads, Store},
};
use candle_core::Tensor;
use rayon::prelude::*;

/// Values of a sum in float32, and of a task.
const BLOCK: usize = 4096;
const TASK: usize = 1 << 16;

/// The norm of all gradients together, and the factor that brings it down to `limit` (0: no limit).
pub fn clip(grads: &Grads, limit: f64) -> Result<(f64, f64)> {
    time("norm of gradients", || clip_factor(grads, limit))
}

fn clip_factor(grads: &Grads, limit: f64) -> Result<(f64, f64)> {
    let (mut squares, mut on_device) = (0.0, Vec::new());
    for (_, gradient) in grads.iter() {
        match in_place(gradient) {
            true => squares += sum_of_squares(gradient)?,
            false => on_device.push(gradient),
        }
    }
    let norm = (squares + sum_of_squares_together(&on_device)?).sqrt();
    let factor = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
    Ok((norm, factor))
}

/// Whether every trained value is a number, and finite.
pub fn all_finite(store: &Store) -> Result<bool> {
    time("check of values", || are_finite(store))
}

fn are_finite(store: &Store) -> Result<bool> {
    let mut on_device = Vec::new();
    for parameter in store.trainable() {
        let value = parameter.get();
        if !in_place(&value) {
            on_device.push(value);
        } else if !floats(&value.flatten_all()?)?.par_chunks(TASK).all(finite) {
            return Ok(false);
        }
    }
    // 0 times a value that is infinite or no number is no number.
    let sums: Vec<Tensor> = groups(&on_device, |t| t.elem_count())
        .into_iter()
        .map(|some| Ok((join(some.iter())? * 0.0)?.sum_all()?.unsqueeze(0)?))
        .collect::<Result<_>>()?;
    Ok(sums.is_empty() || Tensor::cat(&sums, 0)?.sum_all()?.to_scalar::<f32>()?.is_finite())
}

fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.flatten_all()?;
    // In blocks, so that float32 sums stay exact enough and the compiler can use vectors.
    let blocks = floats(&gradient)?;
    let of = |block: &[f32]| f64::from(sum(block.len(), |i| block[i] * block[i]));
    // The sums of the blocks are added in their order, on however many threads they were made.
    let sums: Vec<f64> = blocks.par_chunks(BLOCK).with_min_len(TASK / BLOCK).map(of).collect();
    Ok(sums.into_iter().sum())
}

/// Sums on the device and reads once.
fn sum_of_squares_together(gradients: &[&Tensor]) -> Result<f64> {
    if gradients.is_empty() {
        return Ok(0.0);
    }
    let sums: Vec<Tensor> = groups(gradients, |g| g.elem_count())
        .into_iter()
        .map(|some| Ok(join(some.iter().copied())?.sqr()?.sum_all()?.unsqueeze(0)?))
        .collect::<Result<_>>()?;
    Ok(f64::from(Tensor::cat(&sums, 0)?.sum_all()?.to_scalar::<f32>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn norms_are_equal_on_all_devices() {
        let gradients: Vec<Tensor> =
            (1..300).map(|n| Tensor::randn(0f32, 0.1, (n, 7), &Device::Cpu).unwrap()).collect();
        let single: f64 = gradients.iter().map(|g| sum_of_squares(g).unwrap()).sum();
        let together = sum_of_squares_together(&gradients.iter().collect::<Vec<_>>()).unwrap();
        assert!((together / single - 1.0).abs() < 1e-5, "{together} and {single}");
    }
}
