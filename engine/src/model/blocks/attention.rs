//! Attention: q, k, v, optional norms on their heads, rotary embedding, scores, output.

use super::{
    Block, Linear, RmsNorm,
    linear::{backward_all, forward_all},
};
use crate::{
    Error, Result,
    kernels::{attention, attention::Shape, rope::rope},
    model::{Grads, Keep, Pass},
};
use candle_core::Tensor;

pub struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub out: Linear,
    pub q_norm: Option<RmsNorm>,
    pub k_norm: Option<RmsNorm>,
    pub shape: Shape,
    /// Place in the cache.
    pub layer: usize,
}

impl Attention {
    /// (tokens, heads · dim) → (tokens, heads, dim), normalised and rotated.
    fn head(&self, x: Tensor, heads: usize, norm: Option<&RmsNorm>, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let mut x = x.reshape((x.dim(0)?, heads, self.shape.dim))?;
        if let Some(norm) = norm {
            x = norm.forward(&x, pass, keep)?;
        }
        rope(&x, &pass.rope.cos, &pass.rope.sin, false)
    }

    fn head_backward(
        &self,
        dx: Tensor,
        norm: Option<&RmsNorm>,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        let mut dx = rope(&dx, &pass.rope.cos, &pass.rope.sin, true)?;
        if let Some(norm) = norm {
            dx = norm.backward(dx, pass, keep, grads)?;
        }
        Ok(dx.flatten(1, 2)?)
    }
}

impl Block for Attention {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let [q, k, v]: [Tensor; 3] = forward_all(&[&self.q, &self.k, &self.v], x, pass, keep)?
            .try_into()
            .map_err(|_| Error::Internal("three projections expected".into()))?;
        let q = self.head(q, self.shape.heads, self.q_norm.as_ref(), pass, keep)?;
        let mut k = self.head(k, self.shape.kv_heads, self.k_norm.as_ref(), pass, keep)?;
        let mut v = v.reshape((v.dim(0)?, self.shape.kv_heads, self.shape.dim))?;
        if let Some(cache) = pass.cache {
            (k, v) = cache.extend(self.layer, k, v)?;
        }
        let y = attention::attention(&q, &k, &v, &pass.spans, self.shape)?;
        for t in [&q, &k, &v] {
            keep.push(t);
        }
        self.out.forward(&y, pass, keep)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let dy = self.out.backward(dy, pass, keep, grads)?;
        let (v, k, q) = (keep.pop()?, keep.pop()?, keep.pop()?);
        let (dq, dk, dv) = attention::attention_backward(&q, &k, &v, &dy, &pass.spans, self.shape)?;
        let dk = self.head_backward(dk, self.k_norm.as_ref(), pass, keep, grads)?;
        let dq = self.head_backward(dq, self.q_norm.as_ref(), pass, keep, grads)?;
        let dys = vec![dq, dk, dv.flatten(1, 2)?];
        backward_all(&[&self.q, &self.k, &self.v], dys, pass, keep, grads)
    }
}
