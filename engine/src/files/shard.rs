//! Writing a safetensors file tensor by tensor: the header goes first, so shapes and types are told beforehand.

use super::atomic::create_atomically;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use serde_json::{Map, json};
use std::{
    io::{self, Write},
    path::Path,
};

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct Planned {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl Planned {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.shape.iter().fold(self.dtype.size_in_bytes() as u64, |n, dim| n.saturating_mul(*dim as u64))
    }
}

/// Writes `plan` in its order as the file `path`, asking `tensor` for one after the other; the file appears when it
/// is whole and flushed. Each tensor must have the planned shape; its type is converted.
pub fn write(path: &Path, plan: &[Planned], mut tensor: impl FnMut(&Planned) -> Result<Tensor>) -> Result<()> {
    create_atomically(path, |out| {
        out.write_all(&header(plan)?).map_err(Error::io(path))?;
        for planned in plan {
            let tensor = tensor(planned)?;
            if tensor.dims() != planned.shape {
                let (name, got, expected) = (&planned.name, tensor.dims(), &planned.shape);
                return Err(Error::Internal(format!("{name} has the shape {got:?}, {expected:?} was expected")));
            }
            write_tensor(out, &tensor.to_dtype(planned.dtype)?)?.map_err(Error::io(path))?;
        }
        Ok(())
    })
}

/// Name of a type in safetensors.
fn type_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        DType::U8 => Ok("U8"),
        other => Err(Error::Internal(format!("{other:?} is not written to safetensors"))),
    }
}

fn header(plan: &[Planned]) -> Result<Vec<u8>> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut from = 0_u64;
    for planned in plan {
        let to = from.saturating_add(planned.size());
        let entry = json!({ "dtype": type_name(planned.dtype)?, "shape": planned.shape, "data_offsets": [from, to] });
        map.insert(planned.name.clone(), entry);
        from = to;
    }
    let mut json = serde_json::Value::Object(map).to_string();
    // The data begins at a multiple of 8, as the reference implementation has it.
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    Ok(bytes)
}

/// Little-endian elements. The outer error is candle's, the inner one the disk's.
fn write_tensor(out: &mut impl Write, tensor: &Tensor) -> Result<io::Result<()>> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => write_elements(out, &flat.to_vec1::<f32>()?, |x| x.to_le_bytes()),
        DType::F16 => write_elements(out, &flat.to_vec1::<half::f16>()?, |x| x.to_le_bytes()),
        DType::U8 => out.write_all(&flat.to_vec1::<u8>()?),
        _ => write_elements(out, &flat.to_vec1::<half::bf16>()?, |x| x.to_le_bytes()),
    })
}

fn write_elements<T: Copy, const N: usize>(
    out: &mut impl Write,
    elements: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(N << 16);
    for chunk in elements.chunks(1 << 16) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|x| bytes(*x)));
        out.write_all(&buffer)?;
    }
    Ok(())
}
