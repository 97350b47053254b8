//! Safetensors files that are small enough to be read and written whole: adapters, value heads.

use super::{
    safetensors::{float_type, read_header},
    shard::{self, Planned},
    source::Source,
    tokenizer::wrong_file,
};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::{cmp::Reverse, collections::BTreeMap, path::Path};

/// All tensors of a file by their names, in their stored types. None at all is a problem.
pub fn read(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let source = Source::open(path)?;
    let mut tensors = BTreeMap::new();
    for entry in read_header(&source)? {
        let kind = float_type(&entry.dtype)
            .ok_or_else(|| wrong_file(path, &format!("{} has the type {}", entry.name, entry.dtype)))?;
        let bytes = source.read(entry.offset, entry.size)?;
        tensors.insert(entry.name, Tensor::from_raw_buffer(&bytes, kind, &entry.shape, device)?);
    }
    if tensors.is_empty() {
        return Err(wrong_file(path, "it has no tensors"));
    }
    Ok(tensors)
}

/// Names and shapes of all tensors of a file, whatever their types.
pub fn shapes(path: &Path) -> Result<Vec<(String, Vec<usize>)>> {
    let entries = read_header(&Source::open(path)?)?;
    Ok(entries.into_iter().map(|entry| (entry.name, entry.shape)).collect())
}

/// Writes tensors of float32, float16, bfloat16 or bytes as they are.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let planned = |(name, tensor): (&String, &Tensor)| Planned {
        name: name.clone(),
        dtype: tensor.dtype(),
        shape: tensor.dims().to_vec(),
    };
    let mut plan: Vec<Planned> = tensors.iter().map(planned).collect();
    // Wider types first, so that each tensor is aligned to its own.
    plan.sort_by_key(|planned| Reverse(planned.dtype.size_in_bytes()));
    shard::write(path, &plan, |planned| {
        tensors.get(&planned.name).cloned().ok_or_else(|| Error::Internal(format!("no tensor {}", planned.name)))
    })?;
    Ok(())
}
