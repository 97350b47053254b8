//! Matrix products of tensors. A weight is (out, in), as Hugging Face stores a linear; rows of x are tokens. Products
//! are computed in bf16 or float32 (`compute`), with sums in float32 always.

use super::{
    cpu::{Instructions, instructions},
    dots::{dots, quantised_dots},
    on_cpu,
    packed::{Matrix, Target, Unit},
    product::{Product, Right, Rows, sum as sum_packed},
    profile::time,
    quantised::{
        Quantised,
        integers::{Eights, Width},
    },
    values::{Element, cast, hold, room, typed},
};
use crate::Result;
use candle_core::{DType, Shape, Tensor};
use std::sync::OnceLock;

/// Rows of x or of w up to which nothing is packed.
const FEW: usize = 4;

/// An x that is made ready once and serves several products.
pub struct Factor {
    tensor: Tensor,
    compute: DType,
    /// Packed, and rounded to 8 bits in blocks of either width, once a product wants it.
    rows: OnceLock<Rows>,
    of_32: OnceLock<Eights>,
    of_256: OnceLock<Eights>,
}

impl Factor {
    /// x (tokens, depth).
    pub fn new(x: &Tensor, compute: DType) -> Result<Self> {
        let x = x.contiguous()?;
        x.dims2()?;
        let tensor = if on_cpu(&x) { x } else { x.to_dtype(compute)? };
        Ok(Self { tensor, compute, rows: OnceLock::new(), of_32: OnceLock::new(), of_256: OnceLock::new() })
    }

    /// Packed, on the CPU.
    fn packed(&self) -> Result<&Rows> {
        if let Some(rows) = self.rows.get() {
            return Ok(rows);
        }
        let (rows, depth) = self.tensor.dims2()?;
        let held = hold(&self.tensor)?;
        let values = Matrix::new(held.values(), depth);
        Ok(self.rows.get_or_init(|| time("packing of x", || Rows::pack(Unit::new(self.compute), values, rows, depth))))
    }

    /// Rounded to 8 bits.
    fn eights(&self, width: Width) -> Result<&Eights> {
        let slot = match width {
            Width::Of32 => &self.of_32,
            Width::Of256 => &self.of_256,
        };
        if let Some(rounded) = slot.get() {
            return Ok(rounded);
        }
        let (held, columns) = (hold(&self.tensor)?, self.tensor.dim(1)?);
        Ok(slot.get_or_init(|| time("rounding of x", || Eights::new(held.values(), columns, width))))
    }
}

/// One product of a sum, x being (tokens, depth).
#[derive(Clone, Copy)]
pub enum Times<'a> {
    /// `x wᵀ`, w (columns, depth).
    Across(&'a Factor, &'a Tensor),
    /// `x w`, w (depth, columns).
    Down(&'a Factor, &'a Tensor),
    /// Both with a quantised w.
    AcrossQuantised(&'a Factor, &'a Quantised),
    DownQuantised(&'a Factor, &'a Quantised),
}

/// The sum of products, (tokens, columns), as `dtype`.
pub fn sum(products: &[Times], dtype: DType) -> Result<Tensor> {
    time("products", || sum_of(products, dtype))
}

fn sum_of(products: &[Times], dtype: DType) -> Result<Tensor> {
    let Some(first) = products.first() else {
        return Err(crate::Error::Internal("a sum of no products".into()));
    };
    let rows = first.x().tensor.dim(0)?;
    let columns = first.columns()?;
    let (rounding, others): (Vec<Times>, Vec<Times>) = products.iter().partition(|p| p.rounding().is_some());
    if !rounding.is_empty() {
        let rounded = rounded_sum(&rounding, rows, columns, if others.is_empty() { dtype } else { DType::F32 })?;
        return match others.is_empty() {
            true => Ok(rounded),
            false => cast(&super::add(rounded, &sum_of(&others, DType::F32)?)?, dtype),
        };
    }
    if !on_cpu(&first.x().tensor) || few(rows) {
        return one_by_one(products, dtype);
    }
    let held = products.iter().map(|p| p.w().map(hold).transpose()).collect::<Result<Vec<_>>>()?;
    let mut factors = Vec::with_capacity(products.len());
    for (p, held) in products.iter().zip(&held) {
        let b = match (p, held) {
            (Times::AcrossQuantised(_, w), _) => Right::Transposed(w),
            (Times::DownQuantised(_, w), _) => Right::Quantised(w),
            (Times::Across(_, w), Some(held)) => Matrix::new(held.values(), w.dim(1)?).transposed().into(),
            (Times::Down(_, w), Some(held)) => Matrix::new(held.values(), w.dim(1)?).into(),
            (_, None) => continue,
        };
        factors.push(Product { a: p.x().packed()?, b });
    }
    typed!(dtype, T => {
        let mut y = room::<T>(rows * columns);
        sum_packed(&factors, columns, T::target(&mut y, columns, false));
        Ok(T::tensor(y, Shape::from((rows, columns)))?)
    })
}

