//! Causal attention with grouped queries over packed sequences, by tiles of queries: the score matrix of a whole
//! sequence never exists, and the backward pass computes its tiles again (Dao et al., 2022).

use super::{
    device,
    dots::block,
    lanes::{dot, exponentials, largest, tanh},
    on_cpu,
    packed::{
        Line, Matrix, Packed, Pair, Panels, Target, Unit, multiply, pack_panels, pack_rows, panel_lines, row_lines,
    },
    values::{Element, Values, each, hold, room, simd, typed},
};
use crate::Result;
use candle_core::{Shape as TensorShape, Tensor};
use rayon::prelude::*;
use std::ops::Range;

mod paged;

pub use paged::{Paged, paged};

/// Queries up to which nothing is packed.
const FEW: usize = 4;

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
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl Shape {
    /// Local keys that local query `row` sees, when `ahead` keys come before the first query.
    pub(super) fn visible(&self, ahead: usize, row: usize) -> Range<usize> {
        let end = ahead + row + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }
}

/// q (tokens, heads, dim), k and v (keys, kv_heads, dim) → (tokens, heads · dim), all of one type.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], shape: Shape) -> Result<Tensor> {
    if !on_cpu(q) {
        return device::attention(q, k, v, spans, shape);
    }
    let (qs, ks, vs) = (hold(q)?, hold(k)?, hold(v)?);
    let (tokens, width) = (q.dim(0)?, shape.heads * shape.dim);
    typed!(q.dtype(), T => {
        let mut y = room::<T>(tokens * width);
        let to = T::target(&mut y, width, false);
        parts(spans, shape).par_iter().for_each(|(span, kv)| {
            Part::new(qs.values(), ks.values(), vs.values(), *kv, span, shape, Unit::new(q.dtype())).forward(to);
        });
        Ok(T::tensor(y, TensorShape::from((tokens, width)))?)
    })
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
    let (qs, ks, vs, ds) = (hold(q)?, hold(k)?, hold(v)?, hold(dy)?);
    let (width, kv_width) = (shape.heads * shape.dim, shape.kv_heads * shape.dim);
    typed!(q.dtype(), T => {
        let (mut dq, mut dk, mut dv) = (room::<T>(q.elem_count()), room::<T>(k.elem_count()), room::<T>(v.elem_count()));
        let to = [
            T::target(&mut dq, width, false),
            T::target(&mut dk, kv_width, false),
            T::target(&mut dv, kv_width, false),
        ];
        parts(spans, shape).par_iter().for_each(|(span, kv)| {
            Part::new(qs.values(), ks.values(), vs.values(), *kv, span, shape, Unit::new(q.dtype()))
                .backward(ds.values(), to);
        });
        let tensor = |values, like: &Tensor| T::tensor(values, like.shape().clone());
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    })
}

/// What can be done side by side: each sequence and key/value head, the longest first.
fn parts(spans: &[Span], shape: Shape) -> Vec<(&Span, usize)> {
    let mut parts: Vec<_> = spans.iter().flat_map(|s| (0..shape.kv_heads).map(move |h| (s, h))).collect();
    parts.sort_by_key(|(s, _)| std::cmp::Reverse(s.keys.len()));
    parts
}

/// One sequence and one key/value head.
struct Part<'a> {
    q: Values<'a>,
    k: Values<'a>,
    v: Values<'a>,
    kv: usize,
    span: &'a Span,
    shape: Shape,
    unit: Unit,
    /// Values of a row of k and v, and where in it those of the head begin.
    pitch: usize,
    column: usize,
}

impl<'a> Part<'a> {
    fn new(q: Values<'a>, k: Values<'a>, v: Values<'a>, kv: usize, span: &'a Span, shape: Shape, unit: Unit) -> Self {
        Part { q, k, v, kv, span, shape, unit, pitch: shape.kv_heads * shape.dim, column: kv * shape.dim }
    }

