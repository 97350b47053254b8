//! A decoder layer, and the wrapper that keeps only its input and computes the rest again.

use super::{Attention, Block, GatedMlp, RmsNorm};
use crate::{
    Result, kernels,
    model::{Grads, Keep, Pass},
};
use candle_core::Tensor;

/// `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.
pub struct Layer {
    pub attention_norm: RmsNorm,
    pub attention: Attention,
    pub mlp_norm: RmsNorm,
    pub mlp: GatedMlp,
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let y = self.attention_norm.forward(x, pass, keep)?;
        let h = kernels::add(self.attention.forward(&y, pass, keep)?, x)?;
        let y = self.mlp_norm.forward(&h, pass, keep)?;
        kernels::add(self.mlp.forward(&y, pass, keep)?, &h)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let dh = self.mlp.backward(dy.clone(), pass, keep, grads)?;
        let dh = kernels::add(self.mlp_norm.backward(dh, pass, keep, grads)?, &dy)?;
        let dx = self.attention.backward(dh.clone(), pass, keep, grads)?;
        kernels::add(self.attention_norm.backward(dx, pass, keep, grads)?, &dh)
    }
}

/// Keeps only the input of a block and runs its forward again in backward (`gradient_checkpointing`).
pub struct Recompute<'a, B>(pub &'a B);

impl<B: Block> Block for Recompute<'_, B> {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        keep.push(x);
        self.0.forward(x, pass, &mut Keep::nothing())
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = keep.pop()?;
        let mut again = Keep::default();
        self.0.forward(&x, pass, &mut again)?;
        self.0.backward(dy, pass, &mut again, grads)
    }
}