/// The sum of products whose w round x.
fn rounded_sum(products: &[Times], rows: usize, columns: usize, dtype: DType) -> Result<Tensor> {
    typed!(dtype, T => {
        let mut y = room::<T>(rows * columns);
        for (i, product) in products.iter().enumerate() {
            if let Some((w, width)) = product.rounding() {
                w.multiply(product.x().eights(width)?, T::target(&mut y, columns, i > 0));
            }
        }
        Ok(T::tensor(y, Shape::from((rows, columns)))?)
    })
}

/// `x wᵀ` as `dtype`: x (tokens, in), w (out, in) → (tokens, out).
pub fn linear(x: &Tensor, w: &Tensor, compute: DType, dtype: DType) -> Result<Tensor> {
    sum(&[Times::Across(&Factor::new(x, compute)?, w)], dtype)
}

/// `x wᵀ` for a w of few rows, as `compute`: x (tokens, in), w (rank, in) → (tokens, rank).
pub fn narrow(x: &Tensor, w: &Tensor, compute: DType) -> Result<Tensor> {
    time("products of low rank", || narrow_of(x, w, compute))
}

fn narrow_of(x: &Tensor, w: &Tensor, compute: DType) -> Result<Tensor> {
    if !on_cpu(x) || instructions() == Instructions::Portable {
        return linear(x, w, compute, compute);
    }
    unpacked(&cast(x, compute)?.contiguous()?, &cast(w, compute)?.contiguous()?, compute)
}

/// `xᵀ y` in float32, the gradient of a weight: x (tokens, out), y (tokens, in) → (out, in). Best with the narrower
/// of the two as x.
pub fn outer(x: &Tensor, y: &Tensor, compute: DType) -> Result<Tensor> {
    time("gradients of weights", || outer_of(x, y, compute))
}

fn outer_of(x: &Tensor, y: &Tensor, compute: DType) -> Result<Tensor> {
    let ((tokens, m), n) = (x.dims2()?, y.dim(1)?);
    if !on_cpu(x) {
        return Ok(x.to_dtype(compute)?.t()?.matmul(&y.to_dtype(compute)?)?.to_dtype(DType::F32)?);
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let (xs, ys) = (hold(&x)?, hold(&y)?);
    let unit = Unit::new(compute);
    let a = Rows::pack(unit, Matrix::new(xs.values(), m).transposed(), m, tokens);
    let mut out = room(m * n);
    let b = Matrix::new(ys.values(), n).into();
    sum_packed(&[Product { a: &a, b }], n, Target::f32(&mut out, n, false));
    Ok(Tensor::from_vec(out, (m, n), x.device())?)
}

impl<'a> Times<'a> {
    fn x(&self) -> &'a Factor {
        match self {
            Self::Across(x, _) | Self::Down(x, _) | Self::AcrossQuantised(x, _) | Self::DownQuantised(x, _) => x,
        }
    }

    /// The w that isn't quantised.
    fn w(&self) -> Option<&'a Tensor> {
        match self {
            Self::Across(_, w) | Self::Down(_, w) => Some(w),
            Self::AcrossQuantised(..) | Self::DownQuantised(..) => None,
        }
    }

    /// The w, where the product rounds x to 8 bits in blocks of some width.
    fn rounding(&self) -> Option<(&'a Quantised, Width)> {
        match self {
            Self::AcrossQuantised(_, w) => w.rounds().map(|width| (*w, width)),
            Self::Across(..) | Self::Down(..) | Self::DownQuantised(..) => None,
        }
    }

    fn columns(&self) -> Result<usize> {
        Ok(match self {
            Self::Across(_, w) => w.dim(0)?,
            Self::Down(_, w) => w.dim(1)?,
            Self::AcrossQuantised(_, w) => w.dims().0,
            Self::DownQuantised(_, w) => w.dims().1,
        })
    }
}