    fn forward(&self, to: Target) {
        if self.span.queries.len() <= FEW {
            return each!(self.q, q => each!(self.k, k => each!(self.v, v => self.forward_few(q, k, v, to))));
        }
        let (dim, unit, nk) = (self.shape.dim, self.unit, self.span.keys.len());
        let keys = self.panels(self.keys(self.k).transposed(), dim, nk);
        let values = self.panels(self.keys(self.v), nk, dim);
        let mut tile = Tile::new(self, unit);
        for head in self.heads() {
            for rows in self.tiles() {
                let seen = tile.probabilities(self, head, &rows, &keys);
                let (m, n) = (rows.len(), seen.len());
                let p = pack(&mut tile.lines, unit, Matrix::new(Values::F32(&tile.scores), n), m, n);
                let b = Panels { from: seen.start, ..Panels::all(&values, nk, dim) };
                let to = to.part(self.span.queries.start + rows.start, head * dim, m, dim);
                multiply(unit, &[Pair { a: Packed::all(p, n), b, depth: n }], unit.tiles(m), m, dim, to);
            }
        }
    }

    /// Without packing, which would cost more than it saves: the tokens of a generation.
    fn forward_few<Q: Element, K: Element, V: Element>(&self, q: &[Q], k: &[K], v: &[V], to: Target) {
        let (dim, width, shape, heads) = (self.shape.dim, self.pitch, self.shape, self.heads());
        let ahead = self.span.keys.len() - self.span.queries.len();
        let first = self.span.keys.start * width + self.column;
        let (mut scores, mut slopes, mut out) = (Vec::new(), Vec::new(), vec![0.0; dim]);
        for row in 0..self.span.queries.len() {
            let (seen, token) = (shape.visible(ahead, row), self.span.queries.start + row);
            let (start, n) = (first + seen.start * width, seen.len());
            // All heads that share these keys, so that they come from memory once.
            scores.resize(heads.len() * n, 0.0);
            let queries = &q[(token * shape.heads + heads.start) * dim..];
            block(queries, &k[start..], &mut scores, heads.len(), n, dim, width);
            for (head, scores) in heads.clone().zip(scores.chunks_mut(n)) {
                match shape.softcap {
                    None => softmax(scores, shape.scale),
                    Some(cap) => {
                        slopes.resize(n, 0.0);
                        cap_scores(scores, &mut slopes, shape.scale, cap);
                        softmax(scores, cap);
                    }
                }
                out.fill(0.0);
                weigh_rows(&mut out, scores, &v[start..], width);
                to.part(token, head * dim, 1, dim).write(0..1, dim, &out);
            }
        }
    }

