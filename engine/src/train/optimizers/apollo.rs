//! APOLLO (Zhu et al., 2024): AdamW's moments live in a random projection of each matrix's gradient; how much AdamW would
//! stretch its rows or columns there is how much the gradient itself is stretched.

use super::{
    Entry,
    each::{At, Each, Moments, Rule, State, norm, zeros},
    galore::stepped,
    subspace::{Subspaces, project, random},
};
use crate::Result;
use api::params::{self, ApolloScale};
use candle_core::Tensor;

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Apollo,
    start: |train, more| {
        let (targets, rank, interval) = (more.apollo_target.clone(), more.apollo_rank, more.apollo_update_interval);
        let apollo = Apollo {
            subspaces: Subspaces { targets, rank, interval },
            factor: more.apollo_scale.sqrt(),
            front: more.apollo_scale_front,
            by: more.apollo_scale_type,
            seed: train.seed,
            moments: Moments::new(train),
        };
        Box::new(Each::new(train, apollo))
    },
    bytes: |trainable| trainable / 4,
    whole: true,
};

/// How much larger a step may be than the one before (Fira; Chen et al., 2024).
const GROWTH: f64 = 1.01;
const EPS: f64 = 1e-8;

struct Apollo {
    subspaces: Subspaces,
    factor: f64,
    /// Whether the factor comes before the limit on growth.
    front: bool,
    by: ApolloScale,
    seed: u64,
    moments: Moments,
}

impl Rule for Apollo {
    fn begin(&self, name: &str, value: &Tensor) -> Result<State> {
        let Some(shape) = self.subspaces.shape(name, value) else { return Moments::begin(value, value.dims()) };
        let mut state = Moments::begin(value, &shape)?;
        state.insert("p", zeros(value, self.subspaces.projection(value).as_slice())?);
        // Norm of the step before.
        state.insert("n", zeros(value, 1)?);
        Ok(state)
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        let Some(mut p) = state.get("p").cloned() else {
            let (step, factor) = self.moments.uncorrected(at.step, gradient, state)?;
            return stepped(at, value, &(step * factor)?);
        };
        if self.subspaces.renews(at.step) {
            let renewal = self.subspaces.renewals(at.step);
            p = random(self.subspaces.projection(value), self.seed, at.name, renewal, value.device())?;
            state.insert("p", p.clone());
        }
        let view = project(gradient, &p)?;
        let (step, correction) = self.moments.uncorrected(at.step, &view, state)?;
        let mut scaled = match self.by {
            ApolloScale::Tensor => (gradient * (norm(&step)? / (norm(&view)? + EPS)))?,
            ApolloScale::Channel => {
                // Along the projected side.
                let side = if value.dim(0)? < value.dim(1)? { 0 } else { 1 };
                let sizes = |t: &Tensor| t.sqr()?.sum_keepdim(side)?.sqrt();
                gradient.broadcast_mul(&(sizes(&step)? / (sizes(&view)? + EPS)?)?)?
            }
        };
        if self.front {
            scaled = (scaled * self.factor)?;
        }
        let (mut size, before) = (norm(&scaled)?, f64::from(state["n"].to_vec1::<f32>()?[0]));
        if at.step > 1 {
            let limit = (size / (before + EPS)).max(GROWTH) / GROWTH;
            (scaled, size) = ((scaled / limit)?, size / limit);
        }
        state.insert("n", Tensor::new(&[size as f32], value.device())?);
        if !self.front {
            scaled = (scaled * self.factor)?;
        }
        stepped(at, value, &(scaled * correction)?)
    }
}
