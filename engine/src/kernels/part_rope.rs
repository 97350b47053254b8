//! Rotary embedding of the first part of each head (GPT-NeoX), of neighbours instead of halves (GLM), or both.

use super::{
    composed, floats, on_cpu,
    rope::rope,
    rows_per_task,
    values::{Element, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rotates the first `2 n` values of each head of x (tokens, heads, dim) by the angles whose cosine and sine are
/// (tokens, n): the two halves of that part against each other, or neighbours if `interleaved`. The rest stays.
/// `backward` rotates the other way, which is the gradient.
pub fn part_rope(x: &Tensor, cos: &Tensor, sin: &Tensor, interleaved: bool, backward: bool) -> Result<Tensor> {
    let ((tokens, heads, dim), half) = (x.dims3()?, cos.dim(1)?);
    if 2 * half == dim && !interleaved {
        return rope(x, cos, sin, backward);
    }
    if !on_cpu(x) {
        let sin = if backward { sin.neg()? } else { sin.clone() };
        return composed::part_rope(x, cos, &sin, interleaved);
    }
    let (xs, cs, ss) = (hold(x)?, floats(cos)?, floats(sin)?);
    let (width, sign) = (heads * dim, if backward { -1.0 } else { 1.0 });
    typed!(x.dtype(), T => {
        let mut y = room::<T>(tokens * width);
        each!(xs.values(), xs => {
            let rows = y.par_chunks_mut(width).zip(xs.par_chunks(width)).enumerate();
            rows.with_min_len(rows_per_task(width)).for_each(|(t, (y, x))| {
                rotate(y, x, dim, &cs[t * half..][..half], &ss[t * half..][..half], sign, interleaved);
            });
        });
        Ok(T::tensor(y, x.shape().clone())?)
    })
}

simd! {
    /// All heads of one token.
    fn rotate[T: Element, X: Element](
        y: &mut [T], x: &[X], dim: usize, cos: &[f32], sin: &[f32], sign: f32, interleaved: bool
    ) {
        let half = cos.len();
        for (y, x) in y.chunks_mut(dim).zip(x.chunks(dim)) {
            for i in 0..half {
                let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                let (a, b, c, s) = (x[first].get(), x[second].get(), cos[i], sign * sin[i]);
                y[first] = T::of(a * c - b * s);
                y[second] = T::of(b * c + a * s);
            }
            y.iter_mut().zip(x).skip(2 * half).for_each(|(y, x)| *y = T::of(x.get()));
        }
    }
}
