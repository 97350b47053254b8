//! The closer to the wanted number of tokens the better: 1 at it, falling evenly to 0 at none and at twice as many.

use super::{Attempt, Reward, Scorer, each};
use crate::{Result, entry::Entry};
use api::{Card, Problems, RunConfig, Text, catalog::ui, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;

pub struct Length;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LengthParams {
    /// Tokens that the reward length wants of an answer.
    #[schemars(range(min = 1, max = 131072), extend("ui" = ui(["Wanted length", "目标长度"], "奖励 length 希望回答达到的词元数。", ["Higher: longer answers", "调高：回答更长"]), "unit" = "tokens"))]
    pub reward_length: usize,
}

impl Default for LengthParams {
    fn default() -> Self {
        Self { reward_length: 64 }
    }
}

impl Entry for Length {
    fn card(&self) -> Card {
        Card {
            name: "length".into(),
            title: Text::new("Length", "长度"),
            help: Text::new(
                "The closer to the wanted number of tokens the better, 0 to 1.",
                "越接近目标词元数越高，0 到 1。",
            ),
            schema: params::schema::<LengthParams>(),
        }
    }
}

impl Reward for Length {
    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        let LengthParams { reward_length } = params::read(config)?;
        Ok(Box::new(Near(reward_length as f64)))
    }
}

struct Near(f64);

impl Scorer for Near {
    fn score(&mut self, attempts: &[Attempt], _: &AtomicBool) -> Result<Vec<Option<f64>>> {
        each(attempts, |attempt| (1.0 - (attempt.ids.len() as f64 - self.0).abs() / self.0).max(0.0))
    }
}
