//! Norms: RMS with a weight, and layer norm with weight and bias.

use super::Block;
use crate::{
    Result,
    kernels::{layer_norm, norm, profile::time, values::cast},
    model::{Grads, Keep, Parameter, Pass},
};
use candle_core::{DType, Tensor};
use std::sync::Arc;

pub struct RmsNorm {
    /// (dim)
    pub weight: Arc<Parameter>,
    pub eps: f32,
    /// The weight is stored less one (Gemma).
    pub plus_one: bool,
}

pub struct LayerNorm {
    /// (dim)
    pub weight: Arc<Parameter>,
    /// (dim)
    pub bias: Arc<Parameter>,
    pub eps: f32,
}

/// The norm of a family. Normalises the last dimension of x (…, dim).
pub enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl Norm {
    /// dim
    pub fn dim(&self) -> usize {
        let weight = match self {
            Self::Rms(norm) => &norm.weight,
            Self::Layer(norm) => &norm.weight,
        };
        weight.get().elem_count()
    }

    pub fn parameters(&self) -> Vec<&Parameter> {
        match self {
            Self::Rms(norm) => vec![&norm.weight],
            Self::Layer(norm) => vec![&norm.weight, &norm.bias],
        }
    }
}

/// Keeps an x for backward, as all activations in the type of the pass: in bf16 this is a seventh of what a layer keeps.
fn keep_input(x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<()> {
    if !keep.is_off() {
        keep.push(&cast(x, pass.compute)?);
    }
    Ok(())
}

impl RmsNorm {
    fn factor(&self) -> Result<Tensor> {
        let weight = self.weight.get();
        Ok(if self.plus_one { (weight + 1.0)? } else { weight })
    }
}

impl Block for RmsNorm {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        keep_input(x, pass, keep)?;
        let factor = self.factor()?;
        time("norms", || norm::rms_norm(x, &factor, self.eps, pass.compute))
    }

    fn backward(&self, dy: Tensor, _: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = cast(&keep.pop()?, DType::F32)?;
        let (factor, trains) = (self.factor()?, self.weight.trainable);
        let (dx, dw) = time("norms", || norm::rms_norm_backward(&x, &factor, &dy, self.eps, trains))?;
        if let Some(dw) = dw {
            grads.add(&self.weight, dw)?;
        }
        Ok(dx)
    }
}

impl Block for LayerNorm {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        keep_input(x, pass, keep)?;
        let (weight, bias) = (self.weight.get(), self.bias.get());
        time("norms", || layer_norm::layer_norm(x, &weight, &bias, self.eps, pass.compute))
    }

    fn backward(&self, dy: Tensor, _: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = cast(&keep.pop()?, DType::F32)?;
        let trained = self.weight.trainable || self.bias.trainable;
        let weight = self.weight.get();
        let (dx, found) = time("norms", || layer_norm::layer_norm_backward(&x, &weight, &dy, self.eps, trained))?;
        if let Some((dw, db)) = found {
            for (parameter, gradient) in [(&self.weight, dw), (&self.bias, db)] {
                if parameter.trainable {
                    grads.add(parameter, gradient)?;
                }
            }
        }
        Ok(dx)
    }
}

impl Block for Norm {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x, pass, keep),
            Self::Layer(norm) => norm.forward(x, pass, keep),
        }
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.backward(dy, pass, keep, grads),
            Self::Layer(norm) => norm.backward(dy, pass, keep, grads),
        }
    }
}
