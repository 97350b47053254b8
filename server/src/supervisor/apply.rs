//! What a line of `events.jsonl` means for a job. Pure: reading a file again from the start gives the same job.

use super::states::{Cause, advance};
use crate::store::Record;
use api::{
    Event, JobKind, Line, Problem,
    job::{Checkpoint, Metric, validated},
};
use std::{
    collections::VecDeque,
    path::{Component, Path},
};

/// What a line brings besides the change of the job itself.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// The job's progress changed; telling may wait a moment.
    Progress,
    /// The job's state changed; tell at once.
    State,
    Metric(Metric),
    Checkpoint(Checkpoint),
    Note(Problem),
}

/// The time of recent steps, for the estimate of what is left.
#[derive(Debug, Default)]
pub struct Pace(VecDeque<(f64, u64)>);

impl Pace {
    /// Seconds that `left` steps will take, by the last 20.
    fn add(&mut self, time: f64, step: u64, left: u64) -> Option<f64> {
        if self.0.back().is_some_and(|last| last.1 >= step || last.0 > time) {
            self.0.clear();
        }
        self.0.push_back((time, step));
        if self.0.len() > 20 {
            self.0.pop_front();
        }
        let (first, last) = (self.0.front()?, self.0.back()?);
        let steps = last.1 - first.1;
        #[allow(clippy::cast_precision_loss)]
        let seconds = (steps > 0).then(|| (last.0 - first.0) / steps as f64 * left as f64)?;
        seconds.is_finite().then_some(seconds)
    }
}

/// Applies one line. `dir` is the run folder.
pub fn apply(record: &mut Record, pace: &mut Pace, line: Line, dir: &Path) -> Effect {
    let (job, attempts) = (&mut record.job, &mut record.attempts);
    match line.event {
        Event::Started { .. } => {
            advance(job, Cause::Began, line.time);
            attempts.began();
            job.started_at = Some(line.time);
            *pace = Pace::default();
            Effect::State
        }
        Event::Status { text, done, total } => {
            // The bar of a training run shows steps only.
            if job.kind != JobKind::Train {
                // A sign of life without progress says nothing about the pace.
                if done != job.progress.done || total != job.progress.total {
                    job.progress.seconds_left = pace.add(line.time, done, total.saturating_sub(done));
                }
                (job.progress.done, job.progress.total) = (done, total);
                attempts.reached(done);
            }
            job.progress.status = Some(text);
            Effect::Progress
        }
        Event::Planned { plan } => {
            job.progress.total = plan.steps;
            job.plan = Some(*plan);
            Effect::State
        }
        Event::Metrics { step, epoch, mut values } => {
            values.retain(|_, value| value.is_finite());
            let epoch = if epoch.is_finite() { epoch } else { 0.0 };
            let progress = &mut job.progress;
            progress.latest.extend(values.clone());
            progress.status = None;
            progress.done = step;
            progress.total = progress.total.max(step);
            progress.epoch = epoch;
            attempts.reached(step);
            if values.keys().any(|name| validated(name).is_none()) {
                progress.seconds_left = pace.add(line.time, step, progress.total - step).or(progress.seconds_left);
            }
            Effect::Metric(Metric { step, epoch, time: line.time, values })
        }
        Event::Checkpoint { step, name, bytes, .. } => {
            if !is_beneath(&name) {
                return Effect::Note(bad_name(&name));
            }
            let path = dir.join(&name).to_string_lossy().into_owned();
            Effect::Checkpoint(Checkpoint { name, step, bytes, path })
        }
        Event::Note { problem } => Effect::Note(problem),
        Event::Artifact { path, .. } => {
            // Relative to the run folder, or a place of the person's own choice; of a downloaded dataset its name.
            if job.kind == JobKind::Pull && job.config.text("id").is_some() {
                job.artifact = Some(path);
                return Effect::Progress;
            }
            let whole = dir.join(&path);
            job.artifact = Some(if path == "." { dir } else { &whole }.to_string_lossy().into_owned());
            Effect::Progress
        }
        Event::Finished { outcome, problem, mut summary } => {
            summary.retain(|_, value| value.is_finite());
            advance(job, Cause::Said(outcome), line.time);
            job.problem = problem;
            job.summary = summary;
            Effect::State
        }
    }
}

