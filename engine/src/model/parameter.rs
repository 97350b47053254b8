//! Parameters by name, their gradients, and the ordered store of those that training changes.

use crate::{
    Error, Result,
    kernels::{
        self,
        matmul::{Factor, Times},
        quantised::Quantised,
    },
};
use candle_core::{Device, Tensor};
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
    value: RwLock<Value>,
}

/// What a parameter holds; a clone is cheap.
#[derive(Clone, Debug)]
pub enum Value {
    Dense(Tensor),
    /// A frozen matrix in few bits.
    Quantised(Arc<Quantised>),
}

impl Value {
    /// `x wᵀ`, this being w (columns, depth).
    pub fn across<'a>(&'a self, x: &'a Factor) -> Times<'a> {
        match self {
            Self::Dense(w) => Times::Across(x, w),
            Self::Quantised(w) => Times::AcrossQuantised(x, w),
        }
    }

    /// `x w`, this being w (depth, columns).
    pub fn down<'a>(&'a self, x: &'a Factor) -> Times<'a> {
        match self {
            Self::Dense(w) => Times::Down(x, w),
            Self::Quantised(w) => Times::DownQuantised(x, w),
        }
    }
}

impl Parameter {
    pub fn new(name: impl Into<String>, value: Tensor, trainable: bool) -> Arc<Self> {
        let value = RwLock::new(Value::Dense(value));
        Arc::new(Self { name: name.into(), trainable, transposed: false, value })
    }

    /// A frozen weight (out, in) in few bits, of which the file may have the transpose.
    pub fn quantised(name: impl Into<String>, value: Quantised, transposed: bool) -> Arc<Self> {
        let value = RwLock::new(Value::Quantised(value.into()));
        Arc::new(Self { name: name.into(), trainable: false, transposed, value })
    }

    /// A frozen weight (out, in) with the value of another.
    pub fn holding(name: impl Into<String>, value: Value, transposed: bool) -> Arc<Self> {
        Arc::new(Self { name: name.into(), trainable: false, transposed, value: RwLock::new(value) })
    }

    /// A weight (out, in) that the file has as (in, out), the form of `stored`.
    pub fn from_transposed(name: impl Into<String>, stored: &Tensor, trainable: bool) -> Result<Arc<Self>> {
        let value = RwLock::new(Value::Dense(stored.t()?.contiguous()?));
        Ok(Arc::new(Self { name: name.into(), trainable, transposed: true, value }))
    }

    /// `value` of this parameter in the form of the file.
    pub fn stored(&self, value: Tensor) -> Result<Tensor> {
        Ok(if self.transposed { value.t()?.contiguous()? } else { value })
    }

    /// What it holds now; later updates leave it alone.
    pub fn value(&self) -> Value {
        self.value.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The present value; a cheap clone that later updates leave alone. Of a quantised weight a dense copy in float32,
    /// made for it: products take [`value`](Self::value).
    pub fn get(&self) -> Tensor {
        match self.value() {
            Value::Dense(tensor) => tensor,
            Value::Quantised(quantised) => quantised.dense(),
        }
    }

    /// The rows of some numbers, (numbers, columns), of a matrix.
    pub fn rows(&self, numbers: &[u32]) -> Result<Tensor> {
        match self.value() {
            Value::Dense(tensor) => Ok(tensor.index_select(&Tensor::new(numbers, tensor.device())?, 0)?),
            Value::Quantised(quantised) => quantised.rows(numbers),
        }
    }

    pub fn set(&self, value: Tensor) {
        *self.value.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Value::Dense(value);
    }

    pub fn dims(&self) -> Vec<usize> {
        match self.value() {
            Value::Dense(tensor) => tensor.dims().to_vec(),
            Value::Quantised(quantised) => vec![quantised.dims().0, quantised.dims().1],
        }
    }

    pub fn device(&self) -> Device {
        match self.value() {
            Value::Dense(tensor) => tensor.device().clone(),
            Value::Quantised(quantised) => quantised.device().clone(),
        }
    }

    pub fn is_quantised(&self) -> bool {
        matches!(self.value(), Value::Quantised(_))
    }
}

/// The parameters that training changes, in the order of their names: optimizer state, checkpoints and resume rely on
/// that order being the same in every process.
#[derive(Clone, Debug, Default)]
pub struct Store {
    trainable: BTreeMap<String, Arc<Parameter>>,
    /// Factors on the learning rate, where they aren't 1.
    factors: BTreeMap<String, f64>,
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
    pub fn set_factors(&mut self, factor: impl Fn(&Parameter) -> f64) {
        let factors = self.trainable.values().map(|p| (p.name.clone(), factor(p)));
        self.factors = factors.filter(|(_, factor)| *factor != 1.0).collect();
    }

    /// Factor on the learning rate of a parameter.
    pub fn factor(&self, name: &str) -> f64 {
        self.factors.get(name).copied().unwrap_or(1.0)
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

    /// Those of the parameters that `wanted` names.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let some = self.0.iter().filter(|(name, _)| wanted(name));
        Self(some.map(|(name, gradient)| (name.clone(), gradient.clone())).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }
}
