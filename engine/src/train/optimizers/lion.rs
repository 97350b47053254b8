//! Lion (Chen et al., 2023): the sign of an average of gradients, so that every value moves as far.

use super::{
    Entry,
    each::{At, Each, Rule, State, zeros},
};
use crate::{Error, Result};
use api::params;
use candle_core::Tensor;

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Lion,
    start: |train, _| Box::new(Each::new(train, Lion { beta1: train.adam_beta1, beta2: train.adam_beta2 })),
    bytes: |trainable| trainable * 4,
    whole: false,
};

struct Lion {
    beta1: f64,
    beta2: f64,
}

impl Rule for Lion {
    fn begin(&self, _: &str, value: &Tensor) -> Result<State> {
        Ok(State::from([("m", zeros(value, value.dims())?)]))
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let Some(m) = state.get_mut("m") else { return Err(Error::Internal("lion has lost its state".into())) };
        let mixed = |beta: f64| (&*m * beta)? + (gradient * (1.0 - beta))?;
        let (direction, next) = (mixed(self.beta1)?.sign()?, mixed(self.beta2)?);
        *m = next;
        at.less(value, &direction, at.rate)
    }
}
