//! The tensors of a model with its adapter merged in, made one at a time.

use crate::{
    Result,
    loaded::Loaded,
    model::{Parameter, blocks::Linear},
};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// Where each tensor of the merged model comes from.
pub struct Merged<'a> {
    loaded: &'a Loaded,
    /// Those that the adapter changed, by the name of their weight.
    linears: BTreeMap<String, &'a Linear>,
    biases: BTreeMap<String, &'a Linear>,
    /// Base parameters, trained or come with the adapter; none without one.
    parameters: BTreeMap<String, &'a Parameter>,
}

impl<'a> Merged<'a> {
    pub fn new(loaded: &'a Loaded) -> Self {
        let adapted: Vec<&Linear> =
            loaded.model.linears().into_iter().map(|(_, linear)| linear).filter(|linear| linear.is_adapted()).collect();
        let bias = |linear: &&'a Linear| Some((linear.bias.as_ref()?.name.clone(), *linear));
        let all = loaded.tuning.iter().flat_map(|_| loaded.model.parameters());
        Self {
            loaded,
            linears: adapted.iter().map(|linear| (linear.weight.name.clone(), *linear)).collect(),
            biases: adapted.iter().filter_map(bias).collect(),
            parameters: all.map(|parameter| (parameter.name.clone(), parameter)).collect(),
        }
    }

    /// The tensor of a Hugging Face name in the form of its file, in float32 where the adapter changed it.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        if let Some(linear) = self.linears.get(name) {
            return linear.weight.stored(linear.merged()?.0);
        }
        if let Some(bias) = self.biases.get(name).map(|linear| linear.merged()).transpose()?.and_then(|(_, bias)| bias)
        {
            return Ok(bias);
        }
        match self.parameters.get(name) {
            Some(parameter) => parameter.stored(parameter.get()),
            None => self.loaded.files.tensor(name, DType::F32, &Device::Cpu),
        }
    }
}
