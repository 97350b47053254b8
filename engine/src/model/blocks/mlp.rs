//! The MLP: `down(activation(gate(x)) * up(x))` with gate and up apart or in one linear, or without a gate
//! `down(activation(up(x)))`.

use super::{
    Block, Linear,
    linear::{backward_all, forward_all},
};
use crate::{
    Error, Result,
    kernels::{
        activation::{Activation, activate, activate_backward, gated, gated_backward},
        profile::time,
    },
    model::{Grads, Keep, Pass},
};
use candle_core::Tensor;

pub struct Mlp {
    pub first: MlpInput,
    pub activation: Activation,
    pub down: Linear,
}

/// The linears that read x.
pub enum MlpInput {
    Gated {
        gate: Linear,
        up: Linear,
    },
    /// Gate and up in one, the gate first.
    Fused(Linear),
    Plain(Linear),
}

impl Mlp {
    /// Of its linears: gate, up and down, or one that reads x, which `alone` takes, and down.
    pub fn of(mut linears: Vec<Linear>, alone: fn(Linear) -> MlpInput, activation: Activation) -> Result<Self> {
        let missing = || Error::Internal("an MLP lacks a linear".into());
        let down = linears.pop().ok_or_else(missing)?;
        let second = linears.pop().ok_or_else(missing)?;
        let first = match linears.pop() {
            Some(gate) => MlpInput::Gated { gate, up: second },
            None => alone(second),
        };
        Ok(Self { first, activation, down })
    }

    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = match &self.first {
            MlpInput::Gated { gate, up } => vec![gate, up],
            MlpInput::Fused(linear) | MlpInput::Plain(linear) => vec![linear],
        };
        all.push(&self.down);
        all
    }
}

impl Block for Mlp {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let (gate, up) = match &self.first {
            MlpInput::Gated { gate, up } => {
                let both: [Tensor; 2] = forward_all(&[gate, up], x, pass, keep)?
                    .try_into()
                    .map_err(|_| Error::Internal("two projections expected".into()))?;
                both.into()
            }
            MlpInput::Fused(linear) => {
                let both = linear.forward(x, pass, keep)?;
                let half = both.dim(1)? / 2;
                (both.narrow(1, 0, half)?.contiguous()?, both.narrow(1, half, half)?.contiguous()?)
            }
            MlpInput::Plain(linear) => {
                let up = linear.forward(x, pass, keep)?;
                let y = self.down.forward_again(&time("activation", || activate(self.activation, &up))?, pass, keep)?;
                keep.push(&up);
                return Ok(y);
            }
        };
        let y = self.down.forward_again(&time("activation", || gated(self.activation, &gate, &up))?, pass, keep)?;
        keep.push(&gate);
        keep.push(&up);
        Ok(y)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let up = keep.pop()?;
        if let MlpInput::Plain(linear) = &self.first {
            let x = time("activation", || activate(self.activation, &up))?;
            let dy = self.down.backward_again(&x, dy, pass, keep, grads)?;
            return linear.backward(
                time("activation", || activate_backward(self.activation, &up, &dy))?,
                pass,
                keep,
                grads,
            );
        }
        let gate = keep.pop()?;
        let x = time("activation", || gated(self.activation, &gate, &up))?;
        let dy = self.down.backward_again(&x, dy, pass, keep, grads)?;
        let (dgate, dup) = time("activation", || gated_backward(self.activation, &gate, &up, &dy))?;
        match &self.first {
            MlpInput::Gated { gate, up } => backward_all(&[gate, up], vec![dgate, dup], pass, keep, grads),
            MlpInput::Fused(linear) | MlpInput::Plain(linear) => {
                linear.backward(Tensor::cat(&[dgate, dup], 1)?, pass, keep, grads)
            }
        }
    }
}