/// True for a relative name that stays in its folder.
pub fn is_beneath(name: &str) -> bool {
    !name.is_empty() && name.len() <= 200 && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)))
}

fn bad_name(name: &str) -> Problem {
    let name: String = name.chars().take(100).collect();
    Problem::new(
        "checkpoint_name",
        format!("The run names a checkpoint {name:?} that isn't in its folder; it isn't shown."),
        format!("该运行给出的检查点 {name:?} 不在其文件夹内，未予显示。"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use api::JobState;
    use serde_json::json;

    fn feed(record: &mut Record, pace: &mut Pace, time: f64, event: serde_json::Value) -> Effect {
        let mut value = json!({ "seq": 1, "time": time });
        value.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        apply(record, pace, serde_json::from_value(value).unwrap(), Path::new("/runs/a"))
    }

    #[test]
    fn a_run_from_start_to_end() {
        let (mut record, mut pace) = (Record::example("a"), Pace::default());
        feed(&mut record, &mut pace, 10.0, json!({"type": "started", "pid": 1, "version": "x"}));
        assert_eq!(record.job.state, JobState::Running);
        let plan = serde_json::to_value(api::Plan { steps: 100, ..Default::default() }).unwrap();
        feed(&mut record, &mut pace, 11.0, json!({"type": "planned", "plan": plan}));
        for step in 1..=30 {
            let metric =
                json!({"type": "metrics", "step": step, "epoch": 0.1, "values": {"loss": 2.0, "grad_norm": 1.0}});
            feed(&mut record, &mut pace, 20.0 + 0.5 * f64::from(step), metric);
        }
        let progress = &record.job.progress;
        assert_eq!((progress.done, progress.total, progress.latest["loss"]), (30, 100, 2.0));
        assert!((progress.seconds_left.unwrap() - 35.0).abs() < 1e-9);
        let effect = feed(
            &mut record,
            &mut pace,
            40.0,
            json!({"type": "checkpoint", "step": 30, "name": "checkpoint-30", "bytes": 5}),
        );
        assert!(matches!(effect, Effect::Checkpoint(c) if c.path == "/runs/a/checkpoint-30"));
        feed(
            &mut record,
            &mut pace,
            41.0,
            json!({"type": "finished", "outcome": "stopped", "summary": {"train_loss": 1.5}}),
        );
        assert_eq!((record.job.state, record.job.finished_at), (JobState::Stopped, Some(41.0)));
        assert_eq!(record.job.progress.seconds_left, None);
        feed(&mut record, &mut pace, 50.0, json!({"type": "started", "pid": 1, "version": "x"}));
        assert_eq!((record.job.state, record.job.finished_at), (JobState::Running, None));
    }

    #[test]
    fn a_checkpoint_stays_in_its_folder() {
        let (mut record, mut pace) = (Record::example("a"), Pace::default());
        for name in ["../b", "/etc", "", "a/../../b", "."] {
            let event = json!({"type": "checkpoint", "step": 1, "name": name, "bytes": 0});
            assert!(matches!(feed(&mut record, &mut pace, 1.0, event), Effect::Note(_)), "{name}");
        }
    }

    #[test]
    fn an_evaluation_is_no_step_of_the_pace() {
        let (mut record, mut pace) = (Record::example("a"), Pace::default());
        record.job.progress.total = 10;
        for (time, values) in [(1.0, json!({"loss": 1.0})), (2.0, json!({"eval_loss": 1.0}))] {
            feed(&mut record, &mut pace, time, json!({"type": "metrics", "step": 1, "epoch": 0.0, "values": values}));
        }
        assert_eq!(record.job.progress.seconds_left, None);
        feed(&mut record, &mut pace, 3.0, json!({"type": "metrics", "step": 2, "epoch": 0.0, "values": {"loss": 1.0}}));
        assert_eq!(record.job.progress.seconds_left, Some(16.0));
    }
}
