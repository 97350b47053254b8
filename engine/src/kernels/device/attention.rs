//! Causal attention by tiles of queries, in float32. All heads of all sequences of equal length go through one batched
//! product; a group of queries that shares a key stands in its rows, so that keys and values are never repeated.

use super::float;
use crate::{
    Error, Result,
    kernels::attention::{Shape, Span},
};
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Scores that exist at a time: 256 MB, and as much again for their gradient.
const SCORES: usize = 1 << 26;
/// Added to the score of a key that is not seen, for each position that it lies too far.
const UNSEEN: f64 = -1e9;

/// q (tokens, heads, dim), k and v (keys, kv_heads, dim) → (tokens, heads · dim).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], shape: Shape) -> Result<Tensor> {
    attention_by(q, k, v, spans, shape, SCORES)
}

/// Gradients of q, k and v, in their shapes; dy is (tokens, heads · dim). The spans cover all keys.
pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dy: &Tensor,
    spans: &[Span],
    shape: Shape,
) -> Result<(Tensor, Tensor, Tensor)> {
    attention_backward_by(q, k, v, dy, spans, shape, SCORES)
}

pub(super) fn attention_by(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    shape: Shape,
    scores: usize,
) -> Result<Tensor> {
    prefer_tensor_cores(q.dtype());
    let mut parts = Vec::new();
    for run in runs(spans, shape) {
        let (k, v) = (run.keys(k)?, run.keys(v)?);
        let mut tiles = Vec::new();
        for rows in run.tiles(scores) {
            let (p, keys, _) = run.probabilities(&run.queries(q, &rows, shape.scale)?, &k, &rows)?;
            tiles.push(run.tokens(&p.matmul(&v.narrow(1, keys.start, keys.len())?)?, rows.len())?);
        }
        parts.push(cat(tiles, 1)?.reshape((run.count * run.queries, shape.heads * shape.dim))?);
    }
    Ok(cat(parts, 0)?.to_dtype(q.dtype())?)
}

pub(super) fn attention_backward_by(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dy: &Tensor,
    spans: &[Span],
    shape: Shape,
    scores: usize,
) -> Result<(Tensor, Tensor, Tensor)> {
    prefer_tensor_cores(q.dtype());
    let dy = dy.reshape(q.shape())?;
    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs(spans, shape) {
        let (k, v) = (run.keys(k)?, run.keys(v)?);
        let (mut tiles, mut dk, mut dv) = (Vec::new(), None, None);
        for rows in run.tiles(scores) {
            let (q, dy) = (run.queries(q, &rows, shape.scale)?, run.queries(&dy, &rows, 1.0)?);
            let (p, keys, slope) = run.probabilities(&q, &k, &rows)?;
            let (k, v) = (k.narrow(1, keys.start, keys.len())?, v.narrow(1, keys.start, keys.len())?);
            // The sum over keys of p dp is the product of dy with the output.
            let dot = (p.matmul(&v)? * &dy)?.sum_keepdim(2)?;
            let mut ds = (dy.matmul(&v.t()?)?.broadcast_sub(&dot)? * &p)?;
            if let Some(slope) = slope {
                ds = (ds * slope)?;
            }
            tiles.push(run.tokens(&(ds.matmul(&k)? * f64::from(shape.scale))?, rows.len())?);
            dk = Some(run.add(dk, ds.t()?.matmul(&q)?, keys.start)?);
            dv = Some(run.add(dv, p.t()?.matmul(&dy)?, keys.start)?);
        }
        dqs.push(cat(tiles, 1)?.reshape((run.count * run.queries, shape.heads, shape.dim))?);
        dks.extend(dk.map(|dk| run.rows(&dk)).transpose()?);
        dvs.extend(dv.map(|dv| run.rows(&dv)).transpose()?);
    }
    let whole = |parts: Vec<Tensor>, like: &Tensor| -> Result<Tensor> { Ok(cat(parts, 0)?.to_dtype(like.dtype())?) };
    Ok((whole(dqs, q)?, whole(dks, k)?, whole(dvs, v)?))
}

/// Products of values that came in bf16 are made by tensor cores: TF32 holds more of their digits than they have.
fn prefer_tensor_cores(like: DType) {
    #[cfg(feature = "cuda")]
    if like == DType::BF16 {
        candle_core::cuda_backend::set_gemm_reduced_precision_f32(true);
    }
    #[cfg(not(feature = "cuda"))]
    let _ = like;
}

/// Spans of equal length that follow one another.
struct Run {
    first_query: usize,
    first_key: usize,
    count: usize,
    /// Of each span.
    queries: usize,
    keys: usize,
    shape: Shape,
}

fn runs(spans: &[Span], shape: Shape) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for span in spans.iter().filter(|span| !span.queries.is_empty()) {
        let (queries, keys) = (span.queries.len(), span.keys.len());
        match runs.last_mut() {
            Some(run)
                if (run.queries, run.keys) == (queries, keys)
                    && run.first_query + run.count * queries == span.queries.start
                    && run.first_key + run.count * keys == span.keys.start =>
            {
                run.count += 1;
            }
            _ => runs.push(Run {
                first_query: span.queries.start,
                first_key: span.keys.start,
                count: 1,
                queries,
                keys,
                shape,
            }),
        }
    }
    runs
}

