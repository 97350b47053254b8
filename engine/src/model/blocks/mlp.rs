//! The gated MLP: `down(silu(gate(x)) * up(x))`.

use super::{Block, Linear};
use crate::{
    Result,
    kernels::{self, activation},
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
        let gate = self.gate.forward(x, pass, keep)?;
        let up = self.up.forward(x, pass, keep)?;
        let y = activation::swiglu(&gate, &up)?;
        keep.push(&gate);
        keep.push(&up);
        self.down.forward(&y, pass, keep)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let dy = self.down.backward(dy, pass, keep, grads)?;
        let (up, gate) = (keep.pop()?, keep.pop()?);
        let (dgate, dup) = activation::swiglu_backward(&gate, &up, &dy)?;
        let dx = self.up.backward(dup, pass, keep, grads)?;
        kernels::add(dx, &self.gate.backward(dgate, pass, keep, grads)?)
    }
}
