//! The gated MLP: `down(silu(gate(x)) * up(x))`.

use super::{
    Block, Linear,
    linear::{backward_all, forward_all},
};
use crate::{
    Error, Result,
    kernels::activation,
    model::{Grads, Keep, Pass},
};
use candle_core::Tensor;

pub struct GatedMlp {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Block for GatedMlp {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let [gate, up]: [Tensor; 2] = forward_all(&[&self.gate, &self.up], x, pass, keep)?
            .try_into()
            .map_err(|_| Error::Internal("two projections expected".into()))?;
        let y = activation::swiglu(&gate, &up)?;
        keep.push(&gate);
        keep.push(&up);
        self.down.forward(&y, pass, keep)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let dy = self.down.backward(dy, pass, keep, grads)?;
        let (up, gate) = (keep.pop()?, keep.pop()?);
        let (dgate, dup) = activation::swiglu_backward(&gate, &up, &dy)?;
        backward_all(&[&self.gate, &self.up], vec![dgate, dup], pass, keep, grads)
    }
}
