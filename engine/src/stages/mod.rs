//! Training stages, `stage`: what is learned from an example, and with which loss. One file for each; one line here.

mod pt;
pub mod reference;
mod sft;
pub mod value_head;

use crate::{
    Places, Result,
    data::Needs,
    entry::{Entry, find},
    make::Connect,
    model::{Batch, Grads, Model, Store},
    prepare::Prepared,
    train::{Run, fit},
};
use api::{Outcome, Problems, RunConfig};
use std::path::Path;

/// A training stage.
pub trait Stage: Entry {
    /// What its datasets must hold.
    fn needs(&self) -> Needs;

    /// Whether short texts are joined into full rows where `packing` doesn't say.
    fn packs(&self) -> bool {
        false
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems>;
}

/// What a stage finds when its run begins.
pub struct Setting<'a> {
    pub config: &'a RunConfig,
    pub prepared: &'a Prepared,
    /// With what the tuning attached; nothing of it has been trained in this process yet.
    pub model: &'a Model,
    pub places: &'a Places,
    /// A way to judges and scorers elsewhere.
    pub connect: Connect<'a>,
}

/// What one run minimises.
pub trait Objective: Send {
    /// Loads what it needs besides the model, and adds the parameters that it trains besides those of the tuning.
    fn begin(&mut self, setting: &Setting, store: &mut Store) -> Result<()> {
        let _ = (setting, store);
        Ok(())
    }

    /// Writes the parameters that it added into the folder of a checkpoint or of the result.
    fn save(&self, dir: &Path) -> Result<()> {
        let _ = dir;
        Ok(())
    }

    /// Takes up what [`save`](Self::save) wrote into a checkpoint.
    fn restore(&mut self, checkpoint: &Path) -> Result<()> {
        let _ = checkpoint;
        Ok(())
    }

    /// Sum of the loss over a batch's targets; adds the gradients of `scale` times it to `grads`. `random` is the key
    /// of this micro-batch's random numbers.
    fn loss(&mut self, model: &Model, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64>;

    /// The same sum without gradients, for validation.
    fn evaluate(&mut self, model: &Model, batch: &Batch) -> Result<f64> {
        model.loss(batch)
    }

    /// The supervised loop; stages that generate write their own from the same verbs.
    fn train(&mut self, run: &mut Run) -> Result<Outcome>;
}

pub static STAGES: &[&dyn Stage] = &[&sft::Sft, &pt::Pt];

/// The stage of this name.
pub fn stage(name: &str) -> Result<&'static dyn Stage> {
    find(STAGES, ["stage", "训练阶段"], "stage", name)
}

/// Mean cross-entropy of the next token: what both supervised stages minimise.
struct NextToken;

impl Objective for NextToken {
    fn loss(&mut self, model: &Model, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64> {
        model.learn(batch, scale, random, grads)
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}
