//! Linear with its low-rank branch. Linears that read the same x share what is made of it.

use super::{Block, Patch};
use crate::{
    Result,
    kernels::{
        self,
        dropout::dropout,
        matmul::{self, Factor, Times},
        values::cast,
    },
    model::{Grads, Keep, Parameter, Pass, Value, Weights},
};
use candle_core::{D, DType, Tensor};
use std::sync::Arc;

/// `y = x wᵀ + b`, plus the branch of an adapter. A frozen weight has no gradient and costs none.
pub struct Linear {
    /// (out, in)
    pub weight: Arc<Parameter>,
    /// (out)
    pub bias: Option<Arc<Parameter>>,
    pub branch: Option<LowRank>,
    /// What changes it otherwise.
    pub patch: Option<Box<dyn Patch>>,
}

/// `scale · dropout(x) aᵀ bᵀ`, the branch that LoRA (Hu et al., 2021) adds to a linear.
pub struct LowRank {
    /// Name of the linear, from which its random numbers come.
    pub site: String,
    /// (rank, in)
    pub a: Arc<Parameter>,
    /// (out, rank)
    pub b: Arc<Parameter>,
    pub scale: f32,
    /// Probability that a value of x is dropped in training.
    pub dropout: f32,
    /// (rank, 1): factors on the rows of a (AdaLoRA's singular values).
    pub sizes: Option<Arc<Parameter>>,
    /// What the weight gave up where the branch was made of it (PiSSA, OLoRA); frozen, and in the branch's place in a
    /// pass through the base.
    pub given: Option<Box<LowRank>>,
}

impl Linear {
    pub fn new(weight: Arc<Parameter>, bias: Option<Arc<Parameter>>) -> Self {
        Self { weight, bias, branch: None, patch: None }
    }

    /// (in, out)
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self.weight.dims()[..] {
            [out, inp] => Ok((inp, out)),
            _ => Err(crate::Error::Internal(format!("{} is no matrix", self.weight.name))),
        }
    }

    /// Weight and bias.
    pub fn parameters(&self) -> Vec<&Parameter> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().map(AsRef::as_ref).collect()
    }

    /// Whether a tuning type attached anything.
    pub fn is_adapted(&self) -> bool {
        self.branch.is_some() || self.patch.is_some()
    }

    /// Weight and bias of a plain linear that does the same as this with what is attached, in float32.
    pub fn merged(&self) -> Result<(Tensor, Option<Tensor>)> {
        match &self.patch {
            Some(patch) => patch.merged(self),
            None => Ok((self.sum()?, self.bias.as_ref().map(|bias| bias.get()))),
        }
    }

    /// Itself with what is attached merged into weight and bias, in their types.
    pub fn settled(self) -> Result<Self> {
        if self.is_adapted() {
            let (weight, bias) = self.merged()?;
            for (parameter, value) in [(Some(&self.weight), Some(weight)), (self.bias.as_ref(), bias)] {
                if let (Some(parameter), Some(value)) = (parameter, value) {
                    parameter.set(cast(&value, parameter.get().dtype())?);
                }
            }
        }
        Ok(Self { branch: None, patch: None, ..self })
    }

    /// The weight and its branch in float32.
    pub(super) fn sum(&self) -> Result<Tensor> {
        let weight = cast(&self.weight.get(), DType::F32)?;
        match &self.branch {
            Some(branch) => Ok((weight + branch.product()?)?),
            None => Ok(weight),
        }
    }

    /// `x wᵀ` and the branch: the linear without bias and patch.
    pub(super) fn products(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let mut ys = products(&[self], x, pass, keep)?;
        ys.pop().ok_or_else(|| crate::Error::Internal("a linear has no output".into()))
    }

    /// Gradient of x, given that of [`Linear::products`].
    pub(super) fn products_backward(
        &self,
        dy: Tensor,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        products_backward(&[self], &[cast(&dy, pass.compute)?], pass, keep, grads)
    }

    pub(super) fn add_bias(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => kernels::add_row(y, &bias.get()),
            None => Ok(y),
        }
    }

    pub(super) fn bias_backward(&self, dy: &Tensor, grads: &mut Grads) -> Result<()> {
        match self.bias.as_ref().filter(|bias| bias.trainable) {
            Some(bias) => grads.add(bias, kernels::sum_rows(dy)?),
            None => Ok(()),
        }
    }

    /// The branch that acts in this pass.
    fn branch_in(&self, pass: &Pass) -> Option<&LowRank> {
        let branch = self.branch.as_ref()?;
        match pass.weights {
            Weights::Tuned => Some(branch),
            Weights::Base => branch.given.as_deref(),
        }
    }

    /// The patch that acts in this pass.
    fn patch_in(&self, pass: &Pass) -> Option<&dyn Patch> {
        self.patch.as_deref().filter(|_| pass.weights == Weights::Tuned)
    }

    /// Whether backward reads x.
    fn learns_from_x(&self) -> bool {
        self.weight.trainable || self.branch.is_some()
    }
}

