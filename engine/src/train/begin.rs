//! What a training begins with: nothing, or what a checkpoint has of it; and what it ends with, the last step or the best.

use super::{
    Average, Optimizer, Run,
    checkpoint::{self, Best, Chosen, Origin, damage, told},
};
use crate::{Result, adapters::Tuning, model::Store, stages::Objective};
use api::{
    Event, Problem, Text,
    params::{OutputParams, ResumeMode},
};
use serde_json::{Map, Value};
use std::path::Path;

/// The state of a training before its next step.
pub struct Begin {
    pub optimizer: Box<dyn Optimizer>,
    pub average: Option<Average>,
    pub best: Option<Best>,
    /// Steps made.
    pub step: u64,
    /// Updates that the optimizer made before the first step.
    pub earlier: u64,
    pub history: Vec<Value>,
}

/// What a checkpoint's weights go into.
pub struct Trained<'a> {
    pub tuning: &'a dyn Tuning,
    pub tuned: &'a Store,
    pub store: &'a Store,
    pub objective: &'a mut dyn Objective,
}

impl Begin {
    /// Takes up a checkpoint as far as `mode` says. `decay` is that of the average.
    pub fn take_up(&mut self, from: &Chosen, mode: ResumeMode, into: Trained, decay: f64) -> Result<()> {
        let Trained { tuning, tuned, store, objective } = into;
        let Chosen { path, manifest } = from;
        tuning.restore(tuned, path)?;
        objective.restore(path)?;
        if mode == ResumeMode::Weights {
            self.average = Average::new(store, decay);
            return Ok(());
        }
        if mode == ResumeMode::All {
            objective.restore_state(path)?;
        }
        // Form 1 didn't count what the optimizer made.
        let made = if manifest.format > 1 { manifest.cursor.updates } else { objective.updates(manifest.step) };
        let (moments, state) = checkpoint::read(path)?;
        self.optimizer.restore(store, moments, made)?;
        if let Some(average) = &mut self.average {
            average.restore(path)?;
        }
        self.earlier = made;
        if mode == ResumeMode::All {
            self.step = manifest.step;
            self.earlier = made.saturating_sub(objective.updates(manifest.step));
            self.history = state["log_history"].as_array().cloned().unwrap_or_default();
            if let (Some(best), Some(run)) = (&mut self.best, path.parent()) {
                best.restore(&self.history, run);
            }
        }
        Ok(())
    }
}

/// Holds a checkpoint against the run that wants to go on from it. `note` hears what may differ; what is to be confirmed and
/// isn't is a problem.
pub fn compare(
    from: &Chosen,
    settings: &Map<String, Value>,
    origin: &Origin,
    output: &OutputParams,
    note: &mut dyn FnMut(Problem) -> Result<()>,
) -> Result<()> {
    // A new start from its weights may be with any settings.
    if output.resume_mode != ResumeMode::Weights
        && let Some(changed) = checkpoint::changes(&from.path, &from.manifest, settings, origin)
    {
        if !output.accept_changes {
            return Err(changed.into());
        }
        note(changed.hint("", ""))?;
    }
    match checkpoint::not_bit_exact(&from.manifest, origin).filter(|_| output.resume_mode == ResumeMode::All) {
        Some(problem) => note(problem),
        None => Ok(()),
    }
}

/// Puts the best checkpoint in the place of the last step, where it is another and whole.
pub fn load_best(run: &mut Run, objective: &mut dyn Objective) -> Result<()> {
    let Some((name, (step, _))) = run.best.as_ref().and_then(|best| best.name().zip(best.at())) else { return Ok(()) };
    if step == run.step {
        return Ok(());
    }
    let path = run.dir.join(&name);
    let faults = damage(&path);
    if !faults.is_empty() {
        return (run.sink)(Event::Note { problem: lost_best(&path, told(&faults)) });
    }
    let text = Text::new(format!("Loading the best checkpoint, {name}"), format!("正在加载最佳检查点 {name}"));
    (run.sink)(Event::Status { text, done: 0, total: 0 })?;
    run.tuning.restore(run.tuned, &path)?;
    objective.restore(&path)?;
    match &mut run.average {
        Some(average) => average.restore(&path),
        None => Ok(()),
    }
}

/// Of a run whose checkpoint has all of its steps.
pub fn nothing_left(step: u64, steps: u64) -> Problem {
    Problem::new(
        "nothing_left",
        format!(
            "The checkpoint has made {step} of {steps} steps: nothing is left to train. Its result is written again."
        ),
        format!("检查点已完成 {steps} 步中的 {step} 步：没有剩余的训练。将重新写出其结果。"),
    )
    .hint(
        "Raise num_train_epochs or max_steps to train further.",
        "如需继续训练，请调大 num_train_epochs 或 max_steps。",
    )
}

fn lost_best(path: &Path, faults: Text) -> Problem {
    let name = checkpoint::name(path);
    Problem::new(
        "damaged_checkpoint",
        format!("{name}, the best checkpoint, is damaged: {}. The result is that of the last step.", faults.en),
        format!("最佳检查点 {name} 已损坏：{}。结果取自最后一步。", faults.zh),
    )
}
