//! AdamW (Loshchilov and Hutter, 2019) with float32 state, as PyTorch's: in one pass over memory on the CPU, joined on
//! devices.

use super::{Entry, Optimizer, each::other_settings, groups, in_place, is_decayed, join};
use crate::{
    Result,
    kernels::{
        adamw::{Step, adamw},
        floats, update,
    },
    model::{Grads, Parameter, Store},
    train::clip::all_finite,
};
use api::params::{self, TrainParams};
use candle_core::{DType, Tensor};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::AdamwTorch,
    start: |train, _| Box::new(AdamW::new(train)),
    bytes: |trainable| trainable * 8,
    whole: false,
};

pub struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    /// Steps made.
    pub steps: u64,
    /// Whether all values that the last of them made here, not on a device, are finite.
    finite: bool,
    /// Whether it made some on a device.
    elsewhere: bool,
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
            finite: true,
            elsewhere: false,
            moments: BTreeMap::new(),
        }
    }
}

impl Optimizer for AdamW {
    /// Norms and biases are not decayed, as transformers has it.
    fn step(&mut self, store: &Store, grads: &Grads, rate: f64, scale: f64) -> Result<()> {
        self.steps += 1;
        self.finite = true;
        let mut on_device = Vec::new();
        for parameter in store.trainable() {
            let Some(gradient) = grads.get(&parameter.name) else { continue };
            self.begin(parameter)?;
            match in_place(gradient) && in_place(&parameter.get()) {
                true => self.update(parameter, gradient, rate * store.factor(&parameter.name), scale)?,
                false => on_device.push((parameter, gradient)),
            }
        }
        self.elsewhere = !on_device.is_empty();
        // Those of one learning rate together.
        on_device.sort_by(|(a, _), (b, _)| store.factor(&a.name).total_cmp(&store.factor(&b.name)));
        for some in on_device.chunk_by(|(a, _), (b, _)| store.factor(&a.name) == store.factor(&b.name)) {
            let factor = some.first().map_or(1.0, |(parameter, _)| store.factor(&parameter.name));
            self.update_together(some.to_vec(), rate * factor, scale)?;
        }
        Ok(())
    }

    fn left_finite(&self, store: &Store) -> Result<bool> {
        Ok(self.finite && (!self.elsewhere || all_finite(store)?))
    }

    /// `m.NAME` and `v.NAME`, in the shape of the parameter.
    fn state(&self) -> HashMap<String, Tensor> {
        let pairs = self.moments.iter();
        pairs.flat_map(|(n, (m, v))| [(format!("m.{n}"), m.clone()), (format!("v.{n}"), v.clone())]).collect()
    }

    fn restore(&mut self, store: &Store, mut state: HashMap<String, Tensor>, steps: u64) -> Result<()> {
        self.steps = steps;
        for parameter in store.trainable() {
            let (m, v) =
                (state.remove(&format!("m.{}", parameter.name)), state.remove(&format!("v.{}", parameter.name)));
            match (m, v) {
                (Some(m), Some(v)) if m.shape() == parameter.get().shape() && v.shape() == m.shape() => {
                    let device = parameter.get().device().clone();
                    self.moments.insert(parameter.name.clone(), (m.to_device(&device)?, v.to_device(&device)?));
                }
                (None, None) => {}
                _ => return Err(other_settings(&parameter.name)),
            }
        }
        // What is left belongs to another optimizer.
        state.keys().next().map_or(Ok(()), |key| Err(other_settings(key)))
    }
}

impl AdamW {
    fn begin(&mut self, parameter: &Parameter) -> Result<()> {
        if !self.moments.contains_key(&parameter.name) {
            let value = parameter.get();
            let zeros = || Tensor::zeros(value.shape(), DType::F32, value.device());
            self.moments.insert(parameter.name.clone(), (zeros()?, zeros()?));
        }
        Ok(())
    }

    /// What a value is multiplied with, the step's size, and the root of the second moment's correction.
    fn factors(&self, decayed: bool, rate: f64) -> (f64, f64, f64) {
        let keep = if decayed { 1.0 - rate * self.weight_decay } else { 1.0 };
        let size = rate / (1.0 - self.beta1.powi(self.steps as i32));
        (keep, size, (1.0 - self.beta2.powi(self.steps as i32)).sqrt())
    }

