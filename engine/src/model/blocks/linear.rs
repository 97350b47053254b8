//! Linear with what an adapter adds to it.

use super::Block;
use crate::{
    Error, Result,
    kernels::{self, matmul},
    model::{Grads, Keep, Parameter, Pass},
};
use candle_core::Tensor;
use std::sync::Arc;

/// `y = x wᵀ + b`, plus a [`Patch`]. A frozen weight has no gradient and costs none.
pub struct Linear {
    /// (out, in)
    pub weight: Arc<Parameter>,
    /// (out)
    pub bias: Option<Arc<Parameter>>,
    pub patch: Option<Box<dyn Patch>>,
}

/// What an adapter adds to a linear.
pub trait Patch: Send + Sync {
    /// Adds its part to y (tokens, out), for x (tokens, in).
    fn forward(&self, x: &Tensor, y: Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor>;

    /// Adds its part to dx, and its parameters' gradients to `grads`.
    fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: Tensor,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor>;

    /// The weight (out, in) that does the same without the patch.
    fn merge(&self, weight: &Tensor) -> Result<Tensor>;
}

impl Linear {
    /// (in, out)
    pub fn dims(&self) -> Result<(usize, usize)> {
        let (out, inp) = self.weight.get().dims2()?;
        Ok((inp, out))
    }

    /// The weight with the patch merged into it.
    pub fn merged(&self) -> Result<Tensor> {
        let weight = self.weight.get();
        self.patch.as_ref().map_or(Ok(weight.clone()), |p| p.merge(&weight))
    }
}

impl Block for Linear {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let mut y = matmul::linear(x, &self.weight.get())?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(&bias.get())?;
        }
        if let Some(patch) = &self.patch {
            y = patch.forward(x, y, pass, keep)?;
        }
        keep.push(x);
        Ok(y)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = keep.pop()?;
        let mut dx = matmul::linear_input(&dy, &self.weight.get())?;
        if self.weight.trainable {
            grads.add(&self.weight, matmul::linear_weight(&dy, &x, 1.0)?)?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|b| b.trainable) {
            grads.add(bias, dy.sum(0)?)?;
        }
        if let Some(patch) = &self.patch {
            dx = patch.backward(&x, &dy, dx, pass, keep, grads)?;
        }
        Ok(dx)
    }
}

/// Outputs of linears that read the same x, in their order.
pub fn forward_all(linears: &[&Linear], x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Vec<Tensor>> {
    linears.iter().map(|linear| linear.forward(x, pass, keep)).collect()
}

/// Gradient of the x that the linears share, given those of their outputs.
pub fn backward_all(
    linears: &[&Linear],
    dys: Vec<Tensor>,
    pass: &Pass,
    keep: &mut Keep,
    grads: &mut Grads,
) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (linear, dy) in linears.iter().zip(dys).rev() {
        let dx = linear.backward(dy, pass, keep, grads)?;
        sum = Some(match sum {
            Some(sum) => kernels::add(sum, &dx)?,
            None => dx,
        });
    }
    sum.ok_or_else(|| Error::Internal("no linear to go back through".into()))
}