impl Block for Linear {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let mut ys = forward_all(&[self], x, pass, keep)?;
        ys.pop().ok_or_else(|| crate::Error::Internal("a linear has no output".into()))
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        backward_all(&[self], vec![dy], pass, keep, grads)
    }
}

impl Linear {
    /// As [`Block::forward`], for an x that is cheaper to make again than to keep. (A patch keeps what it wants.)
    pub fn forward_again(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let y = self.forward(x, pass, keep)?;
        if self.learns_from_x() && self.patch.is_none() && !keep.is_off() {
            keep.pop()?;
        }
        Ok(y)
    }

    /// The gradient of the x that [`Linear::forward_again`] had, given that x again.
    pub fn backward_again(
        &self,
        x: &Tensor,
        dy: Tensor,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        if self.learns_from_x() && self.patch.is_none() {
            keep.push(&cast(x, pass.compute)?);
        }
        self.backward(dy, pass, keep, grads)
    }
}

/// Outputs of linears that read the same x, in their order.
pub fn forward_all(linears: &[&Linear], x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Vec<Tensor>> {
    if linears.iter().all(|linear| linear.patch_in(pass).is_none()) {
        let ys = products(linears, x, pass, keep)?;
        return linears.iter().zip(ys).map(|(linear, y)| linear.add_bias(y)).collect();
    }
    let alone = |linear: &&Linear| match linear.patch_in(pass) {
        Some(patch) => patch.forward(linear, x, pass, keep),
        None => linear.add_bias(linear.products(x, pass, keep)?),
    };
    linears.iter().map(alone).collect()
}

/// Gradient of the x that the linears share, given those of their outputs.
pub fn backward_all(
    linears: &[&Linear],
    dys: Vec<Tensor>,
    pass: &Pass,
    keep: &mut Keep,
    grads: &mut Grads,
) -> Result<Tensor> {
    let dys = dys.iter().map(|dy| cast(dy, pass.compute)).collect::<Result<Vec<_>>>()?;
    if linears.iter().all(|linear| linear.patch_in(pass).is_none()) {
        for (linear, dy) in linears.iter().zip(&dys) {
            linear.bias_backward(dy, grads)?;
        }
        return products_backward(linears, &dys, pass, keep, grads);
    }
    let mut sum = None;
    for (linear, dy) in linears.iter().zip(dys).rev() {
        let dx = match linear.patch_in(pass) {
            Some(patch) => patch.backward(linear, dy, pass, keep, grads)?,
            None => {
                linear.bias_backward(&dy, grads)?;
                linear.products_backward(dy, pass, keep, grads)?
            }
        };
        sum = Some(match sum {
            Some(sum) => kernels::add(sum, &dx)?,
            None => dx,
        });
    }
    sum.ok_or_else(|| crate::Error::Internal("no linear has a gradient".into()))
}

/// `x wᵀ` with the branch, of each linear: what is packed of x is shared.
fn products(linears: &[&Linear], x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Vec<Tensor>> {
    let x = cast(x, pass.compute)?;
    let shared = Factor::new(&x, pass.compute)?;
    let lows = down_all(linears, &x, pass)?;
    let mut ys = Vec::with_capacity(linears.len());
    for (linear, low) in linears.iter().zip(&lows) {
        let (weight, factor) = (linear.weight.value(), low.as_ref().map(|l| Factor::new(l, pass.compute)).transpose()?);
        let b = linear.branch_in(pass).map(|branch| branch.b.get());
        let mut products = vec![weight.across(&shared)];
        products.extend(factor.iter().zip(&b).map(|(low, b)| Times::Across(low, b)));
        ys.push(matmul::sum(&products, pass.compute)?);
    }
    lows.iter().flatten().for_each(|low| keep.push(low));
    if linears.iter().any(|l| l.learns_from_x()) {
        keep.push(&x);
    }
    Ok(ys)
}

/// Gradient of the x that the linears share, given those of what [`products`] gave, in the type of the pass.
fn products_backward(
    linears: &[&Linear],
    dys: &[Tensor],
    pass: &Pass,
    keep: &mut Keep,
    grads: &mut Grads,
) -> Result<Tensor> {
    let compute = pass.compute;
    let x = if linears.iter().any(|l| l.learns_from_x()) { Some(keep.pop()?) } else { None };
    let last_first = linears.iter().rev().map(|l| l.branch.is_some().then(|| keep.pop()).transpose());
    let mut lows = last_first.collect::<Result<Vec<_>>>()?;
    lows.reverse();
    let dlows = up_all(linears, dys, compute)?;
    for ((linear, dy), low) in linears.iter().zip(dys).zip(&lows) {
        if let Some(x) = x.as_ref().filter(|_| linear.weight.trainable) {
            grads.add(&linear.weight, matmul::outer(dy, x, compute)?)?;
        }
        if let Some((branch, low)) = linear.branch.as_ref().zip(low.as_ref()) {
            grads.add(&branch.b, matmul::outer(low, dy, compute)?.t()?.contiguous()?)?;
        }
    }
    if let Some(x) = &x {
        down_gradients(linears, x, &dlows, pass, grads)?;
    }
    let factors = dys.iter().map(|dy| Factor::new(dy, compute)).collect::<Result<Vec<_>>>()?;
    let weights: Vec<Value> = linears.iter().map(|l| l.weight.value()).collect();
    let mut products: Vec<Times> = factors.iter().zip(&weights).map(|(dy, w)| w.down(dy)).collect();
    let mut branches = Vec::new();
    for (branch, dlow) in branches_of(linears).zip(dlows.iter().flatten()) {
        branches.push((branch, Factor::new(dlow, compute)?, branch.down()?));
    }
    let (plain, dropping): (Vec<_>, Vec<_>) = branches.iter().partition(|(branch, ..)| branch.key(pass).is_none());
    products.extend(plain.iter().map(|(_, dlow, a)| Times::Down(dlow, a)));
    let mut dx = matmul::sum(&products, compute)?;
    for (branch, dlow, a) in dropping {
        let part = matmul::sum(&[Times::Down(dlow, a)], compute)?;
        dx = kernels::add(dx, &branch.drop(&part, pass)?)?;
    }
    Ok(dx)
}

impl LowRank {
    /// A branch of nothing but a and b.
    pub fn new(site: &str, a: Arc<Parameter>, b: Arc<Parameter>, scale: f32, dropout: f32) -> Self {
        Self { site: site.into(), a, b, scale, dropout, sizes: None, given: None }
    }

    /// What it adds to the weight, in float32.
    pub fn product(&self) -> Result<Tensor> {
        Ok((self.b.get().matmul(&self.down()?)? * f64::from(self.scale))?)
    }

    /// a with its sizes (rank, in).
    pub(super) fn down(&self) -> Result<Tensor> {
        match &self.sizes {
            Some(sizes) => Ok(self.a.get().broadcast_mul(&sizes.get())?),
            None => Ok(self.a.get()),
        }
    }

    /// Takes the gradient of [`LowRank::down`].
    fn learn_down(&self, gradient: Tensor, grads: &mut Grads) -> Result<()> {
        let Some(sizes) = &self.sizes else { return grads.add(&self.a, gradient) };
        grads.add(sizes, (&gradient * self.a.get())?.sum_keepdim(1)?)?;
        grads.add(&self.a, gradient.broadcast_mul(&sizes.get())?)
    }

    /// Key of its dropout in this pass, if any value is dropped.
    pub(super) fn key(&self, pass: &Pass) -> Option<u64> {
        pass.random_at(&self.site).filter(|_| self.dropout > 0.0)
    }

    pub(super) fn drop(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self.key(pass) {
            Some(key) => dropout(x, self.dropout, key),
            None => Ok(x.clone()),
        }
    }
}

fn branches_of<'a>(linears: &[&'a Linear]) -> impl Iterator<Item = &'a LowRank> {
    linears.iter().filter_map(|l| l.branch.as_ref())
}

