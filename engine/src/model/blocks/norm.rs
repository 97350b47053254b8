//! RMS norm with a weight.

use super::Block;
use crate::{
    Result,
    kernels::norm,
    model::{Grads, Keep, Parameter, Pass},
};
use candle_core::Tensor;
use std::sync::Arc;

pub struct RmsNorm {
    /// (dim)
    pub weight: Arc<Parameter>,
    pub eps: f32,
}

impl Block for RmsNorm {
    /// x (…, dim); normalises the last dimension.
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        keep.push(x);
        norm::rms_norm(x, &self.weight.get(), self.eps, pass.compute)
    }

    fn backward(&self, dy: Tensor, _: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = keep.pop()?;
        let (dx, dw) = norm::rms_norm_backward(&x, &self.weight.get(), &dy, self.eps, self.weight.trainable)?;
        if let Some(dw) = dw {
            grads.add(&self.weight, dw)?;
        }
        Ok(dx)
    }
}