    fn update(&mut self, parameter: &Parameter, gradient: &Tensor, rate: f64, scale: f64) -> Result<()> {
        let value = parameter.get();
        let Some((m, v)) = self.moments.get(&parameter.name) else { return Ok(()) };
        let (keep, size, root) = self.factors(is_decayed(&parameter.name, &parameter.dims()), rate);
        let step = Step {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            eps: self.eps as f32,
            scale: scale as f32,
            keep: keep as f32,
            size: size as f32,
            root: root as f32,
        };
        let g = gradient.flatten_all()?;
        let (g, old, mut made, mut second) = (floats(&g)?, floats(&value)?, (Vec::new(), true), Ok(()));
        update(m, |m| second = update(v, |v| made = adamw(&old, m, v, &g, step)))?;
        second?;
        let (new, finite) = made;
        self.finite &= finite;
        parameter.set(Tensor::from_vec(new, value.shape(), value.device())?);
        Ok(())
    }

    /// The same by tensor operations. An adapter has hundreds of small parameters: joined, a step is a few launches,
    /// and each parameter is then a view of the joined result.
    fn update_together(&mut self, all: Vec<(&Arc<Parameter>, &Tensor)>, rate: f64, scale: f64) -> Result<()> {
        let (decayed, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|(p, _)| is_decayed(&p.name, &p.dims()));
        for (part, is_decayed) in [(decayed, true), (kept, false)] {
            let (keep, size, root) = self.factors(is_decayed, rate);
            for group in groups(&part, |(_, g)| g.elem_count()) {
                let mut moments = Vec::new();
                for (parameter, _) in group {
                    moments.extend(self.moments.get(&parameter.name).cloned());
                }
                let g = (join(group.iter().map(|(_, g)| *g))? * scale)?;
                let m = (join(moments.iter().map(|(m, _)| m))? * self.beta1)?.add(&(&g * (1.0 - self.beta1))?)?;
                let v = (join(moments.iter().map(|(_, v)| v))? * self.beta2)?.add(&(g.sqr()? * (1.0 - self.beta2))?)?;
                drop((g, moments));
                let step = ((&m * size)? / ((v.sqrt()? / root)? + self.eps)?)?;
                let values: Vec<Tensor> = group.iter().map(|(p, _)| p.get()).collect();
                let new = ((join(values.iter())? * keep)? - step)?;
                let mut start = 0;
                for ((parameter, _), old) in group.iter().zip(&values) {
                    let view = |t: &Tensor| t.narrow(0, start, old.elem_count())?.reshape(old.shape());
                    parameter.set(view(&new)?.to_dtype(old.dtype())?);
                    self.moments.insert(parameter.name.clone(), (view(&m)?, view(&v)?));
                    start += old.elem_count();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Both ways to make a step, several steps long, from the same state.
    #[test]
    fn joined_steps_equal_single_ones() {
        let params = TrainParams { weight_decay: 0.1, ..TrainParams::default() };
        let random = |dims: &[usize]| Tensor::randn(0f32, 1.0, dims, &Device::Cpu).unwrap();
        let (mut single, mut together) = (AdamW::new(&params), AdamW::new(&params));
        let (mut a, mut b) = (Store::default(), Store::default());
        for (name, dims) in [("x.weight", &[5, 3][..]), ("x.bias", &[2]), ("y.weight", &[7, 2]), ("norm.weight", &[4])]
        {
            let value = random(dims);
            a.add(name, value.clone());
            b.add(name, value);
        }
        for _ in 0..5 {
            let mut grads = Grads::default();
            a.trainable().for_each(|p| grads.add(p, random(p.get().dims())).unwrap());
            single.step(&a, &grads, 1e-2, 0.7).unwrap();
            together.steps += 1;
            let all: Vec<_> = b.trainable().map(|p| (p, grads.get(&p.name).unwrap())).collect();
            all.iter().for_each(|(p, _)| together.begin(p).unwrap());
            together.update_together(all, 1e-2, 0.7).unwrap();
        }
        let near = |x: &Tensor, y: &Tensor| {
            let off = (x - y).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(x.shape() == y.shape() && off < 1e-6, "{off}");
        };
        a.trainable().zip(b.trainable()).for_each(|(a, b)| near(&a.get(), &b.get()));
        let (single, together) = (single.state(), together.state());
        assert_eq!(single.len(), 8);
        single.iter().for_each(|(name, t)| near(t, &together[name]));
    }
}
