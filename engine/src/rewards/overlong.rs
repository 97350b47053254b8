//! DAPO's soft punishment of overlong answers (Yu et al., 2025, equation 13): nothing up to `soft_max_length` without the last
//! `soft_cache_length` tokens, falling evenly to -1 at `soft_max_length`, and -1 beyond.

use super::{Attempt, Reward, Scorer, each};
use crate::{Result, entry::Entry, stages::online::RolloutParams};
use api::{Card, Problem, Problems, RunConfig, Text, catalog::ui, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;

pub struct SoftOverlong;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OverlongParams {
    /// The longest answer for the reward soft_overlong. Empty: max_new_tokens.
    #[schemars(range(min = 2, max = 131072), extend("ui" = ui(["Soft longest answer", "软性最大长度"], "奖励 soft_overlong 的最大回答长度。留空则为 max_new_tokens。", ["Lower: shorter answers", "调低：回答更短"]), "unit" = "tokens"))]
    pub soft_max_length: Option<usize>,
    /// So many tokens before the longest answer the punishment begins. Empty: a quarter of it.
    #[schemars(range(min = 1, max = 131072), extend("ui" = ui(["Soft margin", "软性区间"], "在最大长度之前多少词元开始惩罚。留空则为最大长度的四分之一。", ["Higher: begins earlier and rises slower", "调高：更早开始，上升更缓"]), "unit" = "tokens"))]
    pub soft_cache_length: Option<usize>,
}

impl Entry for SoftOverlong {
    fn card(&self) -> Card {
        Card {
            name: "soft_overlong".into(),
            title: Text::new("Not too long", "不过长"),
            help: Text::new(
                "0, falling to -1 towards the longest answer (DAPO).",
                "为 0，接近最大长度时降至 -1（DAPO）。",
            ),
            schema: params::schema::<OverlongParams>(),
        }
    }
}

impl Reward for SoftOverlong {
    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        let OverlongParams { soft_max_length, soft_cache_length } = params::read(config)?;
        let longest = params::read::<RolloutParams>(config)?.max_new_tokens;
        let most = soft_max_length.unwrap_or(longest);
        let margin = soft_cache_length.unwrap_or((most / 4).max(1));
        if margin >= most {
            let problem = Problem::new(
                "bad_value",
                format!("soft_cache_length {margin} is not below soft_max_length {most}."),
                format!("soft_cache_length {margin} 不小于 soft_max_length {most}。"),
            );
            let problem = problem.hint("Lower soft_cache_length.", "请调小 soft_cache_length。");
            return Err(problem.field("soft_cache_length").into());
        }
        if most - margin >= longest {
            let begins = most - margin;
            let problem = Problem::new(
                "bad_value",
                format!(
                    "soft_overlong would begin behind {begins} tokens, but no answer has more than {longest} (max_new_tokens)."
                ),
                format!(
                    "soft_overlong 从第 {begins} 个词元之后才开始，而回答最多 {longest} 个词元（max_new_tokens）。"
                ),
            );
            let problem = problem.hint(
                "Leave soft_max_length empty for max_new_tokens, or lower it.",
                "请将 soft_max_length 留空（即 max_new_tokens）或调小。",
            );
            return Err(problem.field("soft_max_length").into());
        }
        Ok(Box::new(Shaped { most: most as f64, margin: margin as f64 }))
    }
}

struct Shaped {
    most: f64,
    margin: f64,
}

impl Scorer for Shaped {
    fn score(&mut self, attempts: &[Attempt], _: &AtomicBool) -> Result<Vec<Option<f64>>> {
        let Self { most, margin } = self;
        each(attempts, |attempt| ((*most - *margin - attempt.ids.len() as f64) / *margin).clamp(-1.0, 0.0))
    }
}
