//! 1 for an answer in which a regular expression is found, 0 otherwise.

use super::{Attempt, Reward, Scorer, each, hit, pattern};
use crate::{Result, entry::Entry};
use api::{Card, Problem, Problems, RunConfig, Text, catalog::ui, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;

pub struct Pattern;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PatternParams {
    /// What the reward regex looks for anywhere in an answer, as a regular expression.
    #[schemars(extend("ui" = ui(["Wanted pattern", "目标模式"], "奖励 regex 在回答中查找的正则表达式。", ["(?i) at its beginning: whatever the case", "以 (?i) 开头则不分大小写"])))]
    pub reward_regex: String,
}

impl Entry for Pattern {
    fn card(&self) -> Card {
        Card {
            name: "regex".into(),
            title: Text::new("Pattern", "正则"),
            help: Text::new("1 if the pattern is found in the answer.", "回答中出现该模式时为 1。"),
            schema: params::schema::<PatternParams>(),
        }
    }
}

impl Reward for Pattern {
    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        let PatternParams { reward_regex } = params::read(config)?;
        if reward_regex.is_empty() {
            let problem = Problem::new(
                "no_pattern",
                "The reward regex has no pattern to look for.",
                "奖励函数 regex 没有要查找的模式。",
            );
            let problem =
                problem.hint("Set reward_regex, for example to (?i)thank", "请设置 reward_regex，例如 (?i)谢谢");
            return Err(problem.field("reward_regex").into());
        }
        Ok(Box::new(Found(pattern("reward_regex", &reward_regex)?)))
    }
}

struct Found(::regex::Regex);

impl Scorer for Found {
    fn score(&mut self, attempts: &[Attempt], _: &AtomicBool) -> Result<Vec<Option<f64>>> {
        each(attempts, |attempt| hit(self.0.is_match(&attempt.text)))
    }
}
