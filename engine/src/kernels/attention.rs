//! Causal attention with grouped queries over packed sequences, by tiles of queries: the score matrix of a whole
//! sequence never exists, and the backward pass computes its tiles again.

use super::{
    activation::exp,
    device, floats,
    matmul::{Matrix, gemm},
    norm::sum,
    on_cpu,
};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// Queries of one tile.
const TILE: usize = 64;

/// One sequence: its rows of q, and its rows of k and v. The last query sits at the position of the last key, so that
/// with a cache there may be more keys than queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    /// Scores are multiplied by it, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// A query sees this many keys, itself included.
    pub window: Option<usize>,
}

impl Shape {
    /// Local keys that local query `row` sees, when `ahead` keys come before the first query.
    fn visible(&self, ahead: usize, row: usize) -> Range<usize> {
        let end = ahead + row + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }
}

/// q (tokens, heads, dim), k and v (keys, kv_heads, dim) → (tokens, heads · dim).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], shape: Shape) -> Result<Tensor> {
    if !on_cpu(q) {
        return device::attention(q, k, v, spans, shape);
    }
    let (qs, ks, vs) = (floats(q)?, floats(k)?, floats(v)?);
    let (q_width, dim, group) = (shape.heads * shape.dim, shape.dim, shape.heads / shape.kv_heads);
    let tasks: Vec<_> = spans.iter().flat_map(|s| (0..shape.kv_heads).map(move |h| (s, h))).collect();
    let parts: Vec<Vec<f32>> = tasks
        .par_iter()
        .map(|(span, kv)| {
            let part = Part { q: &qs, k: &ks, kv: *kv, span, shape };
            let mut out = vec![0.0; group * span.queries.len() * dim];
            let mut scores = vec![0.0; TILE * span.keys.len()];
            for (j, out) in out.chunks_mut((span.queries.len() * dim).max(1)).enumerate() {
                for start in (0..span.queries.len()).step_by(TILE) {
                    let rows = start..(start + TILE).min(span.queries.len());
                    let keys = part.probabilities(j, rows.clone(), &mut scores);
                    let (a, b) = (Matrix::rows(&scores, keys.len()), part.rows(&vs, keys.start));
                    gemm(rows.len(), keys.len(), dim, a, b, &mut out[rows.start * dim..], dim, 1.0, false, false);
                }
            }
            out
        })
        .collect();
    let mut y = vec![0.0; q.elem_count()];
    for ((span, kv), part) in tasks.iter().zip(&parts) {
        scatter(&mut y, q_width, span.queries.clone(), kv * group * dim, dim, part);
    }
    Ok(Tensor::from_vec(y, (q.dim(0)?, q_width), q.device())?)
}

/// Gradients of q, k and v, in their shapes; dy is (tokens, heads · dim).
pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    dy: &Tensor,
    spans: &[Span],
    shape: Shape,
) -> Result<(Tensor, Tensor, Tensor)> {
    if !on_cpu(q) {
        return device::attention_backward(q, k, v, dy, spans, shape);
    }
    let (qs, ks, vs, ds) = (floats(q)?, floats(k)?, floats(v)?, floats(dy)?);
    let (q_width, kv_width, dim) = (shape.heads * shape.dim, shape.kv_heads * shape.dim, shape.dim);
    let group = shape.heads / shape.kv_heads;
    let tasks: Vec<_> = spans.iter().flat_map(|s| (0..shape.kv_heads).map(move |h| (s, h))).collect();
    let parts: Vec<[Vec<f32>; 3]> = tasks
        .par_iter()
        .map(|(span, kv)| {
            let part = Part { q: &qs, k: &ks, kv: *kv, span, shape };
            let (nq, nk) = (span.queries.len(), span.keys.len());
            let (mut dq, mut dk, mut dv) = (vec![0.0; group * nq * dim], vec![0.0; nk * dim], vec![0.0; nk * dim]);
            let (mut scores, mut dscores) = (vec![0.0; TILE * nk], vec![0.0; TILE * nk]);
            for (j, dq) in dq.chunks_mut((nq * dim).max(1)).enumerate() {
                for start in (0..nq).step_by(TILE) {
                    let rows = start..(start + TILE).min(nq);
                    let keys = part.probabilities(j, rows.clone(), &mut scores);
                    let (n, m) = (keys.len(), rows.len());
                    let dy = &ds[(span.queries.start + rows.start) * q_width + (kv * group + j) * dim..];
                    let (dy, q) = (Matrix::rows(dy, q_width), part.query(j, rows.start));
                    gemm(m, dim, n, dy, part.columns(&vs, keys.start), &mut dscores, n, 1.0, false, false);
                    for (p, d) in scores[..m * n].chunks(n).zip(dscores.chunks_mut(n)) {
                        let dot = sum(n, |i| p[i] * d[i]);
                        d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - dot) * shape.scale);
                    }
                    let (p, d) = (Matrix::columns(&scores, n), Matrix::rows(&dscores, n));
                    gemm(m, n, dim, d, part.rows(&ks, keys.start), &mut dq[rows.start * dim..], dim, 1.0, false, false);
                    gemm(
                        n,
                        m,
                        dim,
                        Matrix::columns(&dscores, n),
                        q,
                        &mut dk[keys.start * dim..],
                        dim,
                        1.0,
                        true,
                        false,
                    );
                    gemm(n, m, dim, p, dy, &mut dv[keys.start * dim..], dim, 1.0, true, false);
                }
            }
            [dq, dk, dv]
        })
        .collect();
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.elem_count()], vec![0.0; k.elem_count()], vec![0.0; v.elem_count()]);
    for ((span, kv), [q, k, v]) in tasks.iter().zip(&parts) {
        scatter(&mut dq, q_width, span.queries.clone(), kv * group * dim, dim, q);
        scatter(&mut dk, kv_width, span.keys.clone(), kv * dim, dim, k);
        scatter(&mut dv, kv_width, span.keys.clone(), kv * dim, dim, v);
    }
    let like = |v, t: &Tensor| Tensor::from_vec(v, t.shape(), t.device());
    Ok((like(dq, q)?, like(dk, k)?, like(dv, v)?))
}

