//! The values of tensors as slices, of float32 or bf16, and functions over them compiled for the widest vectors that
//! the processor has.

#![allow(unsafe_code)]

use super::packed::Target;
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Device, Shape, Storage, StorageRef, Tensor};
use half::bf16;

/// A number as memory holds it; computed with as float32.
pub trait Element: Copy + Send + Sync + 'static {
    fn get(self) -> f32;

    fn of(x: f32) -> Self;

    /// Values of this type; none of another.
    fn slice(values: Values<'_>) -> &[Self];

    fn tensor(values: Vec<Self>, shape: Shape) -> candle_core::Result<Tensor>;

    /// These values as the target of a product, `stride` of them a row.
    fn target(values: &mut [Self], stride: usize, add: bool) -> Target;
}

impl Element for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    fn slice(values: Values<'_>) -> &[Self] {
        if let Values::F32(v) = values { v } else { &[] }
    }

    fn tensor(values: Vec<Self>, shape: Shape) -> candle_core::Result<Tensor> {
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn target(values: &mut [Self], stride: usize, add: bool) -> Target {
        Target::f32(values, stride, add)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Rounded to nearest even, without branches so that it compiles to vector code.
    #[inline(always)]
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let bits = if x.is_nan() { bits | 0x40_0000 } else { rounded };
        bf16::from_bits((bits >> 16) as u16)
    }

    fn slice(values: Values<'_>) -> &[Self] {
        if let Values::Bf16(v) = values { v } else { &[] }
    }

    fn tensor(values: Vec<Self>, shape: Shape) -> candle_core::Result<Tensor> {
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn target(values: &mut [Self], stride: usize, add: bool) -> Target {
        Target::bf16(values, stride, add)
    }
}

/// Values in memory.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Values<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::Bf16(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those from `start` on; none if there are no more.
    pub fn from(&self, start: usize) -> Values<'a> {
        match self {
            Self::F32(v) => Self::F32(&v[start.min(v.len())..]),
            Self::Bf16(v) => Self::Bf16(&v[start.min(v.len())..]),
        }
    }
}

/// Runs an expression for either type of values.
macro_rules! each {
    ($values:expr, $v:ident => $body:expr) => {
        match $values {
            $crate::kernels::values::Values::F32($v) => $body,
            $crate::kernels::values::Values::Bf16($v) => $body,
        }
    };
}
pub(crate) use each;

/// Runs an expression with a type name bound to the element type of a dtype.
macro_rules! typed {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}
pub(crate) use typed;

/// A contiguous tensor on the CPU, borrowed.
pub struct Held<'a> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
}

impl Held<'_> {
    pub fn values(&self) -> Values<'_> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(v)) => Values::F32(&v[self.start..self.end]),
            Storage::Cpu(CpuStorage::BF16(v)) => Values::Bf16(&v[self.start..self.end]),
            // `hold` lets no other in.
            _ => Values::F32(&[]),
        }
    }
}

/// Borrows a tensor, which must be contiguous, float32 or bf16, and on the CPU.
pub fn hold(t: &Tensor) -> Result<Held<'_>> {
    if !super::on_cpu(t) {
        return Err(Error::Internal(format!("values on the CPU expected, got {:?} {:?}", t.dtype(), t.device())));
    }
    let (storage, layout) = t.storage_and_layout();
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::Internal("contiguous tensor expected".into()))?;
    Ok(Held { storage, start, end })
}

/// Room for `n` values that the caller writes before it reads any.
#[allow(clippy::uninit_vec)]
pub(crate) fn room<T: Element>(n: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(n);
    // SAFETY: `Element` is f32 or bf16, whose every bit pattern is a value, and every kernel writes before it reads;
    // filling large buffers with zeros first costs a fifth of a step.
    unsafe { values.set_len(n) };
    values
}

/// The same values as another type.
pub fn cast(t: &Tensor, dtype: DType) -> Result<Tensor> {
    if t.dtype() == dtype {
        return Ok(t.clone());
    }
    if !super::on_cpu(t) {
        return Ok(t.to_dtype(dtype)?);
    }
    let t = t.contiguous()?;
    let held = hold(&t)?;
    typed!(dtype, T => {
        let mut out = room::<T>(t.elem_count());
        each!(held.values(), v => super::rows(&mut out, v, 1 << 14, convert));
        Ok(T::tensor(out, t.shape().clone())?)
    })
}

/// A function compiled for AVX-512 and AVX2 besides the baseline; the best is chosen when it is called.
macro_rules! simd {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident [$($bounds:tt)*] ($($arg:ident: $t:ty),* $(,)?) $(-> $r:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name<$($bounds)*>($($arg: $t),*) $(-> $r)? {
            #[inline(always)]
            fn body<$($bounds)*>($($arg: $t),*) $(-> $r)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512<$($bounds)*>($($arg: $t),*) $(-> $r)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($bounds)*>($($arg: $t),*) $(-> $r)? {
                    body($($arg),*)
                }
                use $crate::kernels::cpu::{Instructions, instructions};
                if instructions() <= Instructions::Avx512 {
                    // SAFETY: the processor has these instructions.
                    return unsafe { avx512($($arg),*) };
                }
                if instructions() == Instructions::Avx2 {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use simd;

simd! {
    /// Copies values as another type.
    pub(crate) fn convert[T: Element, U: Element](out: &mut [T], x: &[U]) {
        out.iter_mut().zip(x).for_each(|(o, x)| *o = T::of(x.get()));
    }
}
