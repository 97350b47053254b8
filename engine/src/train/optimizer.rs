//! AdamW (Loshchilov and Hutter, 2019) with float32 state, saved by parameter name.

use crate::{
    Error, Result,
    kernels::{floats, update},
    model::{Grads, Parameter, Store},
};
use api::params::TrainParams;
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

pub struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    /// Steps made.
    pub steps: u64,
    /// First and second moment, by parameter name.
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    pub fn new(params: &TrainParams) -> Self {
        Self {
            beta1: params.adam_beta1,
            beta2: params.adam_beta2,
            eps: params.adam_epsilon,
            weight_decay: params.weight_decay,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// One step of size `rate` along `scale` times the gradients. Norms and biases, all vectors, are not decayed,
    /// as transformers has it.
    pub fn step(&mut self, store: &Store, grads: &Grads, rate: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        for parameter in store.trainable() {
            let Some(gradient) = grads.get(&parameter.name) else { continue };
            self.update(parameter, gradient, rate, scale)?;
        }
        Ok(())
    }

    /// State as tensors: `m.NAME` and `v.NAME`, in the shape of the parameter.
    pub fn state(&self) -> HashMap<String, Tensor> {
        let pairs = self.moments.iter();
        pairs.flat_map(|(n, (m, v))| [(format!("m.{n}"), m.clone()), (format!("v.{n}"), v.clone())]).collect()
    }

    /// Takes up a state that [`AdamW::state`] gave, after `steps` steps.
    pub fn restore(&mut self, store: &Store, mut state: HashMap<String, Tensor>, steps: u64) -> Result<()> {
        self.steps = steps;
        for parameter in store.trainable() {
            let (m, v) =
                (state.remove(&format!("m.{}", parameter.name)), state.remove(&format!("v.{}", parameter.name)));
            match (m, v) {
                (Some(m), Some(v)) if m.shape() == parameter.get().shape() && v.shape() == m.shape() => {
                    self.moments.insert(parameter.name.clone(), (m, v));
                }
                (None, None) => {}
                _ => return Err(Error::Internal(format!("the optimizer state of {} does not fit", parameter.name))),
            }
        }
        Ok(())
    }

    fn update(&mut self, parameter: &Parameter, gradient: &Tensor, rate: f64, scale: f64) -> Result<()> {
        let value = parameter.get();
        if !self.moments.contains_key(&parameter.name) {
            let zeros = || Tensor::zeros(value.shape(), DType::F32, value.device());
            self.moments.insert(parameter.name.clone(), (zeros()?, zeros()?));
        }
        let Some((m, v)) = self.moments.get(&parameter.name) else { return Ok(()) };
        let (b1, b2) = (self.beta1 as f32, self.beta2 as f32);
        let decays = value.dims().len() > 1;
        let keep = if decays { (1.0 - rate * self.weight_decay) as f32 } else { 1.0 };
        let size = (rate / (1.0 - self.beta1.powi(self.steps as i32))) as f32;
        let root = (1.0 - self.beta2.powi(self.steps as i32)).sqrt() as f32;
        let (eps, scale) = (self.eps as f32, scale as f32);
        let g = gradient.flatten_all()?;
        let g = floats(&g)?;
        update(m, |m| m.par_iter_mut().zip(g.par_iter()).for_each(|(m, g)| *m += (g * scale - *m) * (1.0 - b1)))?;
        update(v, |v| {
            v.par_iter_mut().zip(g.par_iter()).for_each(|(v, g)| *v = b2 * *v + (1.0 - b2) * (g * scale) * (g * scale));
        })?;
        let (ms, vs, old) = (floats(m)?, floats(v)?, floats(&value)?);
        let new: Vec<f32> = old
            .par_iter()
            .zip(ms.par_iter().zip(vs.par_iter()))
            .map(|(w, (m, v))| w * keep - size * m / (v.sqrt() / root + eps))
            .collect();
        parameter.set(Tensor::from_vec(new, value.shape(), value.device())?);
        Ok(())
    }
}
