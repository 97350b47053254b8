//! RMS norm (Zhang and Sennrich, 2019): `y = x / sqrt(mean(x²) + eps) * w`, over the last dimension.

use super::{
    device, floats,
    lanes::sum,
    on_cpu, rows_per_task,
    values::{Element, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// x (…, dim), w (dim) → the shape of x, as `dtype`.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32, dtype: DType) -> Result<Tensor> {
    if !on_cpu(x) {
        return Ok(device::rms_norm(x, w, eps)?.to_dtype(dtype)?);
    }
    let (xs, ws) = (hold(x)?, floats(w)?);
    let dim = ws.len();
    typed!(dtype, T => {
        let mut y = room::<T>(x.elem_count());
        each!(xs.values(), xs => {
            let rows = y.par_chunks_mut(dim).zip(xs.par_chunks(dim)).with_min_len(rows_per_task(dim));
            rows.for_each(|(y, x)| row(y, x, &ws, eps));
        });
        Ok(T::tensor(y, x.shape().clone())?)
    })
}

/// Gradients of [`rms_norm`]: of x, in its type, and of w if `weight`.
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
    let (xs, ws, ds) = (hold(x)?, floats(w)?, hold(dy)?);
    let dim = ws.len();
    let mut dw = vec![0.0; if weight { dim } else { 0 }];
    let dx = typed!(x.dtype(), T => {
        let mut dx = room::<T>(x.elem_count());
        each!(xs.values(), xs => each!(ds.values(), ds => {
            let rows = dx.par_chunks_mut(dim).zip(xs.par_chunks(dim)).zip(ds.par_chunks(dim));
            rows.with_min_len(rows_per_task(dim)).for_each(|((dx, x), dy)| row_backward(dx, x, dy, &ws, eps));
            if weight {
                xs.chunks(dim).zip(ds.chunks(dim)).for_each(|(x, dy)| row_weight(&mut dw, x, dy, eps));
            }
        }));
        T::tensor(dx, x.shape().clone())?
    });
    Ok((dx, weight.then(|| Tensor::from_vec(dw, dim, x.device())).transpose()?))
}

simd! {
    fn row[T: Element, X: Element](y: &mut [T], x: &[X], w: &[f32], eps: f32) {
        let r = inverse_rms(x, eps);
        y.iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y = T::of(x.get() * r * w));
    }

    fn row_backward[T: Element, X: Element, D: Element](dx: &mut [T], x: &[X], dy: &[D], w: &[f32], eps: f32) {
        let (n, r) = (x.len(), inverse_rms(x, eps));
        let (dy, w) = (&dy[..n], &w[..n]);
        let dot = sum(n, |i| dy[i].get() * w[i] * x[i].get()) * r * r * r / n as f32;
        for (i, dx) in dx.iter_mut().enumerate().take(n) {
            *dx = T::of(dy[i].get() * w[i] * r - x[i].get() * dot);
        }
    }

    fn row_weight[X: Element, D: Element](dw: &mut [f32], x: &[X], dy: &[D], eps: f32) {
        let r = inverse_rms(x, eps);
        dw.iter_mut().zip(x).zip(dy).for_each(|((dw, x), dy)| *dw += dy.get() * x.get() * r);
    }
}

#[inline(always)]
fn inverse_rms<X: Element>(x: &[X], eps: f32) -> f32 {
    1.0 / (sum(x.len(), |i| x[i].get() * x[i].get()) / x.len() as f32 + eps).sqrt()
}
