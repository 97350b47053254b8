//! RMS norm (Zhang and Sennrich, 2019): `y = x / sqrt(mean(x²) + eps) * w`, over the last dimension.

use super::{device, floats, on_cpu, rows_per_task};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// x (…, dim), w (dim) → the shape of x.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    if !on_cpu(x) {
        return device::rms_norm(x, w, eps);
    }
    let (xs, ws) = (floats(x)?, floats(w)?);
    let dim = ws.len();
    let mut y = vec![0.0; xs.len()];
    y.par_chunks_mut(dim).zip(xs.par_chunks(dim)).with_min_len(rows_per_task(dim)).for_each(|(y, x)| {
        let r = inverse_rms(x, eps);
        y.iter_mut().zip(x).zip(ws.iter()).for_each(|((y, x), w)| *y = x * r * w);
    });
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

/// Gradients of [`rms_norm`]: of x, and of w if `weight`.
pub fn rms_norm_backward(
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    eps: f32,
    weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    if !on_cpu(x) {
        return device::rms_norm_backward(x, w, dy, eps, weight);
    }
    let (xs, ws, ds) = (floats(x)?, floats(w)?, floats(dy)?);
    let dim = ws.len();
    let mut dx = vec![0.0; xs.len()];
    let rows = dx.par_chunks_mut(dim).zip(xs.par_chunks(dim)).zip(ds.par_chunks(dim));
    rows.with_min_len(rows_per_task(dim)).for_each(|((dx, x), dy)| {
        let r = inverse_rms(x, eps);
        let dot = sum(dim, |i| dy[i] * ws[i] * x[i]) * r * r * r / dim as f32;
        for i in 0..dim {
            dx[i] = dy[i] * ws[i] * r - x[i] * dot;
        }
    });
    let dw = weight.then(|| {
        let mut dw = vec![0.0; dim];
        for (x, dy) in xs.chunks(dim).zip(ds.chunks(dim)) {
            let r = inverse_rms(x, eps);
            for i in 0..dim {
                dw[i] += dy[i] * x[i] * r;
            }
        }
        dw
    });
    let dw = dw.map(|dw| Tensor::from_vec(dw, dim, x.device())).transpose()?;
    Ok((Tensor::from_vec(dx, x.shape(), x.device())?, dw))
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt()
}

/// Sum in 16 lanes, which the compiler turns into vector code.
pub(crate) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = n / 16 * 16;
    for start in (0..whole).step_by(16) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + j);
        }
    }
    lanes.iter().sum::<f32>() + (whole..n).map(f).sum::<f32>()
}
