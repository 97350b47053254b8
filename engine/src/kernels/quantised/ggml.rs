//! The blocks of a GGUF file as they are; candle knows what they mean.

#![allow(unsafe_code)]

use super::{Blocks, OnDevice, by_block, unreadable};
use crate::{Error, Result};
use candle_core::{
    Device,
    quantized::{
        GgmlDType, QStorage, QTensor,
        k_quants::{
            BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
            BlockQ8K, GgmlType,
        },
    },
};
use std::{
    borrow::Cow,
    fmt::{Debug, Formatter},
};

/// Most values of a block.
const MOST: usize = 256;

/// The blocks of a tensor.
pub fn blocks(kind: GgmlDType, bytes: &[u8]) -> Result<Box<dyn Blocks>> {
    Ok(match kind {
        GgmlDType::Q4_0 => Box::new(Ggml::<BlockQ4_0>::new(bytes)?),
        GgmlDType::Q4_1 => Box::new(Ggml::<BlockQ4_1>::new(bytes)?),
        GgmlDType::Q5_0 => Box::new(Ggml::<BlockQ5_0>::new(bytes)?),
        GgmlDType::Q5_1 => Box::new(Ggml::<BlockQ5_1>::new(bytes)?),
        GgmlDType::Q8_0 => Box::new(Ggml::<BlockQ8_0>::new(bytes)?),
        GgmlDType::Q2K => Box::new(Ggml::<BlockQ2K>::new(bytes)?),
        GgmlDType::Q3K => Box::new(Ggml::<BlockQ3K>::new(bytes)?),
        GgmlDType::Q4K => Box::new(Ggml::<BlockQ4K>::new(bytes)?),
        GgmlDType::Q5K => Box::new(Ggml::<BlockQ5K>::new(bytes)?),
        GgmlDType::Q6K => Box::new(Ggml::<BlockQ6K>::new(bytes)?),
        GgmlDType::Q8K => Box::new(Ggml::<BlockQ8K>::new(bytes)?),
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_1 => return Err(unreadable(kind)),
    })
}

struct Ggml<T>(Vec<T>);

impl<T: GgmlType> Ggml<T> {
    fn new(bytes: &[u8]) -> Result<Self> {
        let size = size_of::<T>();
        if !bytes.len().is_multiple_of(size) || T::BLCK_SIZE > MOST {
            return Err(Error::Internal(format!("{} bytes are no whole blocks of {:?}", bytes.len(), T::DTYPE)));
        }
        let mut all: Vec<T> = Vec::with_capacity(bytes.len() / size);
        // SAFETY: room for as many bytes; each block is plain numbers, of which every bit pattern is one.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), all.as_mut_ptr().cast(), bytes.len());
            all.set_len(bytes.len() / size);
        }
        Ok(Self(all))
    }

    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the blocks have no padding: they are as large as their bytes in the file.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(self.0.as_slice())) }
    }
}

impl<T> Debug for Ggml<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} blocks", self.0.len())
    }
}

impl<T: GgmlType> Blocks for Ggml<T> {
    fn read(&self, from: usize, out: &mut [f32]) {
        by_block(from, out, T::BLCK_SIZE, |block, first, out| {
            let block = std::slice::from_ref(&self.0[block]);
            if out.len() == T::BLCK_SIZE {
                return T::to_float(block, out);
            }
            let mut values = [0.0; MOST];
            T::to_float(block, &mut values[..T::BLCK_SIZE]);
            out.copy_from_slice(&values[first..first + out.len()]);
        });
    }

    fn bytes(&self) -> usize {
        size_of_val(self.0.as_slice())
    }

    fn on(&self, shape: (usize, usize), device: &Device) -> Result<OnDevice> {
        let storage = QStorage::from_data(Cow::Borrowed(self.as_bytes()), device, T::DTYPE)?;
        Ok(OnDevice::Ggml(QTensor::new(storage, shape)?))
    }
}
