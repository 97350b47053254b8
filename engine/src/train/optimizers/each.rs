//! Optimizers that treat each parameter by itself: a rule from value, gradient and state to the next value, and all
//! else written once. By candle's operations, so that they run wherever the parameters are.

use super::{Optimizer, is_decayed};
use crate::{
    Result,
    kernels::device::float,
    model::{Grads, Store},
};
use api::{Problem, params::TrainParams};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Tensors that are remembered of a parameter, by kind: a short word without a dot.
pub type State = BTreeMap<&'static str, Tensor>;

pub trait Rule: Send {
    /// The state before the first step, with every kind and its shape.
    fn begin(&self, name: &str, value: &Tensor) -> Result<State>;

    /// The next value, given a float32 value and its gradient.
    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor>;
}

/// What a rule knows of the step that it makes.
pub struct At<'a> {
    pub name: &'a str,
    /// From 1.
    pub step: u64,
    pub rate: f64,
    /// Weight decay, 0 where [`is_decayed`] says no.
    pub decay: f64,
}

impl At<'_> {
    /// `value` decayed, less `size` times `direction`.
    pub fn less(&self, value: &Tensor, direction: &Tensor, size: f64) -> Result<Tensor> {
        Ok(((value * (1.0 - self.rate * self.decay))? - (direction * size)?)?)
    }
}

/// A rule with the states of all parameters.
pub struct Each<R> {
    rule: R,
    weight_decay: f64,
    steps: u64,
    states: BTreeMap<String, State>,
}

impl<R: Rule> Each<R> {
    pub fn new(train: &TrainParams, rule: R) -> Self {
        Self { rule, weight_decay: train.weight_decay, steps: 0, states: BTreeMap::new() }
    }
}

impl<R: Rule> Optimizer for Each<R> {
    fn step(&mut self, store: &Store, grads: &Grads, rate: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        for parameter in store.trainable() {
            let Some(gradient) = grads.get(&parameter.name) else { continue };
            let (name, old) = (&parameter.name, parameter.get());
            let value = float(&old)?.contiguous()?;
            let state = match self.states.remove(name) {
                Some(state) => state,
                None => self.rule.begin(name, &value)?,
            };
            let state = self.states.entry(name.clone()).or_insert(state);
            let decay = if is_decayed(name, value.dims()) { self.weight_decay } else { 0.0 };
            let at = At { name, step: self.steps, rate: rate * store.factor(name), decay };
            let new = self.rule.next(&at, &value, &(float(gradient)?.contiguous()? * scale)?, state)?;
            parameter.set(new.to_dtype(old.dtype())?);
        }
        Ok(())
    }

    fn state(&self) -> HashMap<String, Tensor> {
        let states = self.states.iter();
        states.flat_map(|(name, state)| state.iter().map(move |(k, t)| (format!("{k}.{name}"), t.clone()))).collect()
    }

    fn restore(&mut self, store: &Store, mut saved: HashMap<String, Tensor>, steps: u64) -> Result<()> {
        self.steps = steps;
        for parameter in store.trainable() {
            let name = &parameter.name;
            let mut state = self.rule.begin(name, &parameter.get())?;
            let mut found = 0;
            for (kind, tensor) in &mut state {
                let Some(value) = saved.remove(&format!("{kind}.{name}")) else { continue };
                if value.shape() != tensor.shape() || value.dtype() != tensor.dtype() {
                    return Err(other_settings(name));
                }
                *tensor = value.to_device(tensor.device())?;
                found += 1;
            }
            if found == state.len() {
                self.states.insert(name.clone(), state);
            } else if found > 0 {
                return Err(other_settings(name));
            }
        }
        // What is left belongs to another optimizer.
        saved.keys().next().map_or(Ok(()), |key| Err(other_settings(key)))
    }
}

/// The state of a parameter is another run's.
pub fn other_settings(name: &str) -> crate::Error {
    Problem::new(
        "checkpoint_for_other_settings",
        format!("The optimizer state of {name} in the checkpoint does not fit this run."),
        format!("检查点中 {name} 的优化器状态与此运行不符。"),
    )
    .hint("Resume with the settings of the run that made it.", "请使用生成该检查点的运行设置来继续。")
    .field("resume_from_checkpoint")
    .into()
}

/// Zeros in float32 where `like` is.
pub fn zeros(like: &Tensor, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Ok(Tensor::zeros(shape, DType::F32, like.device())?)
}

/// Adam's two moments, kinds `m` and `v`.
#[derive(Clone, Copy)]
pub struct Moments {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
}

impl Moments {
    pub fn new(train: &TrainParams) -> Self {
        Self { beta1: train.adam_beta1, beta2: train.adam_beta2, eps: train.adam_epsilon }
    }

    pub fn begin(like: &Tensor, shape: &[usize]) -> Result<State> {
        Ok(State::from([("m", zeros(like, shape)?), ("v", zeros(like, shape)?)]))
    }

    /// Both moments after one more gradient.
    fn advance(&self, gradient: &Tensor, state: &mut State) -> Result<(Tensor, Tensor)> {
        let old = |kind| state.get(kind).cloned().ok_or_else(|| crate::Error::Internal(format!("no state {kind}")));
        let m = ((old("m")? * self.beta1)? + (gradient * (1.0 - self.beta1))?)?;
        let v = ((old("v")? * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        state.insert("m", m.clone());
        state.insert("v", v.clone());
        Ok((m, v))
    }

    /// Corrections of both moments at a step.
    fn corrections(&self, step: u64) -> (f64, f64) {
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        (1.0 - self.beta1.powi(power), 1.0 - self.beta2.powi(power))
    }

    /// The direction of AdamW, as PyTorch has it: `m̂ / (√v̂ + eps)`.
    pub fn direction(&self, step: u64, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let ((m, v), (first, second)) = (self.advance(gradient, state)?, self.corrections(step));
        Ok(((m / first)? / ((v.sqrt()? / second.sqrt())? + self.eps)?)?)
    }

    /// `m / (√v + eps)` and the factor that corrects it, as transformers' older AdamW, from which GaLore and APOLLO come.
    pub fn uncorrected(&self, step: u64, gradient: &Tensor, state: &mut State) -> Result<(Tensor, f64)> {
        let ((m, v), (first, second)) = (self.advance(gradient, state)?, self.corrections(step));
        Ok(((m / (v.sqrt()? + self.eps)?)?, second.sqrt() / first))
    }
}

/// Euclidean norm of all values.
pub fn norm(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}
