//! Frozen matrices in few bits: blocks of codes with a scale each. For training they are made float32 again piece by piece
//! inside a product (QLoRA; Dettmers et al., 2023); where a model only answers, the blocks of a GGUF file are multiplied as
//! they are ([`integers`]). No whole dense copy of one exists.

pub mod codes;
mod device;
mod ggml;
mod int8;
pub mod integers;
mod nf4;

use super::packed::Target;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use device::OnDevice;
use integers::{Eights, Panels, Width};
use std::{fmt::Debug, ops::Range};

/// How a matrix is quantised when it is read from its file. One that the file itself has in blocks keeps these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantisation {
    /// 4-bit NormalFloat in blocks of 64; `double` quantises the blocks' scales too.
    Nf4 { double: bool },
    /// 8-bit integers with a scale for each row.
    Int8,
}

impl Quantisation {
    /// Bytes of `values` values with their scales, about.
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            Self::Nf4 { double: true } => values / 2 + values / nf4::BLOCK as u64,
            Self::Nf4 { double: false } => values / 2 + values / nf4::BLOCK as u64 * 4,
            Self::Int8 => values,
        }
    }
}

/// The codes and scales of a matrix in the memory of the CPU.
trait Blocks: Debug + Send + Sync {
    /// Values `from..from + out.len()` of the matrix, one row after another.
    fn read(&self, from: usize, out: &mut [f32]);

    fn bytes(&self) -> usize;

    /// The same on another device, for a matrix of this shape.
    fn on(&self, shape: (usize, usize), device: &Device) -> Result<OnDevice>;
}

/// A quantised matrix (rows, columns).
#[derive(Debug)]
pub struct Quantised {
    rows: usize,
    columns: usize,
    device: Device,
    place: Place,
    /// No values.
    nothing: Tensor,
}

#[derive(Debug)]
enum Place {
    Cpu(Box<dyn Blocks>),
    /// Multiplied with an x that is rounded to 8 bits.
    Integers(Panels),
    Other(OnDevice),
}

impl Quantised {
    /// Quantises a matrix, in memory that `device` computes on.
    pub fn new(kind: Quantisation, values: &Tensor, device: &Device) -> Result<Self> {
        let (rows, columns) = values.dims2()?;
        let values = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        let values = super::floats(&values)?.to_vec();
        let blocks: Box<dyn Blocks> = match kind {
            Quantisation::Nf4 { double } => Box::new(nf4::Nf4::new(&values, double)),
            Quantisation::Int8 => Box::new(int8::Int8::new(&values, columns)),
        };
        Self::place(blocks, (rows, columns), device)
    }

    /// The blocks that a GGUF file has, bytes and all.
    pub fn from_ggml(kind: GgmlDType, bytes: &[u8], shape: (usize, usize), device: &Device) -> Result<Self> {
        Self::place(ggml::blocks(kind, bytes)?, shape, device)
    }

    /// The blocks that a GGUF file has, for a model that only answers: products round x to 8 bits. `None` for kinds of
    /// blocks without such a product.
    pub fn integers(kind: GgmlDType, bytes: &[u8], (rows, columns): (usize, usize)) -> Result<Option<Self>> {
        let Some(panels) = Panels::new(kind, bytes, (rows, columns)) else { return Ok(None) };
        let nothing = Tensor::zeros(0, DType::F32, &Device::Cpu)?;
        Ok(Some(Self { rows, columns, device: Device::Cpu, place: Place::Integers(panels), nothing }))
    }

    /// The blocks of x that its products want, if they round x.
    pub fn rounds(&self) -> Option<Width> {
        match &self.place {
            Place::Integers(panels) => Some(panels.width()),
            Place::Cpu(_) | Place::Other(_) => None,
        }
    }

    /// `to (+)= x wᵀ`, this being a w that [`rounds`](Self::rounds) x.
    pub(super) fn multiply(&self, x: &Eights, to: Target) {
        if let Place::Integers(panels) = &self.place {
            panels.multiply(x, to);
        }
    }

