//! The kernels that fewer families need as candle's own operations: for devices other than the CPU, and as the oracle
//! of the tests, since candle can differentiate them.

use super::activation::Activation;
use crate::Result;
use candle_core::{D, Tensor};

/// As [`super::rope::rope`]: the first `2 n` values of each head, cos and sin (tokens, n).
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, interleaved: bool) -> Result<Tensor> {
    let ((tokens, heads, dim), n) = (x.dims3()?, cos.dim(1)?);
    let part = x.narrow(2, 0, 2 * n)?;
    let turned = match interleaved {
        false => halves(&part, cos, sin)?,
        true => {
            // Even places first, then odd ones; and back.
            let parted = part.reshape((tokens, heads, n, 2))?.transpose(2, 3)?.reshape((tokens, heads, 2 * n))?;
            let turned = halves(&parted, cos, sin)?.reshape((tokens, heads, 2, n))?;
            turned.transpose(2, 3)?.reshape((tokens, heads, 2 * n))?
        }
    };
    Ok(if 2 * n == dim { turned } else { Tensor::cat(&[turned, x.narrow(2, 2 * n, dim - 2 * n)?], 2)? })
}

/// The two halves of x (tokens, heads, 2 n) rotated against each other.
fn halves(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Ok(Tensor::cat(&[first, second], 2)?)
}

pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f32) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?.broadcast_mul(w)?.broadcast_add(b)?)
}

pub fn activate(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Relu => x.relu()?,
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
    })
}

pub fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    Ok(((x / cap)?.tanh()? * cap)?)
}
