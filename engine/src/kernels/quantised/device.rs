//! Quantised matrices on other devices, made dense by candle's operations for each product.

use crate::Result;
use candle_core::{DType, Device, Tensor, quantized::QTensor};

#[derive(Debug)]
pub enum OnDevice {
    Table {
        /// A byte for one or more values.
        codes: Tensor,
        /// (256, values of a byte)
        table: Tensor,
        /// (blocks, 1)
        scales: Tensor,
        block: usize,
    },
    Ggml(QTensor),
}

impl OnDevice {
    pub fn table(codes: &[u8], table: &[f32], scales: Vec<f32>, block: usize, device: &Device) -> Result<Self> {
        let each = table.len() / 256;
        // The last block may be short.
        let mut padded = codes.to_vec();
        padded.resize((scales.len() * block).div_ceil(each), 0);
        let (count, blocks) = (padded.len(), scales.len());
        Ok(Self::Table {
            codes: Tensor::from_vec(padded, count, device)?,
            table: Tensor::from_slice(table, (256, each), device)?,
            scales: Tensor::from_vec(scales, (blocks, 1), device)?,
            block,
        })
    }

    pub fn tensor(&self, shape: (usize, usize)) -> Result<Tensor> {
        match self {
            Self::Table { codes, table, scales, block } => {
                // As u32: of the largest index of a type, candle gives zeros.
                let values = table.index_select(&codes.to_dtype(DType::U32)?, 0)?.reshape(((), *block))?;
                let values = values.broadcast_mul(scales)?.flatten_all()?;
                Ok(values.narrow(0, 0, shape.0 * shape.1)?.reshape(shape)?)
            }
            Self::Ggml(tensor) => Ok(tensor.dequantize(&tensor.device())?),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Table { codes, scales, .. } => codes.elem_count() + scales.elem_count() * 4,
            Self::Ggml(tensor) => tensor.storage_size_in_bytes(),
        }
    }
}
