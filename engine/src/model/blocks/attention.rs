//! Attention: q, k, v, optional norms of q and k, rotary embedding, scores, output.

use super::{
    Block, Linear, Norm,
    linear::{backward_all, forward_all},
};
use crate::{
    Error, Result,
    kernels::{attention, attention::Shape, profile::time, rope::rope, values::cast},
    model::{Grads, Keep, Pass},
};
use candle_core::Tensor;

pub struct Attention {
    pub qkv: Qkv,
    pub out: Linear,
    /// On each head, or on all heads together: the size of its weight tells.
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub shape: Shape,
    /// The rotary embedding turns neighbours instead of halves.
    pub interleaved: bool,
    /// Place in the cache.
    pub layer: usize,
}

/// The linears that give q, k and v.
pub enum Qkv {
    Separate {
        q: Linear,
        k: Linear,
        v: Linear,
    },
    /// The heads of q, then those of k, then those of v.
    Fused(Linear),
    /// For each key/value head its queries, its key, its value.
    Grouped(Linear),
}

impl Attention {
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = self.qkv.linears();
        all.push(&self.out);
        all
    }

    /// q, k and v, each (tokens, heads · dim).
    fn project(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<[Tensor; 3]> {
        let linears = self.qkv.linears();
        let mut all = forward_all(&linears, x, pass, keep)?;
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let (tokens, q, kv, group) = (x.dim(0)?, heads * dim, kv_heads * dim, heads / kv_heads);
        match &self.qkv {
            Qkv::Separate { .. } => all.try_into().map_err(|_| Error::Internal("three projections expected".into())),
            Qkv::Fused(_) => {
                let one = all.swap_remove(0);
                let part = |start, width| one.narrow(1, start, width)?.contiguous();
                Ok([part(0, q)?, part(q, kv)?, part(q + kv, kv)?])
            }
            Qkv::Grouped(_) => {
                let one = all.swap_remove(0).reshape((tokens, kv_heads, group + 2, dim))?;
                let part = |start, n| one.narrow(2, start, n)?.contiguous()?.reshape((tokens, kv_heads * n * dim));
                Ok([part(0, group)?, part(group, 1)?, part(group + 1, 1)?])
            }
        }
    }

    /// Gradient of x, given those of q, k and v, each (tokens, heads · dim).
    fn project_backward(
        &self,
        [dq, dk, dv]: [Tensor; 3],
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let (tokens, group) = (dq.dim(0)?, heads / kv_heads);
        let dys = match &self.qkv {
            Qkv::Separate { .. } => vec![dq, dk, dv],
            Qkv::Fused(_) => vec![Tensor::cat(&[dq, dk, dv], 1)?],
            Qkv::Grouped(_) => {
                let part = |d: Tensor, n: usize| d.reshape((tokens, kv_heads, n, dim));
                let one = Tensor::cat(&[part(dq, group)?, part(dk, 1)?, part(dv, 1)?], 2)?;
                vec![one.reshape((tokens, (heads + 2 * kv_heads) * dim))?]
            }
        };
        backward_all(&self.qkv.linears(), dys, pass, keep, grads)
    }

    /// (tokens, heads · dim) → (tokens, heads, dim), normalised and rotated.
    fn head(&self, mut x: Tensor, heads: usize, norm: Option<&Norm>, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if let Some(norm) = norm {
            x = norm.forward(&x.reshape((tokens, width / norm.dim(), norm.dim()))?, pass, keep)?;
        }
        let x = x.reshape((tokens, heads, self.shape.dim))?;
        match pass.rope(self.shape.window.is_some()) {
            Some(table) => time("rope", || rope(&x, &table.cos, &table.sin, self.interleaved, false)),
            None => Ok(x),
        }
    }

    fn head_backward(
        &self,
        mut dx: Tensor,
        norm: Option<&Norm>,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        if let Some(table) = pass.rope(self.shape.window.is_some()) {
            dx = time("rope", || rope(&dx, &table.cos, &table.sin, self.interleaved, true))?;
        }
        let dx = dx.flatten(1, 2)?;
        let Some(norm) = norm else { return Ok(dx) };
        let (tokens, width) = dx.dims2()?;
        let dx = norm.backward(dx.reshape((tokens, width / norm.dim(), norm.dim()))?, pass, keep, grads)?;
        cast(&dx.flatten(1, 2)?, pass.compute)
    }
}

impl Block for Attention {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let [q, k, v] = self.project(x, pass, keep)?;
        let q = self.head(q, self.shape.heads, self.q_norm.as_ref(), pass, keep)?;
        let mut k = self.head(k, self.shape.kv_heads, self.k_norm.as_ref(), pass, keep)?;
        let mut v = v.reshape((v.dim(0)?, self.shape.kv_heads, self.shape.dim))?;
        if let Some(ahead) = &pass.ahead {
            (k, v) = ahead.join_keys(self.layer, k, v)?;
        }
        if let Some(cached) = &pass.cache {
            let (k, v) = cached.cache.extend(self.layer, &k, &v)?;
            let y = time("attention", || attention::paged(&q, &k, &v, &cached.tables, self.shape))?;
            return self.out.forward(&y, pass, keep);
        }
        let y = time("attention", || attention::attention(&q, &k, &v, &pass.spans, self.shape))?;
        for t in [&q, &k, &v] {
            keep.push(t);
        }
        self.out.forward(&y, pass, keep)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let dy = self.out.backward(dy, pass, keep, grads)?;
        let (v, k, q) = (keep.pop()?, keep.pop()?, keep.pop()?);
        let (dq, mut dk, mut dv) =
            time("attention, backward", || attention::attention_backward(&q, &k, &v, &dy, &pass.spans, self.shape))?;
        if let Some(ahead) = &pass.ahead {
            (dk, dv) = ahead.split_keys(self.layer, dk, dv)?;
        }
        let dk = self.head_backward(dk, self.k_norm.as_ref(), pass, keep, grads)?;
        let dq = self.head_backward(dq, self.q_norm.as_ref(), pass, keep, grads)?;
        self.project_backward([dq, dk, dv.flatten(1, 2)?], pass, keep, grads)
    }
}

impl Qkv {
    fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::Fused(linear) | Self::Grouped(linear) => vec![linear],
        }
    }
}