    fn backward(&self, dy: Values, [to_q, to_k, to_v]: [Target; 3]) {
        let (dim, unit, nk) = (self.shape.dim, self.unit, self.span.keys.len());
        let keys_across = self.panels(self.keys(self.k).transposed(), dim, nk);
        let keys = self.panels(self.keys(self.k), nk, dim);
        let values_across = self.panels(self.keys(self.v).transposed(), dim, nk);
        let (mut dk, mut dv) = (vec![0.0; nk * dim], vec![0.0; nk * dim]);
        let mut tile = Tile::new(self, unit);
        let (mut dscores, mut lines, mut b) = (vec![0.0; self.most() * nk], Vec::new(), Vec::new());
        for head in self.heads() {
            for rows in self.tiles() {
                let seen = tile.probabilities(self, head, &rows, &keys_across);
                let (m, n) = (rows.len(), seen.len());
                let tiles = unit.tiles(m);
                let first = self.span.queries.start + rows.start;
                let dy = Matrix::new(dy, self.shape.heads * dim).at(first, head * dim);
                // d(probabilities) = dy vᵀ
                let a = pack(&mut lines, unit, dy, m, dim);
                let v = Panels { first: seen.start, ..Panels::all(&values_across, dim, nk) };
                let to = Target::f32(&mut dscores, n, false);
                multiply(unit, &[Pair { a: Packed::all(a, dim), b: v, depth: dim }], tiles.clone(), m, n, to);
                // dv += probabilitiesᵀ dy
                let p = Matrix::new(Values::F32(&tile.scores), n).transposed();
                let a = pack(&mut lines, unit, p, n, m);
                let dys = panels(&mut b, unit, dy, m, dim);
                let to = Target::f32(&mut dv, dim, true).part(seen.start, 0, n, dim);
                let pair = Pair { a: Packed::all(a, m), b: Panels::all(dys, m, dim), depth: m };
                multiply(unit, &[pair], unit.tiles(n), n, dim, to);
                for ((i, p), d) in tile.scores.chunks(n).take(m).enumerate().zip(dscores.chunks_mut(n)) {
                    softmax_backward(p, d, self.shape.scale);
                    if !tile.slopes.is_empty() {
                        d.iter_mut().zip(&tile.slopes[i * n..]).for_each(|(d, slope)| *d *= slope);
                    }
                }
                // dq = d(scores) k
                let d = Matrix::new(Values::F32(&dscores), n);
                let a = pack(&mut lines, unit, d, m, n);
                let k = Panels { from: seen.start, ..Panels::all(&keys, nk, dim) };
                multiply(
                    unit,
                    &[Pair { a: Packed::all(a, n), b: k, depth: n }],
                    tiles,
                    m,
                    dim,
                    to_q.part(first, head * dim, m, dim),
                );
                // dk += d(scores)ᵀ q
                let a = pack(&mut lines, unit, d.transposed(), n, m);
                let qs = panels(&mut b, unit, self.queries(head, rows.start), m, dim);
                let to = Target::f32(&mut dk, dim, true).part(seen.start, 0, n, dim);
                let pair = Pair { a: Packed::all(a, m), b: Panels::all(qs, m, dim), depth: m };
                multiply(unit, &[pair], unit.tiles(n), n, dim, to);
            }
        }
        let place = |to: Target| to.part(self.span.keys.start, self.kv * dim, nk, dim);
        place(to_k).write(0..nk, dim, &dk);
        place(to_v).write(0..nk, dim, &dv);
    }

    /// Query heads that share this key/value head.
    fn heads(&self) -> Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        self.kv * group..(self.kv + 1) * group
    }

    /// Queries of one tile: whole tiles of the products, about 60.
    fn most(&self) -> usize {
        if self.unit == Unit::AmxPair { 64 } else { 56 }
    }

    /// Local query rows of each tile.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n, most) = (self.span.queries.len(), self.most());
        (0..n).step_by(most).map(move |start| start..(start + most).min(n))
    }

    /// Queries of a head from local row `start`, (rows, dim).
    fn queries(&self, head: usize, start: usize) -> Matrix<'_> {
        let dim = self.shape.dim;
        Matrix::new(self.q, self.shape.heads * dim).at(self.span.queries.start + start, head * dim)
    }

    /// The sequence's rows of k or v, (keys, dim).
    fn keys<'b>(&self, values: Values<'b>) -> Matrix<'b> {
        Matrix::new(values, self.pitch).at(self.span.keys.start, self.column)
    }

    fn panels(&self, b: Matrix, depth: usize, columns: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        panels(&mut lines, self.unit, b, depth, columns);
        lines
    }

    /// Local keys that queries `rows` see, from a whole panel on.
    fn seen(&self, rows: &Range<usize>) -> Range<usize> {
        let ahead = self.span.keys.len() - self.span.queries.len();
        let start = self.shape.visible(ahead, rows.start).start / 32 * 32;
        start..self.shape.visible(ahead, rows.end - 1).end
    }
}

/// Room for one tile of queries.
struct Tile {
    /// Scores, then probabilities: (queries, keys seen).
    scores: Vec<f32>,
    /// Derivative of the cap, where scores are capped.
    slopes: Vec<f32>,
    lines: Vec<Line>,
    unit: Unit,
}