/// `scale · dropout(x) aᵀ` (tokens, rank) of each linear's branch; in one product where they see the same x.
fn down_all(linears: &[&Linear], x: &Tensor, pass: &Pass) -> Result<Vec<Option<Tensor>>> {
    let branches = || linears.iter().filter_map(|linear| linear.branch_in(pass));
    if branches().any(|b| b.key(pass).is_some()) {
        let down = |b: &LowRank| matmul::narrow(&b.drop(x, pass)?, &scaled(&b.down()?, b.scale)?, pass.compute);
        return linears.iter().map(|l| l.branch_in(pass).map(down).transpose()).collect();
    }
    let factors = branches().map(|b| scaled(&b.down()?, b.scale)).collect::<Result<Vec<_>>>()?;
    if factors.is_empty() {
        return Ok(linears.iter().map(|_| None).collect());
    }
    let together = matmul::narrow(x, &Tensor::cat(&factors, 0)?, pass.compute)?;
    let mut from = 0;
    let mut part = |b: &LowRank| -> Result<Tensor> {
        let rank = b.a.get().dim(0)?;
        let low = together.narrow(D::Minus1, from, rank)?.contiguous()?;
        from += rank;
        Ok(low)
    };
    linears.iter().map(|l| l.branch_in(pass).map(&mut part).transpose()).collect()
}

