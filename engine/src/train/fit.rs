//! The training loop, top to bottom.

use super::{
    Average, Loader, Optimizer, Sampler, TrainerLog,
    checkpoint::{self, Best, Cursor, Keeper, Manifest},
    clip, schedule,
    sentinel::{Sentinel, diverged, no_targets},
};
use crate::{
    Error, Result,
    adapters::{Base, Precision, Tuning},
    data::Samples,
    model::{Grads, Network, Store},
    random::mix,
    stages::{Found, Mean, Objective},
};
use api::{
    Event, Outcome, Problem,
    job::validation_name,
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
    pub model: &'a dyn Network,
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
    pub optimizer: Box<dyn Optimizer>,
    pub shape: schedule::Shape,
    /// Of all that is trained, where one is wanted.
    pub average: Option<Average>,
    pub log: TrainerLog,
    /// Steps made, and to be made.
    pub step: u64,
    pub steps: u64,
    /// Updates of the optimizer that were made: stages that sample make several in a step.
    pub updates: u64,
    /// Those that it had made before the first step, where a run took up its moments alone.
    pub earlier: u64,
    /// The last learning rate.
    pub rate: f64,
    pub keeper: Keeper,
    /// What all checkpoints of the run say alike.
    pub manifest: Manifest,
    /// The best checkpoint, where one is looked for.
    pub best: Option<Best>,
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
    pub fn evaluates(&self) -> bool {
        let steps = if self.output.eval_steps > 0 { self.output.eval_steps } else { self.sampler.steps_per_epoch() };
        !self.eval.is_empty() && (self.every(steps) || self.step == self.steps)
    }

    /// The micro-batches of all steps to come.
    fn parts(&self, mean: Mean) -> impl Iterator<Item = (Part, Vec<u32>)> + Send + 'static {
        let samples = self.samples.clone();
        let steps = self.sampler.clone().steps(self.step).take((self.steps - self.step.min(self.steps)) as usize);
        steps.flat_map(move |step| {
            let over = step.iter().map(|indices| counted(&samples, indices, mean)).sum::<usize>();
            let count = step.len();
            let part = move |micro: usize| Part { micro: micro as u64, over, last: micro + 1 == count };
            step.into_iter().enumerate().map(move |(micro, indices)| (part(micro), indices))
        })
    }

    /// One update along the gradients of a loss and what the tuning adds to it. Where anything of it isn't finite, all values
    /// are as before, and the problem says what it was.
    pub fn update(&mut self, grads: &mut Grads, loss: f64) -> Result<std::result::Result<Update, Problem>> {
        let penalty = self.tuning.penalise(self.tuned, grads)?;
        let (norm, factor) = clip(grads, self.params.max_grad_norm)?;
        let (peak, warmup) = (self.params.learning_rate, schedule::warmup(self.params, self.steps));
        let kind = self.params.lr_scheduler_type;
        let rate = peak * schedule::factor(kind, &self.shape, self.step, warmup, self.steps, peak);
        if !loss.is_finite() || !norm.is_finite() || !self.advance(grads, rate, factor)? {
            return Ok(Err(diverged(self.step, loss, norm, self.params)));
        }
        self.tuning.after_step(self.tuned, grads, factor, self.updates)?;
        self.updates += 1;
        self.rate = rate;
        Ok(Ok(Update { rate, norm, penalty }))
    }

    /// Tells what the step just made measured.
    pub fn tell(&mut self, values: BTreeMap<String, f64>) -> Result<()> {
        let epoch = self.epoch();
        self.log.step(self.step, epoch, &values)?;
        (self.sink)(Event::Metrics { step: self.step, epoch, values })
    }

    /// Tells what a validation of the present step measured.
    pub fn tell_validation(&mut self, values: BTreeMap<String, f64>) -> Result<()> {
        let epoch = self.epoch();
        self.log.evaluation(self.step, epoch, &values)?;
        if let Some(best) = &mut self.best {
            best.measured(self.step, &values)?;
        }
        (self.sink)(Event::Metrics { step: self.step, epoch, values })
    }

    /// A checkpoint where one is due. One that the disk refuses is told of, and the run goes on; at its end it is an error.
    pub fn save_if_due(&mut self, objective: &(impl Objective + ?Sized)) -> Result<()> {
        let (last, best) = (self.step == self.steps, self.best.as_ref().is_some_and(Best::is_due));
        if last {
            self.save(objective)
        } else if best || self.every(self.output.save_steps) {
            self.try_save(objective)
        } else {
            Ok(())
        }
    }

    /// A checkpoint of the present step; older ones go once it has been read back.
    pub fn save(&mut self, objective: &(impl Objective + ?Sized)) -> Result<()> {
        Ok(self.written(objective)??)
    }

    /// As [`save`](Self::save), but what the disk refuses is only told of.
    fn try_save(&mut self, objective: &(impl Objective + ?Sized)) -> Result<()> {
        match self.written(objective)? {
            Ok(()) => Ok(()),
            Err(problem) => (self.sink)(Event::Note { problem }),
        }
    }

    fn written(&mut self, objective: &(impl Objective + ?Sized)) -> Result<std::result::Result<(), Problem>> {
        if self.keeper.has(self.step) {
            return Ok(Ok(()));
        }
        let state = self.log.state(self.step, self.epoch(), self.best.as_ref());
        let manifest = Manifest {
            step: self.step,
            cursor: self.cursor(),
            best: self.best.as_ref().and_then(Best::name),
            ..self.manifest.clone()
        };
        let saved = self.keeper.save(manifest, &self.optimizer.state(), &state, |dir| {
            self.tuning.save(dir, self.model, self.tuned, &self.base, Precision::Exact)?;
            if let Some(average) = &self.average {
                average.save(dir)?;
            }
            objective.save(dir)?;
            objective.save_state(dir)
        })?;
        let is_best = self.best.as_ref().is_some_and(Best::is_due);
        if let Some(best) = &mut self.best {
            best.settle(saved.is_ok());
        }
        match saved {
            Ok(checkpoint::Saved { name, bytes }) => {
                (self.sink)(Event::Checkpoint { step: self.step, name, bytes, best: is_best })?;
                self.keeper.prune(self.best.as_ref().and_then(Best::name).as_deref(), false)?;
                Ok(Ok(()))
            }
            Err(problem) => Ok(Err(problem)),
        }
    }

    /// How far the run is.
    fn cursor(&self) -> Cursor {
        let each = (self.sampler.batch * self.sampler.accumulation) as u64;
        let steps = self.step % self.sampler.steps_per_epoch().max(1);
        Cursor {
            epoch: self.epoch(),
            samples: (steps * each).min(self.sampler.samples as u64),
            metrics: self.log.history.len() as u64,
            updates: self.earlier + self.updates,
            learning_rate: self.rate,
        }
    }

    /// One step of the optimizer, which the average follows. False if it made a value infinite or no number: then all
    /// values are as before.
    fn advance(&mut self, grads: &Grads, rate: f64, scale: f64) -> Result<bool> {
        let before: Vec<_> = self.store.trainable().map(|p| (p.clone(), p.get())).collect();
        self.optimizer.step(self.store, grads, rate, scale)?;
        if !self.optimizer.left_finite(self.store)? {
            before.into_iter().for_each(|(parameter, value)| parameter.set(value));
            return Ok(false);
        }
        if let Some(average) = &mut self.average {
            average.follow()?;
        }
        Ok(true)
    }

    /// A checkpoint of the step before one that failed, unless there is one or nothing was learned yet.
    pub fn keep_last_good(&mut self, objective: &(impl Objective + ?Sized)) -> Result<()> {
        if self.step > 0 { self.try_save(objective) } else { Ok(()) }
    }

    /// Ends the run at its last good step.
    fn give_up(&mut self, objective: &(impl Objective + ?Sized), problem: Problem) -> Result<Outcome> {
        self.keep_last_good(objective)?;
        Err(problem.into())
    }

    /// Mean validation loss and metrics, their names with `eval_` before them.
    fn validate(&mut self, objective: &mut (impl Objective + ?Sized)) -> Result<()> {
        let (mut found, mut over) = (Found::default(), 0);
        let (rows, size) = (self.eval.len() as u32, self.sampler.batch);
        let (samples, mean) = (self.eval.clone(), objective.mean());
        let batches = (0..rows).step_by(size).map(move |i| {
            let indices: Vec<u32> = (i..rows.min(i.saturating_add(size as u32))).collect();
            (counted(&samples, &indices, mean), indices)
        });
        Average::instead(self.average.as_ref(), || {
            for loaded in Loader::start(self.eval.clone(), batches)? {
                let (count, batch) = loaded?;
                let more = objective.evaluate(self.model, &batch)?;
                found.loss += more.loss;
                found.metrics.merge(more.metrics);
                over += count;
            }
            Ok::<_, Error>(())
        })?;
        let values = values(objective, &found, over.max(1)).into_iter();
        self.tell_validation(values.map(|(name, value)| (validation_name(&name), value)).collect())
    }
}

