//! (IA)³ (Liu et al., 2022): a trained vector on the outputs of a linear, or on its inputs.

use super::{
    Linear,
    patch::{Patch, columns_times, sum_of_products},
};
use crate::{
    Result,
    kernels::values::cast,
    model::{Grads, Keep, Parameter, Pass},
};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// `y = l ⊙ (x wᵀ + b)`, or `y = (l ⊙ x) wᵀ + b`.
pub struct Rescale {
    /// (out, 1), or (1, in) for the inputs.
    pub vector: Arc<Parameter>,
    pub of_input: bool,
}

impl Rescale {
    fn factors(&self) -> Result<Tensor> {
        Ok(self.vector.get().flatten_all()?)
    }

    fn learn(&self, gradient: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(&self.vector, gradient.reshape(self.vector.get().shape())?)
    }
}

impl Patch for Rescale {
    fn forward(&self, linear: &Linear, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let x = cast(x, pass.compute)?;
        if self.of_input {
            let y = linear.products(&columns_times(&x, &self.factors()?)?, pass, keep)?;
            keep.push(&x);
            return linear.add_bias(y);
        }
        let y = linear.add_bias(linear.products(&x, pass, keep)?)?;
        keep.push(&y);
        columns_times(&y, &self.factors()?)
    }

    fn backward(&self, linear: &Linear, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let kept = keep.pop()?;
        if self.of_input {
            linear.bias_backward(&dy, grads)?;
            let dx = linear.products_backward(dy, pass, keep, grads)?;
            self.learn(sum_of_products(&kept, &dx)?, grads)?;
            return columns_times(&dx, &self.factors()?);
        }
        self.learn(sum_of_products(&kept, &dy)?, grads)?;
        let dy = columns_times(&dy, &self.factors()?)?;
        linear.bias_backward(&dy, grads)?;
        linear.products_backward(dy, pass, keep, grads)
    }

    fn merged(&self, linear: &Linear) -> Result<(Tensor, Option<Tensor>)> {
        let (weight, bias) = (linear.sum()?, linear.bias.as_ref().map(|b| cast(&b.get(), DType::F32)).transpose()?);
        let weight = weight.broadcast_mul(&self.vector.get())?;
        match (self.of_input, bias) {
            (false, Some(bias)) => Ok((weight, Some((bias * self.factors()?)?))),
            (_, bias) => Ok((weight, bias)),
        }
    }
}
