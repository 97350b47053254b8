//! T5's attention: scores without a scale, a learned bias for each head and bucket of relative positions, over the
//! sequence itself or over another (cross attention, without a bias). In float32.

use crate::{
    Error, Result,
    kernels::{attention::Span, device::float, scatter_rows},
    model::{
        Grads, Keep, Parameter, Pass,
        blocks::{Block, Linear, backward_all, forward_all},
    },
};
use candle_core::{D, Tensor};
use candle_nn::ops::softmax_last_dim;
use std::sync::Arc;

pub struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub out: Linear,
    pub heads: usize,
    pub bias: Option<Bias>,
    /// A query sees no later keys.
    pub causal: bool,
}

/// Biases by bucket, which the layers of a stack share.
#[derive(Clone)]
pub struct Bias {
    /// (buckets, heads)
    pub table: Arc<Parameter>,
    pub max_distance: usize,
    /// Keys behind a query have buckets of their own.
    pub both_ways: bool,
}

impl Bias {
    /// The bucket of a key `distance` positions behind its query (negative: before it).
    pub fn bucket(&self, distance: i64, buckets: usize) -> u32 {
        let (mut first, mut buckets, mut away) = (0, buckets, (-distance).max(0));
        if self.both_ways {
            buckets /= 2;
            first = if distance > 0 { buckets } else { 0 };
            away = distance.abs();
        }
        // The nearer half have a bucket each, the others are shared out by the logarithm, in float32 as in PyTorch.
        let exact = buckets / 2;
        if (away as usize) < exact {
            return (first + away as usize) as u32;
        }
        let share = (away as f32 / exact as f32).ln() / (self.max_distance as f64 / exact as f64).ln() as f32;
        let far = exact + (share * (buckets - exact) as f32) as usize;
        (first + far.min(buckets - 1)) as u32
    }

    /// Buckets of each query and key, row by row; the last query stands at the last key.
    fn ids(&self, queries: usize, keys: usize) -> Result<Vec<u32>> {
        let (buckets, ahead) = (self.table.get().dim(0)?, keys as i64 - queries as i64);
        let row = |query: i64| (0..keys as i64).map(move |key| self.bucket(key - query - ahead, buckets));
        Ok((0..queries as i64).flat_map(row).collect())
    }

    /// (heads, queries, keys)
    fn values(&self, queries: usize, keys: usize) -> Result<Tensor> {
        let table = self.table.get();
        let rows = table.index_select(&Tensor::new(self.ids(queries, keys)?, table.device())?, 0)?;
        Ok(float(&rows)?.reshape((queries, keys, ()))?.permute((2, 0, 1))?.contiguous()?)
    }

    /// Adds the gradient of the table, given that of the scores (heads, queries, keys).
    fn backward(&self, d: &Tensor, grads: &mut Grads) -> Result<()> {
        let (heads, queries, keys) = d.dims3()?;
        let rows = d.permute((1, 2, 0))?.contiguous()?.reshape((queries * keys, heads))?;
        let buckets = self.table.get().dim(0)?;
        grads.add(&self.table, scatter_rows(&rows, &self.ids(queries, keys)?, buckets, 1.0)?)
    }
}

impl Attention {
    pub fn linears(&self) -> [&Linear; 4] {
        [&self.q, &self.k, &self.v, &self.out]
    }

    /// x (queries, hidden) over itself or over `memory` (keys, hidden).
    pub fn forward(
        &self,
        x: &Tensor,
        memory: Option<&Tensor>,
        spans: &[Span],
        pass: &Pass,
        keep: &mut Keep,
    ) -> Result<Tensor> {
        let [q, k, v] = match memory {
            None => three(forward_all(&[&self.q, &self.k, &self.v], x, pass, keep)?)?,
            Some(memory) => {
                let q = self.q.forward(x, pass, keep)?;
                let mut both = forward_all(&[&self.k, &self.v], memory, pass, keep)?;
                both.insert(0, q);
                three(both)?
            }
        };
        let parts = spans.iter().map(|span| {
            let part = |t: &Tensor, range: &std::ops::Range<usize>| t.narrow(0, range.start, range.len());
            self.attend(&part(&q, &span.queries)?, &part(&k, &span.keys)?, &part(&v, &span.keys)?)
        });
        let y = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
        [&q, &k, &v].into_iter().for_each(|t| keep.push(t));
        self.out.forward(&y, pass, keep)
    }

