//! Rotary position embedding (Su et al., 2021): of whole heads or of the first part of each (GPT-NeoX), the two halves
//! rotated against each other, as Hugging Face lays them out, or neighbours (GLM).

use super::{
    device, floats, on_cpu, rows_per_task,
    values::{Element, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rotates the first `2 n` values of each head of x (tokens, heads, dim) by the angles whose cosine and sine are
/// (tokens, n): the two halves of that part against each other, or neighbours if `interleaved`. The rest stays.
/// `backward` rotates the other way, which is the gradient.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, interleaved: bool, backward: bool) -> Result<Tensor> {
    if !on_cpu(x) {
        return device::rope(x, cos, &if backward { sin.neg()? } else { sin.clone() }, interleaved);
    }
    let ((tokens, heads, dim), n) = (x.dims3()?, cos.dim(1)?);
    let (xs, cs, ss) = (hold(x)?, floats(cos)?, floats(sin)?);
    let (width, sign) = (heads * dim, if backward { -1.0 } else { 1.0 });
    typed!(x.dtype(), T => {
        let mut y = room::<T>(tokens * width);
        each!(xs.values(), xs => {
            let rows = y.par_chunks_mut(width).zip(xs.par_chunks(width)).enumerate();
            rows.with_min_len(rows_per_task(width)).for_each(|(t, (y, x))| {
                let (cos, sin) = (&cs[t * n..][..n], &ss[t * n..][..n]);
                if interleaved { neighbours(y, x, dim, cos, sin, sign) } else { halves(y, x, dim, cos, sin, sign) }
            });
        });
        Ok(T::tensor(y, x.shape().clone())?)
    })
}

simd! {
    /// All heads of one token.
    fn halves[T: Element, X: Element](y: &mut [T], x: &[X], dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let n = cos.len();
        for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
            let ((y, still), (x, rest)) = (y.split_at_mut(2 * n), x.split_at(2 * n));
            let ((y0, y1), (x0, x1)) = (y.split_at_mut(n), x.split_at(n));
            for i in 0..n {
                let (a, b, c, s) = (x0[i].get(), x1[i].get(), cos[i], sign * sin[i]);
                y0[i] = T::of(a * c - b * s);
                y1[i] = T::of(b * c + a * s);
            }
            still.iter_mut().zip(rest).for_each(|(y, x)| *y = T::of(x.get()));
        }
    }

    fn neighbours[T: Element, X: Element](y: &mut [T], x: &[X], dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let n = cos.len();
        for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
            let ((y, still), (x, rest)) = (y.split_at_mut(2 * n), x.split_at(2 * n));
            for (i, (y, x)) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).enumerate() {
                let (a, b, c, s) = (x[0].get(), x[1].get(), cos[i], sign * sin[i]);
                y[0] = T::of(a * c - b * s);
                y[1] = T::of(b * c + a * s);
            }
            still.iter_mut().zip(rest).for_each(|(y, x)| *y = T::of(x.get()));
        }
    }
}
