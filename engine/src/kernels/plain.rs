//! The kernels in their plainest form, as operations that candle can differentiate: the oracle of the tests.

use super::{
    attention::{Shape, Span},
    composed::softcap,
    device::gradients,
    head::{CrossEntropy, Scale},
};
use crate::Result;
use candle_core::{D, Tensor};

pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(w)?)
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

/// `-log p(target)` of each row.
pub fn losses(h: &Tensor, w: &Tensor, targets: &[u32], cap: Option<f32>) -> Result<Tensor> {
    let targets = Tensor::new(targets, h.device())?;
    let logits = h.matmul(&w.t()?)?;
    let logits = cap.map_or(Ok(logits.clone()), |cap| softcap(&logits, cap))?;
    let log = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
    Ok(log.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?.neg()?)
}

/// As [`super::head::cross_entropy`], all rows at once and every gradient.
pub fn cross_entropy(h: &Tensor, w: &Tensor, targets: &[u32], scale: Scale, cap: Option<f32>) -> Result<CrossEntropy> {
    let dy = Tensor::new(scale.part(0, targets.len()), h.device())?;
    let [dh, dw] = gradients([h, w], &dy, |[h, w]| losses(h, w, targets, cap))?;
    Ok(CrossEntropy { losses: losses(h, w, targets, cap)?.to_vec1()?, hidden: Some(dh), weight: Some(dw) })
}