    /// Gradients of x and, where there is one, of the memory.
    pub fn backward(
        &self,
        dy: Tensor,
        across: bool,
        spans: &[Span],
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let dy = self.out.backward(dy, pass, keep, grads)?;
        let (v, k, q) = (keep.pop()?, keep.pop()?, keep.pop()?);
        let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
        for span in spans {
            let queries = |t: &Tensor| self.split(&t.narrow(0, span.queries.start, span.queries.len())?);
            let keys = |t: &Tensor| self.split(&t.narrow(0, span.keys.start, span.keys.len())?);
            let (q, dy, k, v) = (queries(&q)?, queries(&dy)?, keys(&k)?, keys(&v)?);
            let p = self.probabilities(&q, &k)?;
            let dp = dy.matmul(&v.t()?)?;
            let ds = (dp.broadcast_sub(&(&dp * &p)?.sum_keepdim(D::Minus1)?)? * &p)?;
            if let Some(bias) = self.bias.as_ref().filter(|bias| bias.table.trainable) {
                bias.backward(&ds, grads)?;
            }
            dqs.push(join(&ds.matmul(&k)?)?);
            dks.push(join(&ds.t()?.matmul(&q)?)?);
            dvs.push(join(&p.t()?.matmul(&dy)?)?);
        }
        let [dq, dk, dv] = [dqs, dks, dvs].map(|parts| Tensor::cat(&parts, 0));
        let (dq, dk, dv) = (dq?, dk?, dv?);
        if !across {
            return Ok((backward_all(&[&self.q, &self.k, &self.v], vec![dq, dk, dv], pass, keep, grads)?, None));
        }
        let memory = backward_all(&[&self.k, &self.v], vec![dk, dv], pass, keep, grads)?;
        Ok((self.q.backward(dq, pass, keep, grads)?, Some(memory)))
    }

    /// One sequence: q (queries, heads · dim), k and v (keys, heads · dim) → (queries, heads · dim).
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let p = self.probabilities(&self.split(q)?, &self.split(k)?)?;
        join(&p.matmul(&self.split(v)?)?)
    }

    /// (heads, queries, keys) of q and k (heads, …, dim); the last query stands at the last key.
    fn probabilities(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let (queries, keys) = (q.dim(1)?, k.dim(1)?);
        let mut scores = q.matmul(&k.t()?)?;
        if let Some(bias) = &self.bias {
            scores = (scores + bias.values(queries, keys)?)?;
        }
        if self.causal && queries > 1 {
            let hidden = |query: usize, key: usize| key + queries > query + keys;
            let mask = (0..queries).flat_map(|query| (0..keys).map(move |key| hidden(query, key)));
            let mask: Vec<f32> = mask.map(|hidden| if hidden { f32::NEG_INFINITY } else { 0.0 }).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(mask, (queries, keys), q.device())?)?;
        }
        Ok(softmax_last_dim(&scores)?)
    }

    /// (tokens, heads · dim) → (heads, tokens, dim)
    fn split(&self, t: &Tensor) -> Result<Tensor> {
        let tokens = t.dim(0)?;
        Ok(float(t)?.reshape((tokens, self.heads, ()))?.transpose(0, 1)?.contiguous()?)
    }
}

/// (heads, tokens, dim) → (tokens, heads · dim)
fn join(t: &Tensor) -> Result<Tensor> {
    Ok(t.transpose(0, 1)?.contiguous()?.flatten_from(1)?)
}

fn three(all: Vec<Tensor>) -> Result<[Tensor; 3]> {
    all.try_into().map_err(|_| Error::Internal("three projections expected".into()))
}