/// What the loss of some samples is a mean over.
fn counted(samples: &Samples, indices: &[u32], mean: Mean) -> usize {
    match mean {
        Mean::Targets => indices.iter().map(|i| samples.targets(*i as usize)).sum(),
        Mean::Samples => indices.len(),
    }
}

/// Loss and metrics as means, by name.
fn values(objective: &(impl Objective + ?Sized), found: &Found, over: usize) -> BTreeMap<String, f64> {
    let mut values: BTreeMap<String, f64> =
        found.metrics.means().map(|(name, mean)| (name.to_string(), mean)).collect();
    values.insert("loss".into(), found.loss / over as f64);
    objective.conclude(&mut values);
    values
}

/// What an update was made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Update {
    /// Learning rate.
    pub rate: f64,
    /// Norm of the gradients, before they were clipped.
    pub norm: f64,
    /// What the tuning itself added to the loss.
    pub penalty: f64,
}

/// A micro-batch's place in its step.
struct Part {
    micro: u64,
    /// What the loss of the whole step is a mean over.
    over: usize,
    last: bool,
}

/// The supervised loop. The loss is the mean over all target tokens (or samples, as the objective says) of a step, however
/// they are split into batches.
pub fn fit(objective: &mut (impl Objective + ?Sized), run: &mut Run) -> Result<Outcome> {
    let mut loader = Loader::start(run.samples.clone(), run.parts(objective.mean()))?;
    let mut sentinel = Sentinel::default();
    while run.step < run.steps {
        if run.stop.load(Ordering::Relaxed) {
            run.save(objective)?;
            return Ok(Outcome::Stopped);
        }
        let begun = Instant::now();
        let (mut grads, mut found, mut tokens) = (Grads::default(), Found::default(), 0);
        let over = loop {
            let loaded = loader.next().unwrap_or_else(|| Err(Error::Internal("the loader ended early".into())));
            let (Part { micro, over, last }, batch) = loaded?;
            if over == 0 {
                return run.give_up(objective, no_targets(run.step + 1));
            }
            let random = mix(run.params.seed ^ mix(run.step ^ mix(micro)));
            let more = objective.loss(run.model, &batch, 1.0 / over as f32, random, &mut grads)?;
            found.loss += more.loss;
            found.metrics.merge(more.metrics);
            tokens += batch.ids.len();
            if last {
                break over;
            }
        };
        let loss = found.loss / over as f64;
        let Update { rate, norm, penalty } = match run.update(&mut grads, loss)? {
            Ok(made) => made,
            Err(problem) => return run.give_up(objective, problem),
        };
        run.step += 1;

        let mut values = values(objective, &found, over);
        values.extend([
            ("learning_rate".to_string(), rate),
            ("grad_norm".to_string(), norm),
            ("tokens_per_s".to_string(), tokens as f64 / begun.elapsed().as_secs_f64().max(1e-9)),
        ]);
        if penalty != 0.0 {
            values.insert("penalty".to_string(), penalty);
        }
        run.tell(values)?;
        if let Err(problem) = sentinel.look(run.step, loss, norm) {
            return run.give_up(objective, problem);
        }
        if run.evaluates() {
            run.validate(objective)?;
        }
        run.save_if_due(objective)?;
    }
    Ok(Outcome::Succeeded)
}
