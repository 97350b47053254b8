//! DAPO's soft punishment of overlong answers (Yu et al., 2025, equation 13): nothing up to `soft_max_length` without the last
//! `soft_cache_length` tokens, falling evenly to -1 at `soft_max_length`, and -1 beyond.

use super::{Attempt, Reward, Scorer, each};
use crate::{Result, entry::Entry};
use api::{Card, Problem, Problems, RunConfig, Text, catalog::ui, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;

pub struct SoftOverlong;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OverlongParams {
    /// The longest answer for the reward soft_overlong.
    #[schemars(range(min = 2, max = 131072), extend("ui" = ui(["Soft longest answer", "软性最大长度"], "奖励 soft_overlong 的最大回答长度。", ["Usual: max_new_tokens or less", "通常不超过 max_new_tokens"]), "unit" = "tokens"))]
    pub soft_max_length: usize,
    /// So many tokens before the longest answer the punishment begins.
    #[schemars(range(min = 1, max = 131072), extend("ui" = ui(["Soft margin", "软性区间"], "在最大长度之前多少词元开始惩罚。", ["Higher: begins earlier and rises slower", "调高：更早开始，上升更缓"]), "unit" = "tokens"))]
    pub soft_cache_length: usize,
}

impl Default for OverlongParams {
    fn default() -> Self {
        Self { soft_max_length: 256, soft_cache_length: 64 }
    }
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
        let OverlongParams { soft_max_length: most, soft_cache_length: margin } = params::read(config)?;
        if margin >= most {
            let problem = Problem::new(
                "bad_value",
                format!("soft_cache_length {margin} is not below soft_max_length {most}."),
                format!("soft_cache_length {margin} 不小于 soft_max_length {most}。"),
            );
            let problem = problem.hint("Lower soft_cache_length.", "请调小 soft_cache_length。");
            return Err(problem.field("soft_cache_length").into());
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
