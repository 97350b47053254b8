//! What a policy sampled and what it got for it: a line of `RUN_DIR/rollouts.jsonl` for each prompt of a step of the stages
//! that generate (`ppo`, `grpo`), and what the rollout inspector shows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One prompt of a step with the answers that were sampled for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    /// The optimizer step that learned from it, from 1.
    pub step: u64,
    /// The prompt as the model read it, special tokens included.
    pub prompt: String,
    /// The answer of the row, which rewards may compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub samples: Vec<Sample>,
}

/// One sampled answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    pub text: String,
    pub tokens: u64,
    /// Whether it came to its end, rather than to `max_new_tokens`.
    pub whole: bool,
    /// What each reward function gave, before its weight.
    pub rewards: BTreeMap<String, f64>,
    /// The weighted sum, with whatever shapes it (length, KL).
    pub reward: f64,
    /// Mean over its tokens.
    pub advantage: f64,
    /// Share of its tokens whose ratio was clipped, 0 to 1.
    pub clipped: f64,
    /// Mean over its tokens of the estimated KL divergence from the reference, in nats.
    pub kl: f64,
    /// Mean entropy of the policy at its tokens, in nats.
    pub entropy: f64,
}
