//! [`Plan`]: everything resolved before the first step, or all problems at once.

use crate::{catalog::Text, config::RunConfig, problem::Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    pub model: String,
    /// Model family, for example `llama`.
    pub family: String,
    pub stage: String,
    pub finetuning_type: String,
    /// Parameters in all, and those that training changes.
    pub parameters: u64,
    pub trainable: u64,
    /// Linears that an adapter sits on, by the last part of their name.
    pub targets: Vec<String>,
    /// `model` for the model's own chat template, otherwise a name.
    pub template: String,
    pub datasets: Vec<PlannedDataset>,
    /// Samples trained on in an epoch, and those held back.
    pub samples: u64,
    pub eval_samples: u64,
    /// Tokens of an epoch, and those with a loss.
    pub tokens: u64,
    pub trained_tokens: u64,
    pub longest: u64,
    /// Samples cut at `cutoff_len`, and samples left out since no token of theirs would be trained.
    pub truncated: u64,
    pub skipped: u64,
    pub epochs: f64,
    pub steps_per_epoch: u64,
    pub steps: u64,
    /// Estimated peak memory, by part, in bytes.
    pub memory: Vec<Part>,
    /// Bytes of one checkpoint.
    #[serde(default)]
    pub checkpoint: u64,
    /// Bytes that checkpoints and results will take.
    pub disk: u64,
    /// Bytes that programs can have of memory and disk now, where the system says it.
    #[serde(default)]
    pub free_memory: Option<u64>,
    #[serde(default)]
    pub free_disk: Option<u64>,
    /// What makes the run fit where it needs more than is free.
    #[serde(default)]
    pub fit: Option<Fix>,
    /// Changes that each make the run need less memory, those first that change its result least.
    #[serde(default)]
    pub remedies: Vec<Fix>,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// What was picked to compute in: numbers and instructions, for example `bf16, AMX`.
    pub compute: String,
    /// Estimated time in seconds, and what the estimate rests on.
    pub seconds: Option<f64>,
    pub basis: Text,
    /// Whether memory and time were measured with two steps of such a run on this computer.
    #[serde(default)]
    pub measured: bool,
    /// Worth knowing; Start is allowed.
    pub warnings: Vec<Problem>,
    /// Arguments that were accepted and have no effect.
    pub ignored: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedDataset {
    pub name: String,
    pub samples: u64,
    pub tokens: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    pub name: Text,
    pub bytes: u64,
}

/// A change of settings by which a run needs less.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fix {
    /// The settings that become others.
    pub changes: RunConfig,
    /// What the run then needs, in bytes.
    pub memory: u64,
    pub disk: u64,
}

impl Fix {
    /// The settings as they are written: `gradient_checkpointing: true, cutoff_len: 512`.
    pub fn settings(&self) -> String {
        self.changes.0.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ")
    }

    /// As the next step of a problem; `now` is what the run needs without it.
    pub fn step(&self, now: Option<u64>) -> Text {
        let (settings, then) = (self.settings(), gigabytes(self.memory));
        let (en, zh) = match now.map(gigabytes) {
            Some(now) => (format!(" instead of {now}"), format!("，而非 {now}")),
            None => Default::default(),
        };
        Text::new(format!("Set {settings}: about {then}{en}."), format!("设置 {settings}：约需 {then}{zh}。"))
    }
}

/// `1.2 GB`, and `340 MB` below that.
pub fn gigabytes(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{} MB", bytes.div_ceil(1_000_000)),
    }
}
