//! The kernels in their plainest form, as operations that candle can differentiate: the oracle of the tests.

use super::{
    attention::{Shape, Span},
    composed::softcap,
    head::{CrossEntropy, Gradients},
};
use crate::{Error, Result};
use candle_core::{D, DType, Tensor, Var};

pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(w)?)
}

pub fn rms_norm_backward(
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    eps: f32,
    weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let [dx, dw] = gradients([x, w], dy, |[x, w]| rms_norm(x, w, eps))?;
    Ok((dx, weight.then_some(dw)))
}

/// x (tokens, heads, dim), cos and sin (tokens, dim / 2).
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Ok(Tensor::cat(&[first, second], 2)?)
}

pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok((gate.silu()? * up)?)
}

pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let [dg, du] = gradients([gate, up], dy, |[g, u]| swiglu(g, u))?;
    Ok((dg, du))
}

/// q (tokens, heads, dim), k and v (keys, kv_heads, dim) → (tokens, heads · dim), with a score matrix for each span.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], shape: Shape) -> Result<Tensor> {
    let group = shape.heads / shape.kv_heads;
    let heads_first = |t: &Tensor, rows: &std::ops::Range<usize>| -> Result<Tensor> {
        Ok(t.narrow(0, rows.start, rows.len())?.transpose(0, 1)?.contiguous()?)
    };
    let repeat = |t: Tensor| -> Result<Tensor> {
        let (h, n, d) = t.dims3()?;
        Ok(t.unsqueeze(1)?.expand((h, group, n, d))?.contiguous()?.reshape((h * group, n, d))?)
    };
    let mut parts = Vec::new();
    for span in spans {
        let (nq, nk) = (span.queries.len(), span.keys.len());
        let (q, k, v) = (
            heads_first(q, &span.queries)?,
            repeat(heads_first(k, &span.keys)?)?,
            repeat(heads_first(v, &span.keys)?)?,
        );
        let mask: Vec<f32> = (0..nq * nk)
            .map(|i| {
                let (query, key) = (i / nk + nk - nq, i % nk);
                let seen = key <= query && shape.window.is_none_or(|w| query - key < w);
                if seen { 0.0 } else { f32::NEG_INFINITY }
            })
            .collect();
        let mask = Tensor::from_vec(mask, (1, nq, nk), q.device())?.to_dtype(q.dtype())?;
        let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(shape.scale))?;
        let scores = shape.softcap.map_or(Ok(scores.clone()), |cap| softcap(&scores, cap))?.broadcast_add(&mask)?;
        let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        parts.push(out.transpose(0, 1)?.contiguous()?.reshape((nq, shape.heads * shape.dim))?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dy: &Tensor,
    spans: &[Span],
    shape: Shape,
) -> Result<(Tensor, Tensor, Tensor)> {
    let [dq, dk, dv] = gradients([q, k, v], dy, |[q, k, v]| attention(q, k, v, spans, shape))?;
    Ok((dq, dk, dv))
}

/// As [`super::head::cross_entropy`], all rows at once.
pub fn cross_entropy(h: &Tensor, w: &Tensor, targets: &[u32], scale: f32, want: Gradients) -> Result<CrossEntropy> {
    let loss = |h: &Tensor, w: &Tensor| -> Result<Tensor> {
        let targets = Tensor::new(targets, h.device())?;
        let log = candle_nn::ops::log_softmax(&h.matmul(&w.t()?)?.to_dtype(DType::F32)?, D::Minus1)?;
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

/// Gradients of `f`'s inputs by candle's autograd, given that of its output: makes a backward pass of any function
/// that candle can differentiate.
pub fn gradients<const N: usize>(
    inputs: [&Tensor; N],
    dy: &Tensor,
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(&t.copy()?)).collect::<candle_core::Result<_>>()?;
    let tensors: [&Tensor; N] = std::array::from_fn(|i| vars[i].as_tensor());
    let grads = (f(tensors)? * dy)?.sum_all()?.backward()?;
    let found: Vec<Tensor> = vars
        .iter()
        .map(|v| grads.get(v).cloned().ok_or_else(|| Error::Internal("no gradient reached an input".into())))
        .collect::<Result<_>>()?;
    found.try_into().map_err(|_| Error::Internal("a gradient is missing".into()))
}