impl Tile {
    fn new(part: &Part, unit: Unit) -> Self {
        let n = part.most().min(part.span.queries.len()) * part.span.keys.len();
        let slopes = vec![0.0; if part.shape.softcap.is_some() { n } else { 0 }];
        Self { scores: room(n), slopes, lines: Vec::new(), unit }
    }

    /// Attention probabilities of local query rows, row by row with the width of the returned range: the local keys
    /// that any of them sees, from a whole panel on.
    fn probabilities(&mut self, part: &Part, head: usize, rows: &Range<usize>, keys: &[Line]) -> Range<usize> {
        let (seen, dim, unit, shape) = (part.seen(rows), part.shape.dim, self.unit, part.shape);
        let (m, n) = (rows.len(), seen.len());
        let a = pack(&mut self.lines, unit, part.queries(head, rows.start), m, dim);
        let b = Panels { first: seen.start, ..Panels::all(keys, dim, part.span.keys.len()) };
        let pair = Pair { a: Packed::all(a, dim), b, depth: dim };
        multiply(unit, &[pair], unit.tiles(m), m, n, Target::f32(&mut self.scores, n, false));
        let ahead = part.span.keys.len() - part.span.queries.len();
        for (i, row) in rows.clone().enumerate() {
            let scores = &mut self.scores[i * n..][..n];
            let visible = shape.visible(ahead, row);
            let (from, to) = (visible.start - seen.start, visible.end - seen.start);
            match shape.softcap {
                None => softmax(&mut scores[from..to], shape.scale),
                Some(cap) => {
                    cap_scores(&mut scores[from..to], &mut self.slopes[i * n + from..i * n + to], shape.scale, cap);
                    softmax(&mut scores[from..to], cap);
                }
            }
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
        }
        seen
    }
}

fn pack<'a>(lines: &'a mut Vec<Line>, unit: Unit, a: Matrix, rows: usize, depth: usize) -> &'a [Line] {
    let count = row_lines(unit, rows, depth);
    if lines.len() < count {
        lines.resize(count, Line([0.0; 16]));
    }
    pack_rows(unit, a, rows, depth, &mut lines[..count]);
    &lines[..count]
}

fn panels<'a>(lines: &'a mut Vec<Line>, unit: Unit, b: Matrix, depth: usize, columns: usize) -> &'a [Line] {
    let count = panel_lines(unit, columns, depth);
    if lines.len() < count {
        lines.resize(count, Line([0.0; 16]));
    }
    pack_panels(unit, b, depth, columns, &mut lines[..count]);
    &lines[..count]
}

simd! {
    /// Adds rows of values, `width` values apart, each multiplied by its weight.
    fn weigh_rows[V: Element](out: &mut [f32], weights: &[f32], values: &[V], width: usize) {
        for (weight, row) in weights.iter().zip(values.chunks(width)) {
            out.iter_mut().zip(row).for_each(|(out, v)| *out = v.get().mul_add(*weight, *out));
        }
    }

    /// `softmax(scale · x)`, in place.
    fn softmax[](x: &mut [f32], scale: f32) {
        let max = largest(x) * scale;
        let inverse = 1.0 / exponentials(x, scale, max);
        x.iter_mut().for_each(|v| *v *= inverse);
    }

    /// d(scores) from d(probabilities), in place.
    fn softmax_backward[](p: &[f32], d: &mut [f32], scale: f32) {
        let dot = dot(p, d);
        p.iter().zip(d).for_each(|(p, d)| *d = p * (*d - dot) * scale);
    }

    /// Scores become `tanh(scale · score / cap)`, to be multiplied by the cap; slopes get the derivative.
    fn cap_scores[](x: &mut [f32], slopes: &mut [f32], scale: f32, cap: f32) {
        for (x, slope) in x.iter_mut().zip(slopes) {
            *x = tanh(*x * scale / cap);
            *slope = 1.0 - *x * *x;
        }
    }
}
