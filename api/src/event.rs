//! What a worker says: one JSON object a line in `events.jsonl`, flushed. The file is the truth of a run.

use crate::{catalog::Text, plan::Plan, problem::Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// 1 for the first line of the file, without gaps.
    pub seq: u64,
    /// Seconds since 1970.
    pub time: f64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The worker holds the run folder and begins. A resumed run has several of these.
    Started { pid: u32, version: String },
    /// What it does before the first step or between steps, for example loading the model.
    Status { text: Text, done: u64, total: u64 },
    /// Everything resolved; the steps that will be made.
    Planned { plan: Box<Plan> },
    /// One optimizer step, or an evaluation (`eval_loss`). Values are finite. Names as in LLaMA-Factory's log:
    /// `loss`, `learning_rate`, `grad_norm`, `tokens_per_s`, `eval_loss`.
    Metrics { step: u64, epoch: f64, values: BTreeMap<String, f64> },
    /// A complete checkpoint that was read back, named relative to the run folder. Step and size in bytes, and whether it is
    /// the best so far, where one is looked for.
    Checkpoint {
        step: u64,
        name: String,
        bytes: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        best: bool,
    },
    /// Something the person should know that doesn't stop the run.
    Note { problem: Problem },
    /// Files that the run produced for use elsewhere: the final adapter, a merged model.
    Artifact { path: String, bytes: u64 },
    /// The last line of a run that ended by itself.
    Finished {
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
        #[serde(default)]
        summary: BTreeMap<String, f64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// Asked to stop; saved first.
    Stopped,
    Failed,
}
