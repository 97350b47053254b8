//! Layer norm (Ba, Kiros and Hinton, 2016): `y = (x - mean) / sqrt(variance + eps) * w + b`, over the last dimension.

use super::{
    composed, device, floats,
    lanes::sum,
    on_cpu, rows_per_task,
    values::{Element, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// x (…, dim), w and b (dim) → the shape of x, as `dtype`.
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f32, dtype: DType) -> Result<Tensor> {
    if !on_cpu(x) {
        return Ok(composed::layer_norm(x, w, b, eps)?.to_dtype(dtype)?);
    }
    let (xs, ws, bs) = (hold(x)?, floats(w)?, floats(b)?);
    let dim = ws.len();
    typed!(dtype, T => {
        let mut y = room::<T>(x.elem_count());
        each!(xs.values(), xs => {
            let rows = y.par_chunks_mut(dim).zip(xs.par_chunks(dim)).with_min_len(rows_per_task(dim));
            rows.for_each(|(y, x)| row(y, x, &ws, &bs, eps));
        });
        Ok(T::tensor(y, x.shape().clone())?)
    })
}

/// Gradients of [`layer_norm`]: of x, in its type, and of w and b if `weight`.
pub fn layer_norm_backward(
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    eps: f32,
    weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    if !on_cpu(x) {
        let inputs = [x, w, &w.zeros_like()?];
        let [dx, dw, db] = device::gradients(inputs, dy, |[x, w, b]| composed::layer_norm(x, w, b, eps))?;
        return Ok((dx, weight.then_some((dw, db))));
    }
    let (xs, ws, ds) = (hold(x)?, floats(w)?, hold(dy)?);
    let dim = ws.len();
    let (mut dw, mut db) = (vec![0.0; if weight { dim } else { 0 }], vec![0.0; if weight { dim } else { 0 }]);
    let dx = typed!(x.dtype(), T => {
        let mut dx = room::<T>(x.elem_count());
        each!(xs.values(), xs => each!(ds.values(), ds => {
            let rows = dx.par_chunks_mut(dim).zip(xs.par_chunks(dim)).zip(ds.par_chunks(dim));
            rows.with_min_len(rows_per_task(dim)).for_each(|((dx, x), dy)| row_backward(dx, x, dy, &ws, eps));
            if weight {
                xs.chunks(dim).zip(ds.chunks(dim)).for_each(|(x, dy)| row_weight(&mut dw, &mut db, x, dy, eps));
            }
        }));
        T::tensor(dx, x.shape().clone())?
    });
    if !weight {
        return Ok((dx, None));
    }
    Ok((dx, Some((Tensor::from_vec(dw, dim, x.device())?, Tensor::from_vec(db, dim, x.device())?))))
}

simd! {
    fn row[T: Element, X: Element](y: &mut [T], x: &[X], w: &[f32], b: &[f32], eps: f32) {
        let (mean, r) = moments(x, eps);
        for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(w.iter().zip(b)) {
            *y = T::of((x.get() - mean) * r * w + b);
        }
    }

    fn row_backward[T: Element, X: Element, D: Element](dx: &mut [T], x: &[X], dy: &[D], w: &[f32], eps: f32) {
        let (n, (mean, r)) = (x.len(), moments(x, eps));
        let (dy, w) = (&dy[..n], &w[..n]);
        let level = sum(n, |i| dy[i].get() * w[i]) / n as f32;
        let along = sum(n, |i| dy[i].get() * w[i] * (x[i].get() - mean) * r) / n as f32;
        for (i, dx) in dx.iter_mut().enumerate().take(n) {
            *dx = T::of((dy[i].get() * w[i] - level - (x[i].get() - mean) * r * along) * r);
        }
    }

    fn row_weight[X: Element, D: Element](dw: &mut [f32], db: &mut [f32], x: &[X], dy: &[D], eps: f32) {
        let (mean, r) = moments(x, eps);
        for ((dw, db), (x, dy)) in dw.iter_mut().zip(db).zip(x.iter().zip(dy)) {
            *dw += dy.get() * (x.get() - mean) * r;
            *db += dy.get();
        }
    }
}

/// Mean, and one over the deviation.
#[inline(always)]
fn moments<X: Element>(x: &[X], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x.len(), |i| x[i].get()) / n;
    let variance = sum(x.len(), |i| (x[i].get() - mean) * (x[i].get() - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}
