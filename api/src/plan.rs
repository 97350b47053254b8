//! [`Plan`]: everything resolved before the first step, or all problems at once.

use crate::{catalog::Text, problem::Problem};
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
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// What was picked to compute in: numbers and instructions, for example `bf16, AMX`.
    pub compute: String,
    /// Estimated time in seconds, and what the estimate rests on.
    pub seconds: Option<f64>,
    pub basis: Text,
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
