//! DoRA (Liu et al., 2024): the length of each row of the weight is trained apart from its direction, which a low-rank
//! branch changes.

use super::{
    Linear, LowRank,
    patch::{Patch, columns_times, sum_of_products},
};
use crate::{
    Error, Result,
    kernels::{
        self,
        matmul::{self, Factor, Times},
        values::cast,
    },
    model::{Grads, Keep, Parameter, Pass},
};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// What the name of m ends with.
pub const MAGNITUDE: &str = "lora_magnitude_vector";

/// `y = m / |w + s b a| ⊙ x (w + s b a)ᵀ + bias` on a linear with a branch; the lengths count as constants on the way
/// back (section 4.3 of the paper). Where the branch drops inputs, PEFT lets them through to the plain weight, and so
/// does this.
pub struct Dora {
    /// m (out)
    pub magnitude: Arc<Parameter>,
    /// Squared length of each row of the frozen weight (out).
    squares: Tensor,
}

impl Dora {
    pub fn new(linear: &Linear, magnitude: Arc<Parameter>) -> Result<Self> {
        Ok(Self { magnitude, squares: squares(linear)? })
    }

    /// Length (out) of each row of the weight with its branch: what the magnitude begins with.
    pub fn lengths_of(linear: &Linear) -> Result<Tensor> {
        lengths(linear, &squares(linear)?)
    }

    fn factors(&self, lengths: &Tensor) -> Result<Tensor> {
        Ok((self.magnitude.get() / lengths)?)
    }
}

impl Patch for Dora {
    fn forward(&self, linear: &Linear, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let branch = branch(linear)?;
        let lengths = lengths(linear, &self.squares)?;
        let factors = self.factors(&lengths)?;
        let mut z = linear.products(x, pass, keep)?;
        let mut spared = None;
        if branch.key(pass).is_some() {
            let x = cast(x, pass.compute)?;
            let change = (branch.drop(&x, pass)? - &x)?;
            let through = matmul::linear(&change, &linear.weight.get(), pass.compute, pass.compute)?;
            z = (z + &through)?;
            spared = Some(through);
        }
        keep.push(&z);
        keep.push(&lengths);
        let y = columns_times(&z, &factors)?;
        linear.add_bias(match spared {
            Some(through) => (y - through)?,
            None => y,
        })
    }

    fn backward(&self, linear: &Linear, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let (branch, dy) = (branch(linear)?, cast(&dy, pass.compute)?);
        let (lengths, z) = (keep.pop()?, keep.pop()?);
        linear.bias_backward(&dy, grads)?;
        grads.add(&self.magnitude, (sum_of_products(&dy, &z)? / &lengths)?)?;
        let dz = columns_times(&dy, &self.factors(&lengths)?)?;
        let dx = linear.products_backward(dz.clone(), pass, keep, grads)?;
        if branch.key(pass).is_none() {
            return Ok(dx);
        }
        let through = Factor::new(&(dz - dy)?, pass.compute)?;
        let through = matmul::sum(&[Times::Down(&through, &linear.weight.get())], pass.compute)?;
        kernels::add(dx, &(branch.drop(&through, pass)? - through)?)
    }

    fn merged(&self, linear: &Linear) -> Result<(Tensor, Option<Tensor>)> {
        let factors = self.factors(&lengths(linear, &self.squares)?)?;
        Ok((linear.sum()?.broadcast_mul(&factors.unsqueeze(1)?)?, linear.bias.as_ref().map(|b| b.get())))
    }
}

fn branch(linear: &Linear) -> Result<&LowRank> {
    linear.branch.as_ref().ok_or_else(|| Error::Internal("DoRA without a branch".into()))
}

fn squares(linear: &Linear) -> Result<Tensor> {
    Ok(cast(&linear.weight.get(), DType::F32)?.sqr()?.sum(1)?)
}

/// From the squares of the weight alone: `|w + s b a|² = |w|² + 2 s b · (w aᵀ) + s² b (a aᵀ) · b`, row by row, so that
/// the sum of both never exists.
fn lengths(linear: &Linear, squares: &Tensor) -> Result<Tensor> {
    let branch = branch(linear)?;
    let (a, b, scale) = (branch.down()?, branch.b.get(), f64::from(branch.scale));
    let across = matmul::linear(&linear.weight.get(), &a, DType::F32, DType::F32)?;
    let between = ((across * &b)?.sum(1)? * (2.0 * scale))?;
    let own = ((b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)? * (scale * scale))?;
    Ok(((squares + between)? + own)?.sqrt()?)
}
