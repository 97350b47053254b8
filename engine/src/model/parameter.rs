//! Parameters by name, their gradients, and the ordered store of those that training changes.

use crate::{Error, Result, kernels};
use candle_core::Tensor;
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// A named tensor of the model. Frozen ones never get a gradient.
#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    pub trainable: bool,
    /// The file has the transpose of the value.
    pub transposed: bool,
    value: RwLock<Tensor>,
}

impl Parameter {
    pub fn new(name: impl Into<String>, value: Tensor, trainable: bool) -> Arc<Self> {
        Arc::new(Self { name: name.into(), trainable, transposed: false, value: RwLock::new(value) })
    }

    /// A weight (out, in) that the file has as (in, out), the form of `stored`.
    pub fn from_transposed(name: impl Into<String>, stored: &Tensor, trainable: bool) -> Result<Arc<Self>> {
        let value = RwLock::new(stored.t()?.contiguous()?);
        Ok(Arc::new(Self { name: name.into(), trainable, transposed: true, value }))
    }

    /// `value` of this parameter in the form of the file.
    pub fn stored(&self, value: Tensor) -> Result<Tensor> {
        Ok(if self.transposed { value.t()?.contiguous()? } else { value })
    }

    /// The present value; a cheap clone that later updates leave alone.
    pub fn get(&self) -> Tensor {
        self.value.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub fn set(&self, value: Tensor) {
        *self.value.write().unwrap_or_else(std::sync::PoisonError::into_inner) = value;
    }
}

/// The parameters that training changes, in the order of their names: optimizer state, checkpoints and resume rely on
/// that order being the same in every process.
#[derive(Clone, Debug, Default)]
pub struct Store {
    trainable: BTreeMap<String, Arc<Parameter>>,
    /// Factors on the learning rate, where they aren't 1.
    rates: BTreeMap<String, f64>,
}

impl Store {
    /// A trainable parameter, remembered here.
    pub fn add(&mut self, name: impl Into<String>, value: Tensor) -> Arc<Parameter> {
        let parameter = Parameter::new(name, value, true);
        self.remember(&parameter);
        parameter
    }

    /// Takes up a trainable parameter.
    pub fn remember(&mut self, parameter: &Arc<Parameter>) {
        self.trainable.insert(parameter.name.clone(), parameter.clone());
    }

    pub fn trainable(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.trainable.values()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Parameter>> {
        self.trainable.get(name)
    }

    /// Gives each parameter its factor on the learning rate.
    pub fn set_rates(&mut self, factor: impl Fn(&Parameter) -> f64) {
        let factors = self.trainable.values().map(|p| (p.name.clone(), factor(p)));
        self.rates = factors.filter(|(_, factor)| *factor != 1.0).collect();
    }

    /// The factor on a parameter's learning rate.
    pub fn rate(&self, name: &str) -> f64 {
        self.rates.get(name).copied().unwrap_or(1.0)
    }

    /// Values in all.
    pub fn count(&self) -> u64 {
        self.trainable.values().map(|p| p.get().elem_count() as u64).sum()
    }
}

/// Gradients by parameter name, accumulated in place.
#[derive(Debug, Default)]
pub struct Grads(BTreeMap<String, Tensor>);

impl Grads {
    /// Adds to the gradient of a parameter.
    pub fn add(&mut self, parameter: &Parameter, gradient: Tensor) -> Result<()> {
        if !parameter.trainable {
            return Err(Error::Internal(format!("{} is frozen and must not get a gradient", parameter.name)));
        }
        match self.0.remove(&parameter.name) {
            Some(sum) => self.0.insert(parameter.name.clone(), kernels::add(sum, &gradient)?),
            None => self.0.insert(parameter.name.clone(), gradient),
        };
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }
}
