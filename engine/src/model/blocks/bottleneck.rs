//! The bottleneck of an adapter behind a branch (Houlsby et al., 2019): `y = x + up(activation(down(x)))`.

use super::{Block, Linear, Mlp, MlpInput};
use crate::{
    Result,
    kernels::{self, activation::Activation},
    model::{Grads, Keep, Pass},
};
use candle_core::Tensor;

pub struct Bottleneck(Mlp);

impl Bottleneck {
    pub fn new(down: Linear, activation: Activation, up: Linear) -> Self {
        Self(Mlp { first: MlpInput::Plain(down), activation, down: up })
    }
}

impl Block for Bottleneck {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        kernels::add(self.0.forward(x, pass, keep)?, x)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        kernels::add(self.0.backward(dy.clone(), pass, keep, grads)?, &dy)
    }
}
