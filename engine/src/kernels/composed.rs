//! The kernels that fewer families need as candle's own operations: for devices other than the CPU, and as the oracle
//! of the tests, since candle can differentiate them.

use super::{
    device::gradients,
    gelu::Activation,
    head::{CrossEntropy, Gradients},
};
use crate::Result;
use candle_core::{D, DType, Tensor};

/// The rotation of [`super::rope::rope`] in a form that candle can differentiate.
fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Ok(Tensor::cat(&[first, second], 2)?)
}

/// As [`rope`] on the first `2 n` values of each head, cos and sin (tokens, n).
pub fn part_rope(x: &Tensor, cos: &Tensor, sin: &Tensor, interleaved: bool) -> Result<Tensor> {
    let ((tokens, heads, dim), n) = (x.dims3()?, cos.dim(1)?);
    let part = x.narrow(2, 0, 2 * n)?;
    let turned = match interleaved {
        false => rope(&part, cos, sin)?,
        true => {
            // Even places first, then odd ones; and back.
            let halves = part.reshape((tokens, heads, n, 2))?.transpose(2, 3)?.reshape((tokens, heads, 2 * n))?;
            let turned = rope(&halves, cos, sin)?.reshape((tokens, heads, 2, n))?;
            turned.transpose(2, 3)?.reshape((tokens, heads, 2 * n))?
        }
    };
    Ok(if 2 * n == dim { turned } else { Tensor::cat(&[turned, x.narrow(2, 2 * n, dim - 2 * n)?], 2)? })
}

pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f32) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?.broadcast_mul(w)?.broadcast_add(b)?)
}

pub fn activate(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
    })
}

pub fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    Ok(((x / cap)?.tanh()? * cap)?)
}

/// As [`super::capped_head::capped_cross_entropy`], all rows at once.
pub fn capped_cross_entropy(
    h: &Tensor,
    w: &Tensor,
    targets: &[u32],
    scale: f32,
    want: Gradients,
    cap: f32,
) -> Result<CrossEntropy> {
    let loss = |h: &Tensor, w: &Tensor| -> Result<Tensor> {
        let targets = Tensor::new(targets, h.device())?;
        let logits = softcap(&h.matmul(&w.t()?)?.to_dtype(DType::F32)?, cap)?;
        let log = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        Ok(log.gather(&targets.unsqueeze(1)?, 1)?.sum_all()?.neg()?)
    };
    let sum = f64::from(loss(h, w)?.to_scalar::<f32>()?);
    if want == Gradients::None {
        return Ok(CrossEntropy { sum, hidden: None, weight: None });
    }
    let dy = Tensor::new(scale, h.device())?;
    let [dh, dw] = gradients([h, w], &dy, |[h, w]| loss(h, w))?;
    Ok(CrossEntropy { sum, hidden: Some(dh), weight: (want == Gradients::HiddenAndWeight).then_some(dw) })
}