impl Run {
    /// Ranges of queries whose scores are about `scores` in all.
    fn tiles(&self, scores: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (total, rows) = (self.queries, scores / (self.count * self.shape.heads * self.keys).max(1));
        let rows = if rows >= total { total } else { (rows / 64 * 64).max(64) };
        (0..total).step_by(rows).map(move |start| start..(start + rows).min(total))
    }

    /// Rows of q or dy as (count · kv_heads, group · rows, dim), times `scale`.
    fn queries(&self, t: &Tensor, rows: &Range<usize>, scale: f32) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let (m, group) = (rows.len(), heads / kv_heads);
        let t = t.narrow(0, self.first_query, self.count * self.queries)?;
        let t = t.reshape((self.count, self.queries, kv_heads, group, dim))?.narrow(1, rows.start, m)?;
        let t = float(&t.permute((0, 2, 3, 1, 4))?)?.contiguous()?;
        let t = t.reshape((self.count * kv_heads, group * m, dim))?;
        Ok(if scale == 1.0 { t } else { (t * f64::from(scale))? })
    }

    /// The opposite: (count, rows, heads · dim).
    fn tokens(&self, t: &Tensor, rows: usize) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let t = t.reshape((self.count, kv_heads, heads / kv_heads, rows, dim))?;
        Ok(t.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((self.count, rows, heads * dim))?)
    }

    /// k or v as (count · kv_heads, keys, dim).
    fn keys(&self, t: &Tensor) -> Result<Tensor> {
        let Shape { kv_heads, dim, .. } = self.shape;
        let t = t.narrow(0, self.first_key, self.count * self.keys)?;
        let t = t.reshape((self.count, self.keys, kv_heads, dim))?.transpose(1, 2)?;
        Ok(float(&t)?.contiguous()?.reshape((self.count * kv_heads, self.keys, dim))?)
    }

    /// The opposite: (count · keys, kv_heads, dim).
    fn rows(&self, t: &Tensor) -> Result<Tensor> {
        let Shape { kv_heads, dim, .. } = self.shape;
        let t = t.reshape((self.count, kv_heads, self.keys, dim))?.transpose(1, 2)?;
        Ok(t.contiguous()?.reshape((self.count * self.keys, kv_heads, dim))?)
    }

    /// Adds what a tile gives for the keys from `start` on.
    fn add(&self, sum: Option<Tensor>, part: Tensor, start: usize) -> Result<Tensor> {
        let part = part.pad_with_zeros(1, start, self.keys - start - part.dim(1)?)?;
        Ok(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        })
    }

    /// Probabilities (count · kv_heads, group · rows, keys) of scaled queries over the keys that any of them sees, those
    /// keys, and the slopes of capped scores.
    fn probabilities(
        &self,
        q: &Tensor,
        k: &Tensor,
        rows: &Range<usize>,
    ) -> Result<(Tensor, Range<usize>, Option<Tensor>)> {
        let (ahead, m) = (self.keys - self.queries, rows.len());
        let (first, last) = (self.shape.visible(ahead, rows.start), self.shape.visible(ahead, rows.end - 1));
        let (keys, n) = (first.start..last.end, last.end - first.start);
        let mut scores = q.matmul(&k.narrow(1, keys.start, n)?.t()?)?;
        let mut slope = None;
        if let Some(cap) = self.shape.softcap {
            let tanh = (scores / f64::from(cap))?.tanh()?;
            // 1 - tanh²
            slope = Some(tanh.sqr()?.affine(-1.0, 1.0)?);
            scores = (tanh * f64::from(cap))?;
        }
        if first != last {
            let (b, group) = (scores.dim(0)?, self.shape.heads / self.shape.kv_heads);
            let at = |range: Range<usize>| positions(range, q.device());
            let (queries, keys) = (at(ahead + rows.start..ahead + rows.end)?, at(keys.clone())?);
            let later = keys.unsqueeze(0)?.broadcast_sub(&queries.unsqueeze(1)?)?;
            let mut mask = (later.relu()? * UNSEEN)?;
            if let Some(window) = self.shape.window {
                let earlier = ((later.neg()? + (1.0 - window as f64))?.relu()? * UNSEEN)?;
                mask = (mask + earlier)?;
            }
            scores = scores.reshape((b, group, m, n))?.broadcast_add(&mask)?.reshape((b, group * m, n))?;
        }
        Ok((softmax_last_dim(&scores)?, keys, slope))
    }
}

fn cat(parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    match parts.as_slice() {
        [] => Err(Error::Internal("attention over no tokens".into())),
        [one] => Ok(one.clone()),
        parts => Ok(Tensor::cat(parts, dim)?),
    }
}

/// The numbers of a range, in float32. They lie ready on each device: nothing is uploaded in a layer.
fn positions(range: Range<usize>, device: &Device) -> Result<Tensor> {
    static READY: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let place = ready.iter().position(|t| t.device().same_device(device));
    let enough = place.filter(|i| ready[*i].elem_count() >= range.end);
    let all = match enough {
        Some(i) => ready[i].clone(),
        None => {
            let count = range.end.next_power_of_two().max(4096) as u32;
            let all = Tensor::arange(0, count, device)?.to_dtype(DType::F32)?;
            ready.retain(|t| !t.device().same_device(device));
            ready.push(all.clone());
            all
        }
    };
    Ok(all.narrow(0, range.start, range.len())?)
}
