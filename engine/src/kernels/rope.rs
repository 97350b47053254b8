//! Rotary position embedding (Su et al., 2021) in the layout of Hugging Face: the two halves of a head are rotated
//! against each other.

use super::{
    device, floats, on_cpu, rows_per_task,
    values::{Element, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rotates x (tokens, heads, dim) by the angles whose cosine and sine are (tokens, dim / 2). `backward` rotates the
/// other way, which is the gradient.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, backward: bool) -> Result<Tensor> {
    if !on_cpu(x) {
        return device::rope(x, cos, &if backward { sin.neg()? } else { sin.clone() });
    }
    let (tokens, heads, dim) = x.dims3()?;
    let (xs, cs, ss) = (hold(x)?, floats(cos)?, floats(sin)?);
    let (half, width) = (dim / 2, heads * dim);
    typed!(x.dtype(), T => {
        let mut y = room::<T>(tokens * width);
        each!(xs.values(), xs => {
            let rows = y.par_chunks_mut(width).zip(xs.par_chunks(width)).enumerate();
            rows.with_min_len(rows_per_task(width)).for_each(|(t, (y, x))| {
                rotate(y, x, &cs[t * half..][..half], &ss[t * half..][..half], if backward { -1.0 } else { 1.0 });
            });
        });
        Ok(T::tensor(y, x.shape().clone())?)
    })
}

simd! {
    /// All heads of one token.
    fn rotate[T: Element, X: Element](y: &mut [T], x: &[X], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            let ((y0, y1), (x0, x1)) = (y.split_at_mut(half), x.split_at(half));
            for i in 0..half {
                let (a, b, c, s) = (x0[i].get(), x1[i].get(), cos[i], sign * sin[i]);
                y0[i] = T::of(a * c - b * s);
                y1[i] = T::of(b * c + a * s);
            }
        }
    }
}
