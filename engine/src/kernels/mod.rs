//! Functions on tensors without gradients, the only code that knows hardware. Each has a form for the CPU and one for
//! other devices ([`device`]); tests compare both with forms that candle can differentiate (`plain`).

pub mod activation;
pub mod adamw;
pub mod amx;
pub mod attention;
pub mod composed;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod distil;
mod dots;
pub mod dropout;
pub mod head;
pub(crate) mod lanes;
pub mod layer_norm;
pub mod matmul;
#[cfg(target_arch = "x86_64")]
mod micro;
pub mod norm;
mod packed;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(test)]
pub mod plain;
pub mod product;
pub mod profile;
pub mod rope;
pub(crate) mod values;

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};
use rayon::prelude::*;
use std::{cell::RefCell, ops::Deref};
use values::{Element, Held, each, hold, room, simd, typed};

/// The values of a contiguous float32 tensor on the CPU.
pub struct Floats<'a>(Held<'a>);

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        f32::slice(self.0.values())
    }
}

/// Borrows the values of `t`, which must be contiguous, float32 and on the CPU.
pub fn floats(t: &Tensor) -> Result<Floats<'_>> {
    if t.dtype() != DType::F32 {
        return Err(Error::Internal(format!("float32 expected, got {:?}", t.dtype())));
    }
    Ok(Floats(hold(t)?))
}

/// Does `f` on one of the threads that compute: from any other thread each operation would wait for one to wake up.
pub fn on_worker<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

/// Whether the CPU form of a kernel applies.
pub fn on_cpu(t: &Tensor) -> bool {
    t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::BF16)
}

/// Changes the values of `t` in place. `t` must not share its storage with a tensor that `f` reads.
pub fn update(t: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(t.inplace_op1(&Update(RefCell::new(Some(f))))?)
}

/// `a + b` of equal shape, in float32 if either is; takes over a's memory where it can.
pub fn add(a: Tensor, b: &Tensor) -> Result<Tensor> {
    profile::time("sums of tensors", || sum_of(a, b))
}

fn sum_of(a: Tensor, b: &Tensor) -> Result<Tensor> {
    if !on_cpu(&a) {
        let wide = if b.dtype() == DType::F32 { DType::F32 } else { a.dtype() };
        return Ok((a.to_dtype(wide)? + b.to_dtype(wide)?)?);
    }
    if a.dtype() == DType::F32 && a.is_contiguous() {
        let b = hold(b)?;
        update(&a, |a| each!(b.values(), b => rows(a, b, 1 << 14, add_values)))?;
        return Ok(a);
    }
    let (shape, held) = (a.shape().clone(), [hold(&a)?, hold(b)?]);
    typed!(b.dtype(), T => {
        let mut y = room::<T>(a.elem_count());
        each!(held[0].values(), a => each!(held[1].values(), b => {
            let n = 1 << 14;
            let parts = y.par_chunks_mut(n).zip(a.par_chunks(n)).zip(b.par_chunks(n));
            parts.for_each(|((y, a), b)| sums(y, a, b));
        }));
        Ok(T::tensor(y, shape)?)
    })
}

/// Adds a row (dim), in float32, to each row of y (…, dim).
pub fn add_row(y: Tensor, row: &Tensor) -> Result<Tensor> {
    if !on_cpu(&y) {
        return Ok(y.broadcast_add(&row.to_dtype(y.dtype())?)?);
    }
    let (shape, held, row) = (y.shape().clone(), hold(&y)?, floats(row)?);
    typed!(y.dtype(), T => {
        let mut out = room::<T>(y.elem_count());
        each!(held.values(), y => rows(&mut out, y, row.len(), |o, y| sums(o, y, &row)));
        Ok(T::tensor(out, shape)?)
    })
}

/// The sum of all rows (tokens, dim), in float32.
pub fn sum_rows(x: &Tensor) -> Result<Tensor> {
    if !on_cpu(x) {
        return Ok(x.to_dtype(DType::F32)?.sum(0)?);
    }
    let (held, dim) = (hold(x)?, x.dim(1)?);
    let mut sum = vec![0.0; dim];
    each!(held.values(), x => x.chunks(dim).for_each(|row| add_values(&mut sum, row)));
    Ok(Tensor::from_vec(sum, dim, x.device())?)
}

/// Gradient (rows, dim) of a table whose rows `ids` were looked up and multiplied by `factor`, given d (tokens, dim).
pub fn scatter_rows(d: &Tensor, ids: &[u32], rows: usize, factor: f32) -> Result<Tensor> {
    let dim = d.dim(1)?;
    if !on_cpu(d) {
        let table = Tensor::zeros((rows, dim), DType::F32, d.device())?;
        let d = (d.to_dtype(DType::F32)? * f64::from(factor))?;
        return Ok(table.index_add(&Tensor::new(ids, d.device())?, &d, 0)?);
    }
    let (values, mut table) = (floats(d)?, vec![0.0; rows * dim]);
    for (id, row) in ids.iter().zip(values.chunks(dim)) {
        table[*id as usize * dim..][..dim].iter_mut().zip(row).for_each(|(t, d)| *t += d * factor);
    }
    Ok(Tensor::from_vec(table, (rows, dim), d.device())?)
}

simd! {
    fn add_values[X: Element](y: &mut [f32], x: &[X]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x.get());
    }

    fn sums[T: Element, A: Element, B: Element](y: &mut [T], a: &[A], b: &[B]) {
        y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = T::of(a.get() + b.get()));
    }
}

/// Applies `f` to parts of `y` and `x` of at most `n` values, on all threads.
pub(crate) fn rows<T: Element, U: Element>(y: &mut [T], x: &[U], n: usize, f: impl Fn(&mut [T], &[U]) + Sync) {
    y.par_chunks_mut(n).zip(x.par_chunks(n)).with_min_len(rows_per_task(n)).for_each(|(y, x)| f(y, x));
}

/// Rows that one parallel task works on, so that small tensors stay on one thread.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

struct Update<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(values)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("update wants a contiguous float32 tensor")
        };
        match self.0.borrow_mut().take() {
            Some(f) => f(&mut values[start..end]),
            None => candle_core::bail!("update ran twice"),
        }
        Ok(())
    }
}
