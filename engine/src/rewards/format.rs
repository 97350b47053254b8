//! 1 for an answer of the wanted form as a whole, 0 otherwise. The form by default is that of DeepSeek-R1's training (2025):
//! thoughts between `<think>` tags, then the answer between `<answer>` tags.

use super::{Attempt, Reward, Scorer, each, hit, pattern};
use crate::{Result, entry::Entry};
use api::{Card, Problems, RunConfig, Text, catalog::ui, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;

pub struct Format;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FormatParams {
    /// The form that the reward format wants of a whole answer, as a regular expression.
    #[schemars(extend("ui" = ui(["Format", "回答格式"], "奖励 format 对整个回答的格式要求（正则表达式）。", ["Usual: thoughts in <think> tags, then the answer in <answer> tags", "默认：先 <think> 思考，再 <answer> 回答"])))]
    pub reward_format: String,
}

impl Default for FormatParams {
    fn default() -> Self {
        Self { reward_format: r"\s*<think>(?s:.*?)</think>\s*<answer>(?s:.*?)</answer>\s*".into() }
    }
}

impl Entry for Format {
    fn card(&self) -> Card {
        Card {
            name: "format".into(),
            title: Text::new("Format", "格式"),
            help: Text::new("1 if the whole answer has the form.", "整个回答符合格式时为 1。"),
            schema: params::schema::<FormatParams>(),
        }
    }
}

impl Reward for Format {
    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        let FormatParams { reward_format } = params::read(config)?;
        // First as it was written, so that a fault is told of that.
        pattern("reward_format", &reward_format)?;
        Ok(Box::new(Whole(pattern("reward_format", &format!("^(?:{reward_format})$"))?)))
    }
}

struct Whole(regex::Regex);

impl Scorer for Whole {
    fn score(&mut self, attempts: &[Attempt], _: &AtomicBool) -> Result<Vec<Option<f64>>> {
        each(attempts, |attempt| hit(self.0.is_match(&attempt.text)))
    }
}
