//! Gradient descent with momentum, as PyTorch's: `b = momentum b + g`, `w -= rate b`. The decay joins the gradient.

use super::{
    Entry,
    each::{At, Each, Rule, State, zeros},
};
use crate::Result;
use api::params;
use candle_core::Tensor;

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Sgd,
    start: |train, more| Box::new(Each::new(train, Sgd { momentum: more.optim_momentum.unwrap_or(0.0) })),
    // With momentum.
    bytes: |trainable| trainable * 4,
    whole: false,
};

struct Sgd {
    momentum: f64,
}

impl Rule for Sgd {
    fn begin(&self, _: &str, value: &Tensor) -> Result<State> {
        Ok(if self.momentum > 0.0 { State::from([("b", zeros(value, value.dims())?)]) } else { State::new() })
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let mut step = (gradient + (value * at.decay)?)?;
        if let Some(buffer) = state.get_mut("b") {
            step = ((&*buffer * self.momentum)? + step)?;
            *buffer = step.clone();
        }
        Ok((value - (step * at.rate)?)?)
    }
}
