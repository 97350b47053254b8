//! GaLore (Zhao et al., 2024): AdamW's moments live in the leading subspace of each matrix's gradient, which is found
//! anew at intervals. Weights take the step brought back from there.

use super::{
    Entry,
    each::{At, Each, Moments, Rule, State, zeros},
    subspace::{Subspaces, leading, project, project_back},
};
use crate::Result;
use api::params;
use candle_core::Tensor;

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Galore,
    start: |train, more| {
        let (targets, rank, interval) = (more.galore_target.clone(), more.galore_rank, more.galore_update_interval);
        let subspaces = Subspaces { targets, rank, interval };
        Box::new(Each::new(train, Galore { subspaces, scale: more.galore_scale, moments: Moments::new(train) }))
    },
    bytes: |trainable| trainable / 4,
    whole: true,
};

struct Galore {
    subspaces: Subspaces,
    scale: f64,
    moments: Moments,
}

impl Rule for Galore {
    fn begin(&self, name: &str, value: &Tensor) -> Result<State> {
        let Some(shape) = self.subspaces.shape(name, value) else { return Moments::begin(value, value.dims()) };
        let mut state = Moments::begin(value, &shape)?;
        state.insert("p", zeros(value, self.subspaces.projection(value).as_slice())?);
        Ok(state)
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let direction = match state.get_mut("p") {
            Some(p) => {
                if self.subspaces.renews(at.step) {
                    *p = leading(gradient, p.dim(0)?)?;
                }
                let p = p.clone();
                let (step, factor) = self.moments.uncorrected(at.step, &project(gradient, &p)?, state)?;
                (project_back(&step, &p, value)? * (factor * self.scale))?
            }
            None => {
                let (step, factor) = self.moments.uncorrected(at.step, gradient, state)?;
                (step * factor)?
            }
        };
        stepped(at, value, &direction)
    }
}

/// The step first and the decay behind it, as in transformers' older AdamW.
pub fn stepped(at: &At, value: &Tensor, direction: &Tensor) -> Result<Tensor> {
    Ok(((value - (direction * at.rate)?)? * (1.0 - at.rate * at.decay))?)
}
