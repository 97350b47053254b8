//! Attention over keys and values that lie in pages, where they are: for few queries nothing is copied, for many the
//! head's keys are gathered once and go through the tiles of every other pass.

use super::{FEW, Part, Shape, Span, cap_scores, softmax, weigh_rows};
use crate::{
    Result,
    kernels::{
        device,
        dots::block,
        on_cpu,
        packed::{Target, Unit},
        values::{Element, Values, each, hold, room, typed},
    },
};
use candle_core::{Shape as TensorShape, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// One sequence: its rows of q, and the places of its keys and values in order. The last query sits at the position of
/// the last key.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged {
    pub queries: Range<usize>,
    pub keys: Vec<Range<usize>>,
}

impl Paged {
    /// Keys in all.
    fn count(&self) -> usize {
        self.keys.iter().map(Range::len).sum()
    }

    /// The places of some of the keys, which are counted from the first.
    fn places(&self, some: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut first = 0;
        self.keys.iter().filter_map(move |range| {
            let (from, to) = (some.start.max(first), some.end.min(first + range.len()));
            let part = (from < to).then(|| range.start + from - first..range.start + to - first);
            first += range.len();
            part
        })
    }
}

/// q (tokens, heads, dim), k and v (places, kv_heads, dim) → (tokens, heads · dim), all of one type.
pub fn paged(q: &Tensor, k: &Tensor, v: &Tensor, sequences: &[Paged], shape: Shape) -> Result<Tensor> {
    if !on_cpu(q) {
        return gathered(q, k, v, sequences, shape);
    }
    let (qs, ks, vs) = (hold(q)?, hold(k)?, hold(v)?);
    let (tokens, width) = (q.dim(0)?, shape.heads * shape.dim);
    let mut parts: Vec<(&Paged, usize)> =
        sequences.iter().flat_map(|s| (0..shape.kv_heads).map(move |h| (s, h))).collect();
    parts.sort_by_key(|(sequence, _)| std::cmp::Reverse(sequence.count()));
    typed!(q.dtype(), T => {
        let mut y = room::<T>(tokens * width);
        let to = T::target(&mut y, width, false);
        parts.par_iter().for_each(|(sequence, kv)| match sequence.queries.len() <= FEW {
            true => each!(qs.values(), q => each!(ks.values(), k => each!(vs.values(), v => {
                few(q, k, v, sequence, *kv, shape, to);
            }))),
            false => {
                let (k, v) = (Head::new(ks.values(), sequence, *kv, shape), Head::new(vs.values(), sequence, *kv, shape));
                let span = Span { queries: sequence.queries.clone(), keys: 0..sequence.count() };
                let (unit, dim) = (Unit::new(q.dtype()), shape.dim);
                let (q, k, v) = (qs.values(), k.values(), v.values());
                Part { q, k, v, kv: *kv, span: &span, shape, unit, pitch: dim, column: 0 }.forward(to);
            }
        });
        Ok(T::tensor(y, TensorShape::from((tokens, width)))?)
    })
}

/// On other devices: the keys of all sequences one after another.
fn gathered(q: &Tensor, k: &Tensor, v: &Tensor, sequences: &[Paged], shape: Shape) -> Result<Tensor> {
    let places: Vec<u32> = sequences.iter().flat_map(|s| s.keys.iter().cloned().flatten()).map(|p| p as u32).collect();
    let places = Tensor::new(places, q.device())?;
    let mut first = 0;
    let spans = sequences.iter().map(|sequence| {
        let keys = first..first + sequence.count();
        first = keys.end;
        Span { queries: sequence.queries.clone(), keys }
    });
    let spans: Vec<Span> = spans.collect();
    device::attention(q, &k.index_select(&places, 0)?, &v.index_select(&places, 0)?, &spans, shape)
}

/// Few queries of one sequence for one key/value head: the tokens of a generation.
fn few<Q: Element, K: Element, V: Element>(
    q: &[Q],
    k: &[K],
    v: &[V],
    sequence: &Paged,
    kv: usize,
    shape: Shape,
    to: Target,
) {
    let (dim, width, group) = (shape.dim, shape.kv_heads * shape.dim, shape.heads / shape.kv_heads);
    let ahead = sequence.count() - sequence.queries.len();
    let (mut scores, mut part, mut slopes, mut out) = (Vec::new(), Vec::new(), Vec::new(), vec![0.0; dim]);
    for row in 0..sequence.queries.len() {
        let (seen, token) = (shape.visible(ahead, row), sequence.queries.start + row);
        let n = seen.len();
        // All heads that share these keys, so that they come from memory once.
        scores.resize(group * n, 0.0);
        let queries = &q[(token * shape.heads + kv * group) * dim..];
        let mut at = 0;
        for places in sequence.places(seen.clone()) {
            let count = places.len();
            part.resize(group * count, 0.0);
            block(queries, &k[places.start * width + kv * dim..], &mut part, group, count, dim, width);
            for (head, part) in part.chunks(count).enumerate() {
                scores[head * n + at..][..count].copy_from_slice(part);
            }
            at += count;
        }
        for (head, scores) in scores.chunks_mut(n).enumerate() {
            match shape.softcap {
                None => softmax(scores, shape.scale),
                Some(cap) => {
                    slopes.resize(n, 0.0);
                    cap_scores(scores, &mut slopes, shape.scale, cap);
                    softmax(scores, cap);
                }
            }
            out.fill(0.0);
            let mut at = 0;
            for places in sequence.places(seen.clone()) {
                weigh_rows(&mut out, &scores[at..][..places.len()], &v[places.start * width + kv * dim..], width);
                at += places.len();
            }
            to.part(token, (kv * group + head) * dim, 1, dim).write(0..1, dim, &out);
        }
    }
}

/// The keys or values (count, dim) of one head of a sequence, one after another.
enum Head {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Head {
    fn new(values: Values, sequence: &Paged, kv: usize, shape: Shape) -> Self {
        match values {
            Values::F32(v) => Self::F32(gather(v, sequence, kv, shape)),
            Values::Bf16(v) => Self::Bf16(gather(v, sequence, kv, shape)),
        }
    }

    fn values(&self) -> Values<'_> {
        match self {
            Self::F32(v) => Values::F32(v),
            Self::Bf16(v) => Values::Bf16(v),
        }
    }
}

fn gather<T: Element>(values: &[T], sequence: &Paged, kv: usize, shape: Shape) -> Vec<T> {
    let (dim, width) = (shape.dim, shape.kv_heads * shape.dim);
    let rows = sequence.keys.iter().cloned().flatten();
    rows.flat_map(|row| &values[row * width + kv * dim..][..dim]).copied().collect()
}
