//! Rotary position embedding (Su et al., 2021) in the layout of Hugging Face: the two halves of a head are rotated
//! against each other.

use super::{device, floats, on_cpu, rows_per_task};
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
    let (xs, cs, ss) = (floats(x)?, floats(cos)?, floats(sin)?);
    let (half, sign) = (dim / 2, if backward { -1.0 } else { 1.0 });
    let mut y = vec![0.0; xs.len()];
    y.par_chunks_mut(heads * dim)
        .zip(xs.par_chunks(heads * dim))
        .enumerate()
        .with_min_len(rows_per_task(heads * dim))
        .for_each(|(t, (y, x))| {
            let (cos, sin) = (&cs[t * half..][..half], &ss[t * half..][..half]);
            for (y, x) in y.chunks_mut(dim).zip(x.chunks(dim)) {
                for i in 0..half {
                    let (a, b, s) = (x[i], x[half + i], sign * sin[i]);
                    y[i] = a * cos[i] - b * s;
                    y[half + i] = b * cos[i] + a * s;
                }
            }
        });
    Ok(Tensor::from_vec(y, (tokens, heads, dim), x.device())?)
}
