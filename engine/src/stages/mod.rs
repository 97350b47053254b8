//! Training stages, `stage`: what is learned from an example, and with which loss. One file for each; one line here.

mod distill;
mod dpo;
mod grpo;
mod kto;
mod mixed;
pub(crate) mod online;
mod ppo;
pub mod preference;
mod pt;
pub mod reference;
mod rm;
mod sft;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod value_head;

use crate::{
    Places, Result,
    data::Needs,
    entry::{Entry, find},
    make::Connect,
    model::{Batch, Grads, Network, Store},
    prepare::Prepared,
    train::{Run, fit},
};
use api::{
    Outcome, Problems, RunConfig,
    catalog::MetricCard,
    params::{ModelParams, TrainParams},
};
use std::{collections::BTreeMap, path::Path};

/// A training stage.
pub trait Stage: Entry {
    /// What its datasets must hold.
    fn needs(&self) -> Needs;

    /// Whether it trains encoder-decoders, not only decoders.
    fn trains_encoder_decoders(&self) -> bool {
        false
    }

    /// Whether short texts are joined into full rows where `packing` doesn't say.
    fn packs(&self) -> bool {
        false
    }

    /// Whether what the tuning says is dropped out in training. Stages that hold one policy against another drop nothing:
    /// equal policies would differ by chance.
    fn drops_out(&self) -> bool {
        true
    }

    /// What it samples in a step, if it learns from what the model says rather than from the rows' answers.
    fn sampled(&self, config: &RunConfig, train: &TrainParams) -> Result<Option<Sampled>, Problems> {
        let _ = (config, train);
        Ok(None)
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems>;

    /// The models that it loads besides the trained one, each with the argument that names it.
    fn others(&self, config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
        let _ = config;
        Ok(Vec::new())
    }

    /// What its runs tell at their steps besides what [every run](crate::train::metrics) does.
    fn metrics(&self) -> Vec<MetricCard> {
        Vec::new()
    }

    /// Whether it holds the trained model against what it was in the beginning, or another that `ref_model` names.
    fn has_reference(&self, config: &RunConfig) -> bool {
        let _ = config;
        false
    }
}

/// What a step samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    pub prompts: usize,
    /// For each prompt.
    pub answers: usize,
    /// The longest answer, in tokens.
    pub tokens: usize,
    /// How often the step learns from each answer.
    pub times: usize,
    /// Updates of the optimizer in which it does.
    pub updates: usize,
}

/// What a stage finds when its run begins.
pub struct Setting<'a> {
    pub config: &'a RunConfig,
    pub prepared: &'a Prepared,
    /// With what the tuning attached; nothing of it has been trained in this process yet.
    pub model: &'a dyn Network,
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

    /// Writes what only a resumed run needs into the folder of a checkpoint.
    fn save_state(&self, dir: &Path) -> Result<()> {
        let _ = dir;
        Ok(())
    }

    /// Takes up what [`save`](Self::save) wrote into a checkpoint.
    fn restore(&mut self, checkpoint: &Path) -> Result<()> {
        let _ = checkpoint;
        Ok(())
    }

    /// Takes up what [`save_state`](Self::save_state) wrote into a checkpoint.
    fn restore_state(&mut self, checkpoint: &Path) -> Result<()> {
        let _ = checkpoint;
        Ok(())
    }

    /// Updates of the optimizer that were made in `steps` steps.
    fn updates(&self, steps: u64) -> u64 {
        steps
    }

    /// What the loss is a mean over.
    fn mean(&self) -> Mean {
        Mean::Targets
    }

    /// The loss of a batch, added up over what it is a [mean](Self::mean) over; adds the gradients of `scale` times it to
    /// `grads`. `random` is the key of this micro-batch's random numbers.
    fn loss(&mut self, model: &dyn Network, batch: &Batch, scale: f32, random: u64, grads: &mut Grads)
    -> Result<Found>;

    /// The same without gradients, for validation.
    fn evaluate(&mut self, model: &dyn Network, batch: &Batch) -> Result<Found> {
        Ok(model.loss(batch)?.into())
    }

    /// Adds to the metrics of a step or of a validation what follows from them.
    fn conclude(&self, values: &mut BTreeMap<String, f64>) {
        let _ = values;
    }

    /// The supervised loop; stages that generate write their own from the same verbs.
    fn train(&mut self, run: &mut Run) -> Result<Outcome>;
}

/// What a loss is a mean over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mean {
    /// The tokens that are predicted.
    Targets,
    /// Samples, however long they are: pairs of answers, say.
    Samples,
}

/// What an objective found in a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Added up, not yet a mean.
    pub loss: f64,
    /// Metrics besides the loss.
    pub metrics: Metrics,
}

impl From<f64> for Found {
    fn from(loss: f64) -> Self {
        Self { loss, metrics: Metrics::default() }
    }
}

/// Sums and counts by name, from which means become.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<&'static str, (f64, f64)>);

impl Metrics {
    /// One more value.
    pub fn add(&mut self, name: &'static str, value: f64) {
        self.add_sum(name, value, 1.0);
    }

    /// `count` more values, of which this is the sum.
    pub fn add_sum(&mut self, name: &'static str, sum: f64, count: f64) {
        let entry = self.0.entry(name).or_default();
        *entry = (entry.0 + sum, entry.1 + count);
    }

    pub fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(name, (sum, count))| self.add_sum(name, sum, count));
    }

    /// The mean of each.
    pub fn means(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.0.iter().map(|(name, (sum, count))| (*name, sum / count))
    }
}

pub static STAGES: &[&dyn Stage] =
    &[&sft::Sft, &pt::Pt, &mixed::Mixed, &distill::Distill, &rm::Rm, &dpo::Dpo, &kto::Kto, &ppo::Ppo, &grpo::Grpo];

/// The stage of this name.
pub fn stage(name: &str) -> Result<&'static dyn Stage> {
    find(STAGES, ["stage", "训练阶段"], "stage", name)
}

/// Mean cross-entropy of the next token: what both supervised stages minimise.
struct NextToken;

impl Objective for NextToken {
    fn loss(
        &mut self,
        model: &dyn Network,
        batch: &Batch,
        scale: f32,
        random: u64,
        grads: &mut Grads,
    ) -> Result<Found> {
        Ok(model.learn(batch, scale, random, grads)?.into())
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}
