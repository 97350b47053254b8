//! Writing a GGUF file (version 3) tensor by tensor: the header goes first, so kinds and shapes are told beforehand.

use super::{atomic::create_atomically, gguf::Value};
use crate::{Error, Result};
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use rayon::prelude::*;
use std::{io::Write, path::Path};

/// Where tensors begin, in bytes.
const ALIGNMENT: u64 = 32;
/// Values that a thread quantises at a time.
const PART: usize = 1 << 18;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub name: String,
    pub kind: GgmlDType,
    /// Slowest dimension first, as PyTorch has it.
    pub shape: Vec<usize>,
}

impl Planned {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        (self.elements() / self.kind.block_size() * self.kind.type_size()) as u64
    }
}

/// Writes metadata and `plan` in their order as the file `path`, asking `tensor` for one tensor after the other; the file
/// appears when it is whole and flushed. Rows of quantised tensors must be whole blocks. `progress` hears bytes done and in
/// all.
pub fn write(
    path: &Path,
    metadata: &[(String, Value)],
    plan: &[Planned],
    mut tensor: impl FnMut(&Planned) -> Result<Tensor>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let total = plan.iter().map(Planned::size).sum();
    let mut done = 0;
    create_atomically(path, |out| {
        let header = header(metadata, plan)?;
        out.write_all(&header).map_err(Error::io(path))?;
        for planned in plan {
            progress(done, total);
            let tensor = tensor(planned)?;
            if tensor.dims() != planned.shape {
                let (name, got, expected) = (&planned.name, tensor.dims(), &planned.shape);
                return Err(Error::Internal(format!("{name} has the shape {got:?}, {expected:?} was expected")));
            }
            out.write_all(&encoded(&tensor, planned.kind)?).map_err(Error::io(path))?;
            out.write_all(&vec![0; padding(planned.size())]).map_err(Error::io(path))?;
            done += planned.size();
        }
        progress(done, total);
        Ok(())
    })
}

/// Bytes of a tensor on the CPU as `kind`.
pub fn encoded(tensor: &Tensor, kind: GgmlDType) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match kind {
        GgmlDType::F32 => flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        GgmlDType::F16 => {
            flat.to_dtype(DType::F16)?.to_vec1::<half::f16>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        GgmlDType::BF16 => {
            flat.to_dtype(DType::BF16)?.to_vec1::<half::bf16>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        _ => {
            let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            let parts = values.par_chunks(PART).map(|part| {
                let part = Tensor::from_slice(part, part.len(), &Device::Cpu)?;
                Ok(QTensor::quantize(&part, kind)?.data()?.into_owned())
            });
            parts.collect::<Result<Vec<_>>>()?.concat()
        }
    })
}

/// Bytes from the end of a tensor to the next.
fn padding(size: u64) -> usize {
    (size.next_multiple_of(ALIGNMENT) - size) as usize
}

fn header(metadata: &[(String, Value)], plan: &[Planned]) -> Result<Vec<u8>> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((plan.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut out, key);
        put_value(&mut out, key, value)?;
    }
    let mut offset = 0_u64;
    for planned in plan {
        put_text(&mut out, &planned.name);
        out.extend((planned.shape.len() as u32).to_le_bytes());
        for dim in planned.shape.iter().rev() {
            out.extend((*dim as u64).to_le_bytes());
        }
        out.extend(number(planned.kind).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = offset.saturating_add(planned.size()).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len() + padding(out.len() as u64), 0);
    Ok(out)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Whole numbers as 32 bits, which is what llama.cpp expects of all that models have.
fn put_value(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<()> {
    let too_large = || Error::Internal(format!("{key} doesn't fit into 32 bits"));
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let array = |out: &mut Vec<u8>, of: u32, count: usize| {
        out.extend(9_u32.to_le_bytes());
        out.extend(of.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::Uint(n) => {
            kind(out, 4);
            out.extend(u32::try_from(*n).map_err(|_| too_large())?.to_le_bytes());
        }
        Value::Int(n) => {
            kind(out, 5);
            out.extend(i32::try_from(*n).map_err(|_| too_large())?.to_le_bytes());
        }
        Value::Float32(x) => {
            kind(out, 6);
            out.extend(x.to_le_bytes());
        }
        Value::Float(x) => {
            kind(out, 12);
            out.extend(x.to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(out, 7);
            out.push(u8::from(*flag));
        }
        Value::Text(text) => {
            kind(out, 8);
            put_text(out, text);
        }
        Value::Texts(texts) => {
            array(out, 8, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
        Value::Ints(numbers) => {
            array(out, 5, numbers.len());
            for n in numbers {
                out.extend(i32::try_from(*n).map_err(|_| too_large())?.to_le_bytes());
            }
        }
        Value::Floats(numbers) => {
            array(out, 6, numbers.len());
            numbers.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
    Ok(())
}

/// Of a kind of blocks in the file.
fn number(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::files::{gguf::read_header, source::Source};

    /// What is written is read again: every kind of value, tensors of every kind at their places.
    #[test]
    fn a_file_that_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let metadata: Vec<(String, Value)> = [
            ("a.uint", Value::Uint(7)),
            ("a.int", Value::Int(-7)),
            ("a.float", Value::Float32(1e-5)),
            ("a.double", Value::Float(0.1)),
            ("a.flag", Value::Bool(true)),
            ("a.text", Value::Text("你好".into())),
            ("a.texts", Value::Texts(vec!["a".into(), String::new()])),
            ("a.ints", Value::Ints(vec![1, -2])),
            ("a.floats", Value::Floats(vec![0.5])),
        ]
        .map(|(key, value)| (key.to_string(), value))
        .into();
        let kinds = [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q6K];
        let planned =
            |(i, kind): (usize, &GgmlDType)| Planned { name: format!("t{i}"), kind: *kind, shape: vec![3, 256] };
        let plan: Vec<Planned> = kinds.iter().enumerate().map(planned).collect();
        let values: Vec<f32> = (0..768).map(|i| (i as f32 * 0.37).sin()).collect();
        let tensor = Tensor::from_vec(values, (3, 256), &Device::Cpu).unwrap();
        let mut told = Vec::new();
        write(&path, &metadata, &plan, |_| Ok(tensor.clone()), &mut |done, total| told.push((done, total))).unwrap();
        let source = Source::open(&path).unwrap();
        let header = read_header(&source).unwrap();
        assert_eq!(header.metadata.len(), metadata.len());
        for (key, value) in &metadata {
            assert_eq!(&header.metadata[key], value);
        }
        for (info, planned) in header.tensors.iter().zip(&plan) {
            assert_eq!((&info.name, info.dtype, &info.shape), (&planned.name, planned.kind, &planned.shape));
            let bytes = source.read(info.offset, info.size).unwrap();
            assert_eq!(bytes, encoded(&tensor, planned.kind).unwrap());
        }
        assert_eq!(told.last().map(|(done, total)| done == total), Some(true));
        assert!(write(&path, &metadata, &plan, |_| Ok(tensor.t().unwrap()), &mut |_, _| {}).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let metadata = [("n".to_string(), Value::Uint(1 << 40))];
        assert!(header(&metadata, &[]).is_err());
    }
}