/// Whether so few rows aren't worth packing.
fn few(rows: usize) -> bool {
    rows <= FEW && instructions() != Instructions::Portable
}

/// On devices, and for few rows.
fn one_by_one(products: &[Times], dtype: DType) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for p in products {
        let x = &p.x().tensor;
        let y = match p {
            Times::Across(_, w) if !on_cpu(x) => x.matmul(&w.to_dtype(x.dtype())?.t()?)?,
            Times::Down(_, w) if !on_cpu(x) => x.matmul(&w.to_dtype(x.dtype())?)?,
            Times::AcrossQuantised(_, w) if !on_cpu(x) => x.matmul(&w.tensor()?.to_dtype(x.dtype())?.t()?)?,
            Times::DownQuantised(_, w) if !on_cpu(x) => x.matmul(&w.tensor()?.to_dtype(x.dtype())?)?,
            Times::Across(_, w) => unpacked(x, w, DType::F32)?,
            Times::Down(_, w) => unpacked(x, &w.t()?.contiguous()?, DType::F32)?,
            Times::AcrossQuantised(_, w) => unpacked_quantised(x, w)?,
            // A step of so few tokens is rare: one matrix at a time is dense then.
            Times::DownQuantised(_, w) => unpacked(x, &w.tensor()?.t()?.contiguous()?, DType::F32)?,
        };
        total = Some(match total {
            Some(total) => super::add(total, &y)?,
            None => y,
        });
    }
    let total = total.ok_or_else(|| crate::Error::Internal("a sum of no products".into()))?;
    cast(&total, dtype)
}

/// `x wᵀ` as `dtype`, without packing.
fn unpacked(x: &Tensor, w: &Tensor, dtype: DType) -> Result<Tensor> {
    let ((m, k), n) = (x.dims2()?, w.dim(0)?);
    let (xs, ws) = (hold(x)?, hold(w)?);
    typed!(dtype, T => {
        let mut y = room::<T>(m * n);
        dots(xs.values(), ws.values(), &mut y, m, n, k);
        Ok(T::tensor(y, Shape::from((m, n)))?)
    })
}

/// `x wᵀ` in float32, without packing.
fn unpacked_quantised(x: &Tensor, w: &Quantised) -> Result<Tensor> {
    let (m, (n, k)) = (x.dim(0)?, w.dims());
    let held = hold(x)?;
    let mut y = room(m * n);
    quantised_dots(held.values(), w, &mut y, m, n, k);
    Ok(Tensor::from_vec(y, (m, n), x.device())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn products_agree_with_candle() {
        let random = |r, c| Tensor::randn(0f32, 1.0, (r, c), &Device::Cpu).unwrap();
        let near = |a: &Tensor, b: &Tensor, most: f32| {
            let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < most, "{worst}");
        };
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (65, 33, 17), (128, 64, 130)] {
            let (x, w, dy) = (random(m, k), random(n, k), random(m, n));
            let plain = x.matmul(&w.t().unwrap()).unwrap();
            near(&linear(&x, &w, DType::F32, DType::F32).unwrap(), &plain, 1e-4);
            near(&narrow(&x, &w, DType::F32).unwrap(), &plain, 1e-4);
            near(&outer(&dy, &x, DType::F32).unwrap(), &dy.t().unwrap().matmul(&x).unwrap(), 1e-4);
            let (fx, fdy) = (Factor::new(&x, DType::F32).unwrap(), Factor::new(&dy, DType::F32).unwrap());
            let w2 = random(n, k);
            let twice = sum(&[Times::Down(&fdy, &w), Times::Down(&fdy, &w2)], DType::F32).unwrap();
            near(&twice, &dy.matmul(&(&w + &w2).unwrap()).unwrap(), 2e-4);
            let bf16 = sum(&[Times::Across(&fx, &w.to_dtype(DType::BF16).unwrap())], DType::F32).unwrap();
            near(&bf16, &plain, 0.2);
        }
    }
}
