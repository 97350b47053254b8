//! Jobs: what the queue holds and the studio shows.

use crate::{
    config::RunConfig,
    params::ResumeMode,
    plan::Plan,
    problem::Problem,
    queue::{Priority, Queue, Restart},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// What stands in `RUN_DIR/spec.json`: everything a worker needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spec {
    pub id: String,
    pub kind: JobKind,
    pub config: RunConfig,
    /// The job of its chain that must have succeeded before this one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Seconds since 1970.
    pub created_at: f64,
}

/// What stands in `RUN_DIR/heartbeat.json` while a worker lives. It is replaced as a whole every [`Heartbeat::SECONDS`] and
/// taken away when the worker ends by itself; a worker that was killed leaves its last one.
///
/// A file that stays as it is tells of a worker that is stopped, or whose computation hasn't moved for a minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Seconds since 1970.
    pub time: f64,
    /// Pieces of work done so far: operations, rows, parts of files. Only that it moves means something.
    pub work: u64,
    /// The most bytes that the worker has held so far, where the system tells it.
    pub peak_memory: Option<u64>,
}

impl Heartbeat {
    /// Its name in a run folder.
    pub const FILE: &str = "heartbeat.json";
    /// Between two of them.
    pub const SECONDS: u64 = 2;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// A worker trains; `config` as `lathe train` takes it.
    Train,
    /// A worker writes a merged model; `config` as `lathe export` takes it.
    Export,
    /// The server downloads a model, whose hub id is `config.model_name_or_path`, or a dataset: then `config` is a
    /// [`PullDataset`](crate::hub::PullDataset).
    Pull,
    /// A worker makes rows; `config` as `lathe data make` takes it.
    Make,
    /// A worker evaluates a model; `config` as `lathe eval` takes it.
    Evaluate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Running,
    /// Asked to stop, saving.
    Stopping,
    Succeeded,
    Stopped,
    Failed,
    /// The worker is gone without a last word: killed, out of memory, machine off. Resumable.
    Interrupted,
}

impl JobState {
    /// True while the job waits or runs.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Queued | Self::Running | Self::Stopping)
    }
}

/// A job as the studio sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Also the name of its folder in `runs/`: `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`.
    pub id: String,
    pub kind: JobKind,
    pub state: JobState,
    pub config: RunConfig,
    /// The job of its chain that must have succeeded before this one begins.
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub priority: Priority,
    /// When it starts again by itself, if it was interrupted and will.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// Seconds since 1970.
    pub created_at: f64,
    pub started_at: Option<f64>,
    pub finished_at: Option<f64>,
    pub progress: Progress,
    /// Why it failed or was interrupted, and what to do.
    pub problem: Option<Problem>,
    /// What it will do, once the worker knows.
    pub plan: Option<Plan>,
    pub summary: BTreeMap<String, f64>,
    /// Result of an export: where it stands.
    pub artifact: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Steps (training), files or bytes (export, pull) done and in all; 0 of 0 while unknown.
    pub done: u64,
    pub total: u64,
    /// What it does at present, when it is not making steps.
    pub status: Option<crate::catalog::Text>,
    pub epoch: f64,
    /// Latest value of each metric.
    pub latest: BTreeMap<String, f64>,
    pub seconds_left: Option<f64>,
    /// Since when, in seconds since 1970, the worker has given no sign of life though it is there.
    #[serde(default)]
    pub stalled_since: Option<f64>,
}

/// One point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    pub step: u64,
    pub epoch: f64,
    /// Seconds since 1970.
    pub time: f64,
    pub values: BTreeMap<String, f64>,
}

impl Metric {
    /// Whether a validation measured it, rather than a step.
    pub fn is_validation(&self) -> bool {
        self.values.keys().any(|name| validated(name).is_some())
    }
}

/// What a validation's metrics have before their names, as in transformers.
const VALIDATION: &str = "eval_";

/// The name under which a validation tells a metric.
pub fn validation_name(metric: &str) -> String {
    format!("{VALIDATION}{metric}")
}

/// The metric that a validation tells under this name; nothing for a name of training.
pub fn validated(name: &str) -> Option<&str> {
    name.strip_prefix(VALIDATION)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Checkpoint {
    /// `checkpoint-25`, or `final` for what stands in the run folder itself.
    pub name: String,
    pub step: u64,
    pub bytes: u64,
    /// Absolute path, as `adapter_name_or_path` (or `model_name_or_path` after full tuning) takes it.
    pub path: String,
}

/// Body of `POST /api/jobs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewJob {
    pub kind: JobKind,
    /// Wished name; the id is made from it. Empty: made from the model and the stage.
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub priority: Priority,
    pub config: RunConfig,
}

impl NewJob {
    pub fn new(kind: JobKind, name: impl Into<String>, config: RunConfig) -> Self {
        Self { kind, name: name.into(), priority: Priority::default(), config }
    }
}