    /// The rows of some numbers, (numbers, columns) in float32. One that it hasn't is an error.
    pub fn rows(&self, numbers: &[u32]) -> Result<Tensor> {
        if let Place::Other(there) = &self.place {
            let numbers = Tensor::new(numbers, &self.device)?;
            return Ok(there.tensor(self.dims())?.index_select(&numbers, 0)?);
        }
        let (mut all, mut row) = (Vec::with_capacity(numbers.len() * self.columns), Vec::new());
        for number in numbers.iter().map(|number| *number as usize) {
            if number >= self.rows {
                return Err(Error::Internal(format!("row {number} of a matrix of {}", self.rows)));
            }
            self.read(number..number + 1, 0..self.columns, &mut row);
            all.extend_from_slice(&row);
        }
        Ok(Tensor::from_vec(all, (numbers.len(), self.columns), &self.device)?)
    }

    fn place(blocks: Box<dyn Blocks>, (rows, columns): (usize, usize), device: &Device) -> Result<Self> {
        let place = match device.is_cpu() {
            true => Place::Cpu(blocks),
            false => Place::Other(blocks.on((rows, columns), device)?),
        };
        let nothing = Tensor::zeros(0, DType::F32, device)?;
        Ok(Self { rows, columns, device: device.clone(), place, nothing })
    }

    /// (rows, columns)
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        match &self.place {
            Place::Cpu(blocks) => blocks.bytes(),
            Place::Integers(panels) => panels.bytes(),
            Place::Other(there) => there.bytes(),
        }
    }

    /// The whole matrix in float32, for what isn't a product.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.place {
            Place::Cpu(_) | Place::Integers(_) => {
                let mut values = Vec::new();
                self.read(0..self.rows, 0..self.columns, &mut values);
                Ok(Tensor::from_vec(values, (self.rows, self.columns), &Device::Cpu)?)
            }
            Place::Other(there) => there.tensor((self.rows, self.columns)),
        }
    }

    /// As [`tensor`](Self::tensor), for those who can't be refused: where the memory of a device doesn't suffice it has
    /// no values, and the next operation fails by its shape.
    pub fn dense(&self) -> Tensor {
        self.tensor().unwrap_or_else(|_| self.nothing.clone())
    }

    /// Puts a part of the matrix into `out`, row after row. Of a matrix on another device there is nothing to read.
    pub(super) fn read(&self, rows: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
        if matches!(self.place, Place::Other(_)) {
            return;
        }
        assert!(rows.end <= self.rows && columns.end <= self.columns, "a part reaches past its matrix");
        out.resize(rows.len() * columns.len(), 0.0);
        let rows_of_out = |out: &'_ mut Vec<f32>, read: &dyn Fn(usize, &mut [f32])| {
            rows.clone().zip(out.chunks_mut(columns.len().max(1))).for_each(|(row, out)| read(row, out));
        };
        match &self.place {
            Place::Cpu(blocks) if columns.len() == self.columns => blocks.read(rows.start * self.columns, out),
            Place::Cpu(blocks) => rows_of_out(out, &|row, out| blocks.read(row * self.columns + columns.start, out)),
            Place::Integers(panels) => rows_of_out(out, &|row, out| panels.read_row(row, columns.clone(), out)),
            Place::Other(_) => {}
        }
    }
}

/// Calls `f` for each stretch of `from..from + out.len()` that lies in one block of `size` values: number of the block,
/// first value in it, and where its values go.
fn by_block(from: usize, mut out: &mut [f32], size: usize, mut f: impl FnMut(usize, usize, &mut [f32])) {
    let mut at = from;
    while !out.is_empty() {
        let (block, first) = (at / size, at % size);
        let (part, rest) = out.split_at_mut((size - first).min(out.len()));
        f(block, first, part);
        (at, out) = (at + part.len(), rest);
    }
}

fn unreadable(kind: GgmlDType) -> Error {
    Error::Internal(format!("{kind:?} has no quantised blocks"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
