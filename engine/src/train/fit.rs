//! The training loop, top to bottom.

use super::{AdamW, Loader, Sampler, TrainerLog, checkpoint, clip, schedule};
use crate::{
    Error, Result,
    adapters::{Base, Precision, Tuning},
    data::Samples,
    model::{Grads, Model, Store},
    random::mix,
    stages::Objective,
};
use api::{
    Event, Outcome, Problem,
    params::{OutputParams, TrainParams},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// Everything that one run has at hand.
pub struct Run<'a> {
    pub model: &'a Model,
    /// All that is trained.
    pub store: &'a Store,
    /// What of it belongs to the tuning.
    pub tuned: &'a Store,
    pub tuning: &'a dyn Tuning,
    pub base: Base<'a>,
    pub samples: Samples,
    pub eval: Samples,
    pub params: &'a TrainParams,
    pub output: &'a OutputParams,
    pub sampler: Sampler,
    pub optimizer: AdamW,
    pub log: TrainerLog,
    /// Steps made, and to be made.
    pub step: u64,
    pub steps: u64,
    pub dir: &'a Path,
    pub sink: &'a mut dyn FnMut(Event) -> Result<()>,
    pub stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Epochs gone after `step` steps.
    pub fn epoch(&self) -> f64 {
        self.step as f64 / self.sampler.steps_per_epoch().max(1) as f64
    }

    fn every(&self, steps: u64) -> bool {
        steps > 0 && self.step.is_multiple_of(steps)
    }

    /// Validation at `eval_steps`, or once an epoch; and at the end.
    fn evaluates(&self) -> bool {
        let steps = if self.output.eval_steps > 0 { self.output.eval_steps } else { self.sampler.steps_per_epoch() };
        !self.eval.is_empty() && (self.every(steps) || self.step == self.steps)
    }

    /// The micro-batches of all steps to come.
    fn parts(&self) -> impl Iterator<Item = (Part, Vec<u32>)> + Send + 'static {
        let samples = self.samples.clone();
        let steps = self.sampler.clone().steps(self.step).take((self.steps - self.step.min(self.steps)) as usize);
        steps.flat_map(move |step| {
            let of = |indices: &Vec<u32>| indices.iter().map(|i| samples.targets(*i as usize)).sum::<usize>();
            let (targets, count) = (step.iter().map(of).sum::<usize>().max(1), step.len());
            let part = move |micro: usize| Part { micro: micro as u64, targets, last: micro + 1 == count };
            step.into_iter().enumerate().map(move |(micro, indices)| (part(micro), indices))
        })
    }

    /// A checkpoint of the present step; older ones go once it has been verified.
    pub fn save(&mut self, objective: &(impl Objective + ?Sized)) -> Result<()> {
        let state = self.log.state(self.step, self.epoch());
        let (name, bytes) = checkpoint::write(self.dir, self.step, &self.optimizer.state(), &state, |dir| {
            self.tuning.save(dir, self.model, self.tuned, &self.base, Precision::Exact)?;
            objective.save(dir)
        })?;
        if let Some(limit) = self.output.save_total_limit {
            let faults = checkpoint::damage(&self.dir.join(&name));
            if !faults.is_empty() {
                return Err(Error::Internal(format!("{name} could not be verified: {}", faults.join("; "))));
            }
            checkpoint::prune(self.dir, limit)?;
        }
        (self.sink)(Event::Checkpoint { step: self.step, name, bytes })
    }

    /// Mean validation loss.
    fn validate(&mut self, objective: &mut (impl Objective + ?Sized)) -> Result<()> {
        let (mut sum, mut targets) = (0.0, 0);
        let (rows, size) = (self.eval.len() as u32, self.sampler.batch);
        let batches =
            (0..rows).step_by(size).map(move |i| ((), (i..rows.min(i.saturating_add(size as u32))).collect()));
        for loaded in Loader::start(self.eval.clone(), batches)? {
            let ((), batch) = loaded?;
            sum += objective.evaluate(self.model, &batch)?;
            targets += batch.targets.len();
        }
        let loss = sum / targets.max(1) as f64;
        let epoch = self.epoch();
        self.log.evaluation(self.step, epoch, loss)?;
        (self.sink)(Event::Metrics { step: self.step, epoch, values: BTreeMap::from([("eval_loss".into(), loss)]) })
    }
}

/// A micro-batch's place in its step.
struct Part {
    micro: u64,
    /// Targets of the whole step, at least one.
    targets: usize,
    last: bool,
}

/// The supervised loop. The loss is the mean over all target tokens of a step, however they are split into batches.
pub fn fit(objective: &mut (impl Objective + ?Sized), run: &mut Run) -> Result<Outcome> {
    let warmup = schedule::warmup(run.params, run.steps);
    let mut loader = Loader::start(run.samples.clone(), run.parts())?;
    while run.step < run.steps {
        if run.stop.load(Ordering::Relaxed) {
            run.save(objective)?;
            return Ok(Outcome::Stopped);
        }
        let begun = Instant::now();
        let (mut grads, mut sum, mut tokens) = (Grads::default(), 0.0, 0);
        let targets = loop {
            let loaded = loader.next().unwrap_or_else(|| Err(Error::Internal("the loader ended early".into())));
            let (Part { micro, targets, last }, batch) = loaded?;
            let random = mix(run.params.seed ^ mix(run.step ^ mix(micro)));
            sum += objective.loss(run.model, &batch, 1.0 / targets as f32, random, &mut grads)?;
            tokens += batch.ids.len();
            if last {
                break targets;
            }
        };
        let loss = sum / targets as f64;
        let penalty = run.tuning.penalise(run.tuned, &mut grads)?;
        let (norm, factor) = clip(&grads, run.params.max_grad_norm)?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(diverged(run.step + 1, loss, run.params.learning_rate));
        }
        let peak = run.params.learning_rate;
        let rate = peak * schedule::factor(run.params.lr_scheduler_type, run.step, warmup, run.steps, peak);
        run.optimizer.step(run.store, &grads, rate, factor)?;
        run.tuning.after_step(run.tuned, &grads, factor, run.step)?;
        run.step += 1;

        let mut values = BTreeMap::from([
            ("loss".to_string(), loss),
            ("learning_rate".to_string(), rate),
            ("grad_norm".to_string(), norm),
            ("tokens_per_s".to_string(), tokens as f64 / begun.elapsed().as_secs_f64().max(1e-9)),
        ]);
        if penalty != 0.0 {
            values.insert("penalty".to_string(), penalty);
        }
        let epoch = run.epoch();
        run.log.step(run.step, epoch, &values)?;
        (run.sink)(Event::Metrics { step: run.step, epoch, values })?;
        if run.evaluates() {
            run.validate(objective)?;
        }
        if run.every(run.output.save_steps) || run.step == run.steps {
            run.save(objective)?;
        }
    }
    Ok(Outcome::Succeeded)
}

fn diverged(step: u64, loss: f64, rate: f64) -> Error {
    Problem::new(
        "diverged",
        format!("The loss became {loss} at step {step} with learning_rate {rate}."),
        format!("第 {step} 步的损失变为 {loss}，learning_rate 为 {rate}。"),
    )
    .hint(
        format!("Resume from the last checkpoint or start again with a learning rate of {:e} or less.", rate / 4.0),
        format!("请从最近的检查点继续，或把学习率降到 {:e} 以下重新开始。", rate / 4.0),
    )
    .field("learning_rate")
    .into()
}