/// Body of `POST /api/jobs/{id}/resume`. Empty: a training goes on from its newest whole checkpoint as if it had never stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Resume {
    /// `best`, or the name of one of its checkpoints.
    pub checkpoint: Option<String>,
    /// What is taken from it.
    pub mode: ResumeMode,
    /// Arguments that are others from here on.
    pub settings: RunConfig,
    /// Go on although they, or the rows, are no longer those of the checkpoint.
    pub accept_changes: bool,
}

impl Resume {
    /// The arguments of a resumed training whose folder is `dir`; nothing if it names no checkpoint that stands there.
    pub fn apply(&self, config: &RunConfig, dir: &Path) -> Option<RunConfig> {
        let from: serde_json::Value = match self.checkpoint.as_deref() {
            None => true.into(),
            Some("best") => "best".into(),
            Some(name) => {
                name.strip_prefix("checkpoint-")?.parse::<u64>().ok()?;
                dir.join(name).is_dir().then(|| dir.join(name).to_string_lossy().into_owned())?.into()
            }
        };
        let mut config = config.clone();
        for (key, value) in &self.settings.0 {
            config.set(key, value.clone());
        }
        config.set("resume_from_checkpoint", from);
        // Of an earlier resume: only what is asked for now counts.
        config.remove("resume_mode");
        config.remove("accept_changes");
        if self.mode != ResumeMode::All {
            config.set("resume_mode", serde_json::to_value(self.mode).unwrap_or_default());
        }
        if self.accept_changes {
            config.set("accept_changes", true);
        }
        Some(config)
    }
}

/// Body of `POST /api/chains`: jobs that run one after the other, each once the one before it has succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewChain {
    /// `{run:N}` in a text of a job's config stands for the folder of the N-th job of the chain, from 1, which must come
    /// before it: its result, as `adapter_name_or_path` or `model_name_or_path` take it.
    pub jobs: Vec<NewJob>,
}

/// Whether a path of a configuration stands for the result of an earlier job of its [chain](NewChain), which isn't there yet.
pub fn is_awaited(path: &str) -> bool {
    path.starts_with("{run:")
}

/// One message of `GET /api/events`; the SSE `id` counts up without gaps, the SSE `event` is `feed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Feed {
    /// A job came or changed.
    Job {
        job: Box<Job>,
    },
    Metric {
        job: String,
        metric: Metric,
    },
    Checkpoint {
        job: String,
        checkpoint: Checkpoint,
    },
    Note {
        job: String,
        problem: Problem,
    },
    /// The order of the queue changed, or what its jobs wait for.
    Queue {
        queue: Queue,
    },
    /// A job and its folder were deleted.
    Gone {
        job: String,
    },
    /// `datasets`, `models`, `chat` or `jobs` (also the points of an open run) changed: ask again. `all`: what was told
    /// since the last message seen is no longer known.
    Changed {
        what: String,
    },
}

/// The id that a new job would like: `name` (empty: none), or model and stage; never empty, at most 48 characters, and
/// fit for a folder's name: `^[A-Za-z0-9][A-Za-z0-9._-]*$`.
pub fn wished_id(kind: JobKind, name: &str, config: &RunConfig) -> String {
    let model = config.text("model_name_or_path").or(config.text("id")).unwrap_or("model");
    let last =
        |name: &str| Path::new(name).file_stem().map_or_else(|| name.into(), |s| s.to_string_lossy().into_owned());
    let model = last(model);
    let made = match kind {
        JobKind::Train => format!("{model}-{}", config.text("stage").unwrap_or("sft")),
        JobKind::Export => format!("export-{model}"),
        JobKind::Pull => format!("pull-{model}"),
        JobKind::Evaluate => format!("eval-{model}"),
        JobKind::Make => format!("made-{}", last(config.text("dataset").unwrap_or("data"))),
    };
    [name, &made].into_iter().map(slug).find(|id| !id.is_empty()).unwrap_or_else(|| "run".into())
}

fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.trim().chars() {
        let c = if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        if c != '-' || !out.ends_with('-') {
            out.push(c);
        }
    }
    out.trim_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(48).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resume_says_where_from_with_what_and_forgets_the_one_before() {
        let dir = std::env::temp_dir();
        let config: RunConfig =
            serde_json::from_value(json!({"learning_rate": 0.1, "resume_mode": "weights", "accept_changes": true}))
                .unwrap();
        let plain = Resume::default().apply(&config, &dir).unwrap();
        assert_eq!(json!(plain), json!({"learning_rate": 0.1, "resume_from_checkpoint": true}));
        let asked = json!({"checkpoint": "best", "mode": "optimizer", "settings": {"learning_rate": 0.2}, "accept_changes": true});
        let asked: Resume = serde_json::from_value(asked).unwrap();
        let all = json!({
            "learning_rate": 0.2, "resume_from_checkpoint": "best", "resume_mode": "optimizer", "accept_changes": true
        });
        assert_eq!(json!(asked.apply(&config, &dir).unwrap()), all);
        for name in ["checkpoint-5", "../checkpoint-1", "final", ""] {
            let wish = Resume { checkpoint: Some(name.into()), ..Resume::default() };
            assert_eq!(wish.apply(&config, &dir), None, "{name}");
        }
    }
}
