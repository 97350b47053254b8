//! What changes a linear otherwise than by a sum beside it.

use super::Linear;
use crate::{
    Result,
    kernels::values::cast,
    model::{Grads, Keep, Pass},
};
use candle_core::{DType, Tensor};

/// A change of a linear that a tuning type attaches: of its input, of its output, or of how it is made. It is off in a
/// pass through the base.
pub trait Patch: Send + Sync {
    /// Output (tokens, out) of the changed linear for x (tokens, in), bias included.
    fn forward(&self, linear: &Linear, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor>;

    /// As [`super::Block::backward`].
    fn backward(&self, linear: &Linear, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor>;

    /// Weight (out, in) and bias (out), in float32, of a plain linear that does the same.
    fn merged(&self, linear: &Linear) -> Result<(Tensor, Option<Tensor>)>;
}

/// y (tokens, n) with each column multiplied by its factor (n), in the type of y.
pub(super) fn columns_times(y: &Tensor, factors: &Tensor) -> Result<Tensor> {
    cast(&cast(y, DType::F32)?.broadcast_mul(factors)?, y.dtype())
}

/// The sum over the tokens of `a * b`, both (tokens, n), in float32.
pub(super) fn sum_of_products(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((cast(a, DType::F32)? * cast(b, DType::F32)?)?.sum(0)?)
}