/// One sequence and one key/value head.
struct Part<'a> {
    q: &'a [f32],
    k: &'a [f32],
    kv: usize,
    span: &'a Span,
    shape: Shape,
}

impl<'a> Part<'a> {
    /// Query rows from local row `start` of the group's head `j`.
    fn query(&self, j: usize, start: usize) -> Matrix<'a> {
        let (width, group) = (self.shape.heads * self.shape.dim, self.shape.heads / self.shape.kv_heads);
        let head = self.kv * group + j;
        Matrix::rows(&self.q[(self.span.queries.start + start) * width + head * self.shape.dim..], width)
    }

    /// Rows of k or v from local key `start`.
    fn rows<'b>(&self, values: &'b [f32], start: usize) -> Matrix<'b> {
        let width = self.shape.kv_heads * self.shape.dim;
        Matrix::rows(&values[(self.span.keys.start + start) * width + self.kv * self.shape.dim..], width)
    }

    /// Their transpose.
    fn columns<'b>(&self, values: &'b [f32], start: usize) -> Matrix<'b> {
        let Matrix { values, row_stride, .. } = self.rows(values, start);
        Matrix::columns(values, row_stride)
    }

    /// Attention probabilities of local query rows, written row by row with the width of the returned range: the
    /// local keys that any of them sees.
    fn probabilities(&self, j: usize, rows: Range<usize>, out: &mut [f32]) -> Range<usize> {
        let ahead = self.span.keys.len() - self.span.queries.len();
        let keys = self.shape.visible(ahead, rows.start).start..self.shape.visible(ahead, rows.end - 1).end;
        let (n, dim) = (keys.len(), self.shape.dim);
        let (q, k) = (self.query(j, rows.start), self.columns(self.k, keys.start));
        gemm(rows.len(), dim, n, q, k, out, n, self.shape.scale, false, false);
        for (row, scores) in rows.zip(out.chunks_mut(n)) {
            let seen = self.shape.visible(ahead, row);
            let (from, to) = (seen.start - keys.start, seen.end - keys.start);
            softmax(&mut scores[from..to]);
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
        }
        keys
    }
}

pub(crate) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|v| *v = exp(*v - max));
    let inverse = 1.0 / sum(x.len(), |i| x[i]);
    x.iter_mut().for_each(|v| *v *= inverse);
}

/// Writes heads (group, rows, dim) into their columns of (tokens, width).
fn scatter(out: &mut [f32], width: usize, rows: Range<usize>, column: usize, dim: usize, part: &[f32]) {
    for (j, head) in part.chunks((rows.len() * dim).max(1)).enumerate() {
        for (row, values) in rows.clone().zip(head.chunks(dim)) {
            out[row * width + column + j * dim..][..dim].copy_from_slice(values);
        }
    }
}
