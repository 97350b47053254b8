//! Functions on tensors without gradients, the only code that knows hardware. Each has a form for the CPU and one for
//! other devices ([`device`]); tests compare both with forms that candle can differentiate (`plain`).

pub mod activation;
pub mod attention;
pub mod cpu;
pub mod device;
pub mod dropout;
pub mod head;
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
pub mod rope;
pub(crate) mod values;

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, StorageRef, Tensor};
use rayon::prelude::*;
use std::{cell::RefCell, ops::Deref};

/// The values of a contiguous float32 tensor on the CPU.
pub struct Floats<'a> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => &[],
        }
    }
}

/// Borrows the values of `t`, which must be contiguous, float32 and on the CPU.
pub fn floats(t: &Tensor) -> Result<Floats<'_>> {
    if !on_cpu(t) {
        return Err(Error::Internal(format!("float32 on the CPU expected, got {:?} {:?}", t.dtype(), t.device())));
    }
    let (storage, layout) = t.storage_and_layout();
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::Internal("contiguous tensor expected".into()))?;
    Ok(Floats { storage, start, len: end - start })
}

/// Whether the CPU form of a kernel applies.
pub fn on_cpu(t: &Tensor) -> bool {
    t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::BF16)
}

/// Changes the values of `t` in place. `t` must not share its storage with a tensor that `f` reads.
pub fn update(t: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(t.inplace_op1(&Update(RefCell::new(Some(f))))?)
}

/// `y += x`, of equal shape.
pub fn add_assign(y: &Tensor, x: &Tensor) -> Result<()> {
    let x = floats(x)?;
    update(y, |y| y.iter_mut().zip(x.iter()).for_each(|(y, x)| *y += x))
}

/// `a + b` of equal shape; takes over `a`'s memory where it can.
pub fn add(a: Tensor, b: &Tensor) -> Result<Tensor> {
    if on_cpu(&a) && a.is_contiguous() {
        add_assign(&a, b)?;
        return Ok(a);
    }
    Ok((a + b)?)
}

/// Applies `f` to equal parts of `y` and `x` of at most `n` values, on all threads.
pub(crate) fn rows<T: values::Element, U: values::Element>(
    y: &mut [T],
    x: &[U],
    n: usize,
    f: impl Fn(&mut [T], &[U]) + Sync,
) {
    y.par_chunks_mut(n).zip(x.par_chunks(n)).for_each(|(y, x)| f(y, x));
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
