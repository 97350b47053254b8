//! OFT (Qiu et al., 2023): the inputs of a linear are turned, block by block, before its weight sees them.

use super::{Linear, patch::Patch};
use crate::{
    Result,
    kernels::{device::gradients, values::cast},
    model::{Grads, Keep, Parameter, Pass},
};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// `y = (x R) wᵀ + b`, R block-diagonal and made of skew-symmetric matrices Q by the first terms of the Cayley
/// transform's series, `I + 2 Q + 2 Q² + … + Qⁿ` (Qiu et al., 2025), as PEFT 0.18 has it.
pub struct Rotate {
    /// The upper triangles of Q, row by row: (blocks, size (size - 1) / 2); one row where all blocks share it.
    pub triangles: Arc<Parameter>,
    /// Width of a block; divides the inputs.
    pub size: usize,
    /// Terms of the series, the first included; two at least.
    pub terms: usize,
}

impl Rotate {
    /// R (blocks, size, size), of one block where all share it.
    fn rotations(&self, triangles: &Tensor) -> Result<Tensor> {
        let (blocks, n) = (triangles.dim(0)?, self.size);
        let (places, signs) = self.places(triangles.device())?;
        // The value behind the last is the diagonal's 0.
        let zero = Tensor::zeros((blocks, 1), DType::F32, triangles.device())?;
        let q = Tensor::cat(&[triangles, &zero], 1)?.index_select(&places, 1)?.reshape((blocks, n, n))?;
        let q = q.broadcast_mul(&signs)?;
        let mut sum = Tensor::eye(n, DType::F32, triangles.device())?.broadcast_as((blocks, n, n))?.contiguous()?;
        if self.terms == 2 {
            return Ok((sum + (q * 2.0)?)?);
        }
        // As PEFT counts them: the last power stands once, and no series ends before the third.
        let mut power = q.clone();
        for _ in 1..(self.terms - 1).max(3) {
            sum = (sum + (&power * 2.0)?)?;
            power = power.matmul(&q)?;
        }
        Ok((sum + power)?)
    }

    /// Where in a triangle each value of Q stands, and its sign (size, size).
    fn places(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let n = self.size;
        let at = |i: usize, j: usize| (i * (2 * n - i - 1) / 2 + (j - i - 1)) as u32;
        let (mut places, mut signs) = (Vec::with_capacity(n * n), Vec::with_capacity(n * n));
        for (i, j) in (0..n * n).map(|k| (k / n, k % n)) {
            places.push(match i.cmp(&j) {
                std::cmp::Ordering::Less => at(i, j),
                std::cmp::Ordering::Equal => (n * (n - 1) / 2) as u32,
                std::cmp::Ordering::Greater => at(j, i),
            });
            signs.push(if i < j { 1f32 } else { -1.0 });
        }
        Ok((Tensor::from_vec(places, n * n, device)?, Tensor::from_vec(signs, (n, n), device)?))
    }

    /// x (rows, in) as (blocks, rows, size) in float32.
    fn blocks(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, inp) = x.dims2()?;
        let x = cast(x, DType::F32)?.reshape((rows, inp / self.size, self.size))?;
        Ok(x.transpose(0, 1)?.contiguous()?)
    }

    fn whole(&self, blocks: &Tensor) -> Result<Tensor> {
        Ok(blocks.transpose(0, 1)?.contiguous()?.flatten_from(1)?)
    }

    /// x (rows, in) turned by the blocks (or the one block) of `rotations`.
    fn turned(&self, x: &Tensor, rotations: &Tensor) -> Result<Tensor> {
        self.whole(&self.blocks(x)?.broadcast_matmul(rotations)?)
    }
}

impl Patch for Rotate {
    fn forward(&self, linear: &Linear, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let turned = self.turned(x, &self.rotations(&self.triangles.get())?)?;
        let y = linear.products(&turned, pass, keep)?;
        keep.push(&cast(x, pass.compute)?);
        linear.add_bias(y)
    }

    fn backward(&self, linear: &Linear, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = self.blocks(&keep.pop()?)?;
        linear.bias_backward(&dy, grads)?;
        let dturned = self.blocks(&linear.products_backward(dy, pass, keep, grads)?)?;
        let triangles = self.triangles.get();
        let rotations = self.rotations(&triangles)?;
        let mut drotations = x.transpose(1, 2)?.contiguous()?.matmul(&dturned)?;
        if rotations.dim(0)? == 1 {
            drotations = drotations.sum_keepdim(0)?;
        }
        let [dtriangles] = gradients([&triangles], &drotations, |[triangles]| self.rotations(triangles))?;
        grads.add(&self.triangles, dtriangles)?;
        let back = rotations.transpose(1, 2)?.contiguous()?;
        cast(&self.whole(&dturned.broadcast_matmul(&back)?)?, pass.compute)
    }

    /// `(x R) wᵀ = x (w Rᵀ)ᵀ`.
    fn merged(&self, linear: &Linear) -> Result<(Tensor, Option<Tensor>)> {
        let back = self.rotations(&self.triangles.get())?.transpose(1, 2)?.contiguous()?;
        Ok((self.turned(&linear.sum()?, &back)?, linear.bias.as_ref().map(|b| b.get())))
    }
}