/// `scale · dy b` (tokens, rank), the gradient of what [`down_all`] gave before its scale.
fn up_all(linears: &[&Linear], dys: &[Tensor], compute: DType) -> Result<Vec<Option<Tensor>>> {
    let up = |(linear, dy): (&&Linear, &Tensor)| {
        let branch = linear.branch.as_ref();
        branch.map(|b| matmul::narrow(dy, &scaled(&b.b.get().t()?.contiguous()?, b.scale)?, compute)).transpose()
    };
    linears.iter().zip(dys).map(up).collect()
}

/// Adds the gradients of every a; in one product where the branches see the same x.
fn down_gradients(
    linears: &[&Linear],
    x: &Tensor,
    dlows: &[Option<Tensor>],
    pass: &Pass,
    grads: &mut Grads,
) -> Result<()> {
    let branches: Vec<(&LowRank, &Tensor)> = branches_of(linears).zip(dlows.iter().flatten()).collect();
    if branches.iter().any(|(b, _)| b.key(pass).is_some()) {
        for (branch, dlow) in branches {
            branch.learn_down(matmul::outer(dlow, &branch.drop(x, pass)?, pass.compute)?, grads)?;
        }
        return Ok(());
    }
    let dlows: Vec<&Tensor> = branches.iter().map(|(_, dlow)| *dlow).collect();
    if dlows.is_empty() {
        return Ok(());
    }
    let together = matmul::outer(&Tensor::cat(&dlows, 1)?.contiguous()?, x, pass.compute)?;
    let mut from = 0;
    for (branch, _) in branches {
        let rank = branch.a.get().dim(0)?;
        branch.learn_down(together.narrow(0, from, rank)?.copy()?, grads)?;
        from += rank;
    }
    Ok(())
}

fn scaled(factor: &Tensor, scale: f32) -> Result<Tensor> {
    Ok((factor * f64::from(scale))?)
}
