//! The values that a tuning begins with where it was read from a PEFT folder.

use super::problems;
use crate::{
    Error, Result,
    files::adapter::read_tensors,
    model::{Network, Parameter},
};
use candle_core::{DType, Device, Tensor};
use std::{collections::BTreeMap, path::Path};

/// By parameter name; empty for a new adapter.
#[derive(Default)]
pub struct Values {
    tensors: BTreeMap<String, Tensor>,
    /// Where they came from, for messages.
    origin: String,
}

impl Values {
    pub fn read(dir: &Path) -> Result<Self> {
        Ok(Self { tensors: read_tensors(dir, &Device::Cpu)?, origin: dir.display().to_string() })
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a value.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::dims)
    }

    /// A value in float32, if there is one; refused where it has another shape than `dims`.
    pub fn get(&self, name: &str, dims: &[usize], device: &Device) -> Result<Option<Tensor>> {
        let Some(value) = self.tensors.get(name) else { return Ok(None) };
        if value.dims() != dims {
            return Err(problems::other_shape(&self.origin, name, value.dims(), dims));
        }
        Ok(Some(value.to_dtype(DType::F32)?.to_device(device)?))
    }

    /// Gives a parameter of the base its value, if there is one: in float32 even where the model's own is bf16, since
    /// it was trained so.
    pub fn put(&self, parameter: &Parameter) -> Result<()> {
        if !self.tensors.contains_key(&parameter.name) {
            return Ok(());
        }
        let present = parameter.stored(parameter.get())?;
        if let Some(value) = self.get(&parameter.name, present.dims(), present.device())? {
            parameter.set(parameter.stored(value)?);
        }
        Ok(())
    }

    /// As [`Values::put`], for all parameters of a model.
    pub fn place(&self, model: &dyn Network) -> Result<()> {
        model.parameters().into_iter().try_for_each(|p| self.put(p))
    }

    pub fn other_model(&self, name: &str, found: &str, wanted: &str) -> Error {
        problems::other_model(&self.origin, name, found, wanted)
    }
}
