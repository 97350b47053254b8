//! Jobs of the engine, run to their end.

use api::{
    Event, JobKind, Outcome, Problem, RunConfig,
    job::Spec,
    params::{ComputeType, ModelParams},
};
use engine::{Places, Result, loaded::Loaded, run};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// A job that has ended, with all it told.
pub struct Ended {
    pub dir: PathBuf,
    pub outcome: Outcome,
    pub events: Vec<Event>,
}

/// What a job tells its events to.
pub type Sink<'a> = &'a mut dyn FnMut(Event) -> Result<()>;

pub fn places(home: &Path) -> Places {
    Places { home: home.into(), hub_cache: home.join("hub") }
}

pub fn config_of(value: Value) -> RunConfig {
    serde_json::from_value(value).unwrap()
}

pub fn spec(kind: JobKind, config: RunConfig) -> Spec {
    Spec { id: "run".into(), kind, config, after: None, created_at: 0.0 }
}

/// A job with a data folder; it is asked to stop after a step.
pub fn job(home: &Path, dir: &Path, kind: JobKind, config: RunConfig, stop_after: Option<u64>) -> Ended {
    let spec = spec(kind, config);
    heard(dir, stop_after, |sink, stop| run::run(&spec, dir, &places(home), sink, stop))
}

/// What `job`, which works in `dir`, tells until it ends.
pub fn heard(dir: &Path, stop_after: Option<u64>, job: impl FnOnce(Sink, &AtomicBool) -> Result<Outcome>) -> Ended {
    let (stop, mut events) = (AtomicBool::new(false), Vec::new());
    let mut sink = |event: Event| {
        if matches!(&event, Event::Metrics { step, .. } if Some(*step) == stop_after) {
            stop.store(true, Ordering::Relaxed);
        }
        events.push(event);
        Ok(())
    };
    let outcome = job(&mut sink, &stop).unwrap();
    Ended { dir: dir.into(), outcome, events }
}

/// A model with an adapter on it, which computes in float32.
pub fn load(home: &Path, model: &Path, adapter: Option<&Path>) -> Loaded {
    let params = ModelParams {
        model_name_or_path: model.display().to_string(),
        adapter_name_or_path: adapter.map(|a| a.display().to_string()),
        ..ModelParams::default()
    };
    Loaded::open(&params, &places(home), ComputeType::Fp32).unwrap()
}

impl Ended {
    /// What each step and validation measured.
    pub fn steps(&self) -> impl Iterator<Item = &BTreeMap<String, f64>> {
        self.events.iter().filter_map(|event| match event {
            Event::Metrics { values, .. } => Some(values),
            _ => None,
        })
    }

    /// A metric wherever it was told.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.steps().filter_map(|values| values.get(name).copied()).collect()
    }

    pub fn losses(&self) -> Vec<f64> {
        self.values("loss")
    }

    /// Steps with the bits of their loss.
    pub fn loss_bits(&self) -> Vec<(u64, u64)> {
        let loss = |event: &Event| match event {
            Event::Metrics { step, values, .. } => Some((*step, values.get("loss")?.to_bits())),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }

    pub fn notes(&self) -> Vec<&Problem> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Note { problem } = event { Some(problem) } else { None })
            .collect()
    }

    /// Steps of the checkpoints that were told of, or of the best alone.
    pub fn saved(&self, best_alone: bool) -> Vec<u64> {
        let saved = |event: &Event| match event {
            Event::Checkpoint { step, best, .. } if *best || !best_alone => Some(*step),
            _ => None,
        };
        self.events.iter().filter_map(saved).collect()
    }

    /// What stands in `trainer_state.json`.
    pub fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("trainer_state.json")).unwrap()).unwrap()
    }

    /// Why it failed.
    pub fn problem(&self) -> &Problem {
        let Some(Event::Finished { problem: Some(problem), .. }) = self.events.last() else { panic!("it went on") };
        problem
    }

    /// The file of trained weights.
    pub fn weights(&self) -> Vec<u8> {
        let adapter = self.dir.join("adapter_model.safetensors");
        fs::read(if adapter.exists() { adapter } else { self.dir.join("model.safetensors") }).unwrap()
    }
}
