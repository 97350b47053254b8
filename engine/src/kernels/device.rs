//! The kernels as candle's own operations, for devices other than the CPU. Their backward passes are written by hand:
//! no graph, no gradient of a frozen weight, nothing read back in between but the loss.
//!
//! Activations and weights are bf16 or float32. Products of the head are made in the type of the activation; norms,
//! rotations, gates, softmax and attention in float32, whatever comes in. A result has the type of the activation that
//! it was made of, the gradient of a weight is always float32. The products of linears stand in `matmul`.

mod attention;
#[cfg(test)]
mod tests;

pub use attention::{attention, attention_backward};

use super::{
    activation::Activation,
    composed,
    head::{CrossEntropy, Gradients, Outlook, Scale},
};
use crate::{Error, Result};
use candle_core::{D, DType, Tensor, Var};
use candle_nn::{ops, rotary_emb};

/// Logits that exist at a time in [`cross_entropy`]: 256 MB.
const LOGITS: usize = 1 << 26;

/// x (…, dim), w (dim) → the shape of x.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let y = ops::rms_norm(&float(x)?.contiguous()?, &float(w)?, eps)?;
    Ok(y.to_dtype(x.dtype())?)
}

/// Gradients of [`rms_norm`]: of x, and of w (float32) if `weight`.
pub fn rms_norm_backward(
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    eps: f32,
    weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (like, dim) = (x.dtype(), w.elem_count());
    let (x, dy) = (float(x)?, float(dy)?);
    let r = ((x.sqr()?.sum_keepdim(D::Minus1)? / dim as f64)? + f64::from(eps))?.sqrt()?.recip()?;
    let g = dy.broadcast_mul(&float(w)?)?;
    // dx = r g - x r³ (g · x) / dim
    let dot = ((&g * &x)?.sum_keepdim(D::Minus1)? * (r.sqr()? * &r)?)?;
    let dx = (g.broadcast_mul(&r)? - x.broadcast_mul(&(dot / dim as f64)?)?)?;
    let dw = weight.then(|| (dy * x.broadcast_mul(&r)?)?.reshape(((), dim))?.sum(0)).transpose()?;
    Ok((dx.to_dtype(like)?, dw))
}

/// Rotates the first `2 n` values of each head of x (tokens, heads, dim) by the angles whose cosine and sine are
/// (tokens, n).
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, interleaved: bool) -> Result<Tensor> {
    let (like, x) = (x.dtype(), float(x)?.contiguous()?);
    let (cos, sin) = (float(cos)?.contiguous()?, float(sin)?.contiguous()?);
    let y = match interleaved || 2 * cos.dim(1)? < x.dim(2)? {
        true => composed::rope(&x, &cos, &sin, interleaved)?,
        false => rotary_emb::rope_thd(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0)?,
    };
    Ok(y.to_dtype(like)?)
}

/// `activation(gate) * up`.
pub fn gated(kind: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok((composed::activate(kind, &float(gate)?)? * float(up)?)?.to_dtype(gate.dtype())?)
}

/// Gradients of gate and up.
pub fn gated_backward(kind: Activation, gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let like = gate.dtype();
    let (g, u, dy) = (float(gate)?, float(up)?, float(dy)?);
    if kind != Activation::Silu {
        let [dg, du] = gradients([&g, &u], &dy, |[g, u]| Ok((composed::activate(kind, g)? * u)?))?;
        return Ok((dg.to_dtype(like)?, du.to_dtype(like)?));
    }
    let s = ops::sigmoid(&g)?;
    let silu = (&g * &s)?;
    let du = (&dy * &silu)?;
    // silu' = s + silu (1 - s)
    let slope = ((&s + &silu)? - (&silu * &s)?)?;
    let dg = ((dy * u)? * slope)?;
    Ok((dg.to_dtype(like)?, du.to_dtype(like)?))
}

/// As [`super::head::cross_entropy`]: logits, and in their place their gradient, exist for a chunk of rows only.
pub fn cross_entropy(
    h: &Tensor,
    w: &Tensor,
    targets: &[u32],
    scale: Scale,
    cap: Option<f32>,
    want: Gradients,
) -> Result<CrossEntropy> {
    cross_entropy_by(h, w, targets, scale, cap, want, (LOGITS / w.dim(0)?.max(1)).clamp(16, 8192))
}

/// As [`super::head::outlook`], by chunks of rows.
pub fn outlook(h: &Tensor, w: &Tensor, targets: &[u32], cap: Option<f32>) -> Result<Outlook> {
    let (rows, chunk) = (h.dim(0)?, (LOGITS / w.dim(0)?.max(1)).clamp(16, 8192));
    let w = w.to_dtype(h.dtype())?.t()?;
    let targets = Tensor::new(targets, h.device())?.unsqueeze(1)?;
    let mut found = Outlook::default();
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let mut logits = float(&h.narrow(0, start, n)?.matmul(&w)?)?;
        if let Some(cap) = cap {
            logits = composed::softcap(&logits, cap)?;
        }
        let log_probs = ops::log_softmax(&logits, D::Minus1)?;
        let entropies = (log_probs.exp()? * &log_probs)?.sum(D::Minus1)?.neg()?;
        let chosen = log_probs.gather(&targets.narrow(0, start, n)?, 1)?.squeeze(1)?;
        found.log_probs.extend(chosen.to_vec1::<f32>()?);
        found.entropies.extend(entropies.to_vec1::<f32>()?);
    }
    Ok(found)
}

fn cross_entropy_by(
    h: &Tensor,
    w: &Tensor,
    targets: &[u32],
    scale: Scale,
    cap: Option<f32>,
    want: Gradients,
    chunk: usize,
) -> Result<CrossEntropy> {
    let (rows, like) = (h.dim(0)?, h.dtype());
    let w = w.to_dtype(like)?;
    let targets = Tensor::new(targets, h.device())?.unsqueeze(1)?;
    let (mut losses, mut dh, mut dw) = (Vec::new(), Vec::new(), None::<Tensor>);
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let (h, targets) = (h.narrow(0, start, n)?, targets.narrow(0, start, n)?);
        let mut logits = float(&h.matmul(&w.t()?)?)?;
        let mut slope = None;
        if let Some(cap) = cap {
            let t = (logits / f64::from(cap))?.tanh()?;
            slope = Some((1.0 - t.sqr()?)?);
            logits = (t * f64::from(cap))?;
        }
        let max = logits.max_keepdim(1)?;
        let at_target = logits.gather(&targets, 1)?;
        let exp = logits.broadcast_sub(&max)?.exp()?;
        drop(logits);
        let z = exp.sum_keepdim(1)?;
        losses.push(((z.log()? + max)? - at_target)?.squeeze(1)?);
        if want == Gradients::None {
            continue;
        }
        // d = scale * (softmax - onehot)
        let scales = Tensor::from_vec(scale.part(start, n), (n, 1), h.device())?;
        let d = exp.broadcast_mul(&(z.recip()? * &scales)?)?;
        drop(exp);
        d.scatter_add_set(&targets, &scales.neg()?, 1)?;
        let d = slope.map_or(Ok(d.clone()), |slope| d * slope)?.to_dtype(like)?;
        dh.push(d.matmul(&w)?);
        if want == Gradients::HiddenAndWeight {
            let part = float(&d.t()?.matmul(&h)?)?;
            dw = Some(match dw {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
    }
    // All that is read back.
    let losses = if rows == 0 { Vec::new() } else { Tensor::cat(&losses, 0)?.to_vec1()? };
    let hidden = (!dh.is_empty()).then(|| Tensor::cat(&dh, 0)).transpose()?;
    Ok(CrossEntropy { losses, hidden, weight: dw })
}

/// The float32 of a tensor; itself if it is that already.
pub(crate) fn float(t: &Tensor) -> Result<Tensor> {
    Ok(t.to_dtype(DType::F32)?)
}

/// Gradients of `f`'s inputs by candle's autograd, given that of its output: makes a backward pass of any function
/// that candle can differentiate.
pub fn gradients<const N: usize>(
    inputs: [&Tensor; N],
    dy: &Tensor,
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let found = gradients_of(&inputs.map(Tensor::clone), dy, |inputs| f(std::array::from_fn(|i| &inputs[i])))?;
    found.try_into().map_err(|_| Error::Internal("a gradient is missing".into()))
}

/// As [`gradients`], of any number of inputs.
pub fn gradients_of(inputs: &[Tensor], dy: &Tensor, f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(&t.copy()?)).collect::<candle_core::Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let grads = (f(&tensors)? * dy)?.sum_all()?.backward()?;
    let found =
        |var: &Var| grads.get(var).cloned().ok_or_else(|| Error::Internal("no gradient reached an input".into()));
    vars.iter().map(found).collect()
}
