//! Reward functions, `reward_funcs`: what an answer of the policy is worth. One file for each; one line here.

mod exact;
mod format;
mod http;
mod judge;
mod length;
mod model;
mod numeric;
mod overlong;
mod regex;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use judge::JUDGE_MODEL;

use crate::{
    Result,
    entry::{Entry, find},
    stages::Setting,
};
use api::{
    Problem, Problems, RunConfig,
    catalog::main_ui,
    params::{self, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::atomic::AtomicBool};

/// What is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempt {
    /// As the model read it, special tokens included.
    pub prompt: String,
    /// Without special tokens.
    pub text: String,
    /// The answer of the row, where it has one.
    pub reference: Option<String>,
    pub prompt_ids: Vec<u32>,
    /// Of the answer, with the token that ended it.
    pub ids: Vec<u32>,
}

/// A reward function.
pub trait Reward: Entry {
    /// Whether it compares with the answer of the row.
    fn needs_reference(&self) -> bool {
        false
    }

    /// A model that it loads beside that of the run, with the argument that names it.
    fn other(&self, config: &RunConfig) -> Result<Option<(&'static str, ModelParams)>, Problems> {
        let _ = config;
        Ok(None)
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems>;
}

/// A reward function of one run.
pub trait Scorer: Send {
    /// Loads or connects what it asks.
    fn begin(&mut self, setting: &Setting) -> Result<()> {
        let _ = setting;
        Ok(())
    }

    /// What each attempt is worth; nothing where it can't be said. Once `stop` is true what it gives doesn't count.
    fn score(&mut self, attempts: &[Attempt], stop: &AtomicBool) -> Result<Vec<Option<f64>>>;
}

pub static REWARDS: &[&dyn Reward] = &[
    &format::Format,
    &exact::Exact,
    &numeric::Numeric,
    &regex::Pattern,
    &length::Length,
    &overlong::SoftOverlong,
    &model::RewardModel,
    &judge::Judge,
    &http::Http,
];

/// What `reward_funcs` says, in TRL's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardParams {
    /// What answers are rewarded for, one or more of: format, exact, numeric, regex, length, soft_overlong, model, judge, http.
    #[schemars(extend("ui" = main_ui(["Rewards", "奖励函数"], "回答因何获得奖励，可选一个或多个：format（格式）、exact（完全一致）、numeric（数值答案）、regex（正则）、length（长度）、soft_overlong（过长惩罚）、model（奖励模型）、judge（评审模型）、http（打分服务）。", ["Several are added up by their weights", "多个奖励按权重相加"])))]
    pub reward_funcs: Vec<String>,
    /// What each reward counts, in their order. Empty: 1 each.
    #[schemars(extend("ui" = main_ui(["Reward weights", "奖励权重"], "各奖励的权重，按其顺序。留空则均为 1。", ["For example 1,0.2", "例如 1,0.2"])))]
    pub reward_weights: Vec<f64>,
}

/// Schemas of all that reward functions take, for the cards of the stages that use them.
pub fn schemas() -> impl Iterator<Item = serde_json::Value> {
    std::iter::once(params::schema::<RewardParams>()).chain(REWARDS.iter().map(|reward| reward.card().schema))
}

/// The name of the reward that a reward model gives.
const MODEL: &str = "model";

fn named(name: &str) -> Result<&'static dyn Reward> {
    find(REWARDS, ["reward", "奖励函数"], "reward_funcs", name)
}

/// The names of the rewards that a run asks for: `reward_funcs`, or the reward model where it alone is named.
pub fn asked(config: &RunConfig) -> Result<Vec<String>, Problems> {
    let names = params::read::<RewardParams>(config)?.reward_funcs;
    Ok(if names.is_empty() && model::is_named(config)? { vec![MODEL.to_owned()] } else { names })
}

/// The models that a run's rewards load beside its own, each with the argument that names it.
pub fn others(config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
    let mut others = Vec::new();
    for name in asked(config)? {
        // A name that isn't one is a problem of its own.
        if let Ok(reward) = named(&name) {
            others.extend(reward.other(config)?);
        }
    }
    Ok(others)
}

/// The reward functions of one run with their weights.
pub struct Rewards {
    all: Vec<(String, f64, Box<dyn Scorer>)>,
    needs_reference: Option<String>,
}

/// What an attempt got: from each function, before its weight, and in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worth {
    pub parts: BTreeMap<String, f64>,
    pub total: f64,
}

impl Rewards {
    /// As `reward_funcs` and `reward_weights` say.
    pub fn of(config: &RunConfig) -> Result<Self, Problems> {
        let (names, weights) = (asked(config)?, params::read::<RewardParams>(config)?.reward_weights);
        if names.is_empty() {
            return Err(nothing_rewarded().into());
        }
        if !weights.is_empty() && weights.len() != names.len() {
            return Err(wrong_weights(names.len(), weights.len()).into());
        }
        if !weights.is_empty() && weights.iter().all(|weight| *weight == 0.0) {
            return Err(nothing_counts().into());
        }
        if let Some(twice) = (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
            return Err(named_twice(&names[twice]).into());
        }
        if model::is_named(config)? && !names.iter().any(|name| name == MODEL) {
            return Err(model_unused().into());
        }
        let weighted = names.into_iter().zip(weights.into_iter().chain(std::iter::repeat(1.0)));
        let (mut problems, mut all, mut needs_reference) = (Problems::default(), Vec::new(), None);
        for (name, weight) in weighted {
            let started = named(&name).map_err(|error| Problems(error.into_problems())).and_then(|reward| {
                if reward.needs_reference() {
                    needs_reference = Some(name.clone());
                }
                reward.start(config)
            });
            match started {
                Ok(scorer) => all.push((name, weight, scorer)),
                Err(found) => problems.0.extend(found.0),
            }
        }
        problems.or(Self { all, needs_reference })
    }

    /// Loads and connects what they ask; refuses rows without an answer where one is compared with.
    pub fn begin(&mut self, setting: &Setting) -> Result<()> {
        // What is trained of a question is its answer and a last token.
        if let Some(name) = &self.needs_reference {
            let sets = [&setting.prepared.samples, &setting.prepared.eval].into_iter();
            let missing = sets.map(|set| (0..set.len()).filter(|i| set.targets(*i) < 2).count()).sum();
            if missing > 0 {
                return Err(no_reference(name, missing).into());
            }
        }
        self.all.iter_mut().try_for_each(|(_, _, scorer)| scorer.begin(setting))
    }

    /// What each attempt is worth.
    pub fn score(&mut self, attempts: &[Attempt], stop: &AtomicBool) -> Result<Vec<Worth>> {
        let mut worth = vec![Worth::default(); attempts.len()];
        for (name, weight, scorer) in &mut self.all {
            for (worth, score) in worth.iter_mut().zip(scorer.score(attempts, stop)?) {
                if let Some(score) = score.filter(|score| score.is_finite()) {
                    worth.total += *weight * score;
                    worth.parts.insert(name.clone(), score);
                }
            }
        }
        Ok(worth)
    }
}

fn nothing_rewarded() -> Problem {
    let names = REWARDS.iter().map(|reward| reward.card().name).collect::<Vec<_>>();
    Problem::new("no_reward", "No reward is chosen, so there is nothing to learn from.", "未选择奖励函数，无从学习。")
        .hint(
            format!("Set reward_funcs to one or more of {}.", names.join(", ")),
            format!("请将 reward_funcs 设为以下之一或多个：{}。", names.join("、")),
        )
        .field("reward_funcs")
}

fn wrong_weights(functions: usize, weights: usize) -> Problem {
    Problem::new(
        "wrong_weights",
        format!("reward_weights has {weights} weights for {functions} rewards."),
        format!("reward_weights 有 {weights} 个权重，而奖励函数有 {functions} 个。"),
    )
    .hint("Give one number for each reward, for example 1,0.2.", "请为每个奖励函数给出一个数，例如 1,0.2。")
    .field("reward_weights")
}

fn nothing_counts() -> Problem {
    Problem::new(
        "wrong_weights",
        "All reward_weights are 0, so there is nothing to learn from.",
        "reward_weights 全部为 0，无从学习。",
    )
    .hint("Give one of them a weight, for example 1.", "请至少给其中一个非零权重，例如 1。")
    .field("reward_weights")
}

fn named_twice(name: &str) -> Problem {
    Problem::new(
        "named_twice",
        format!("reward_funcs names {name} twice."),
        format!("reward_funcs 中重复出现了 {name}。"),
    )
    .hint("Name it once, with a larger weight in reward_weights.", "请只写一次，并在 reward_weights 中调大其权重。")
    .field("reward_funcs")
}

fn model_unused() -> Problem {
    Problem::new(
        "reward_model_unused",
        "reward_model is set, but none of reward_funcs asks it.",
        "设置了 reward_model，但 reward_funcs 中没有使用它。",
    )
    .hint(
        "Add model to reward_funcs, or leave reward_model empty.",
        "请在 reward_funcs 中加入 model，或清空 reward_model。",
    )
    .field("reward_model")
}

/// An http address that a person gave as `field`.
fn address(field: &str, text: &str) -> Result<String, Problems> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()?.rsplit('@').next());
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    match host.is_some_and(|host| host.starts_with(|c: char| c != ':') && host.chars().all(is_part)) {
        true => Ok(text.to_owned()),
        false => Err(Problem::new(
            "bad_address",
            format!("{field} is {text:?}, must be an http or https address."),
            format!("{field} 是“{text}”，必须是 http 或 https 地址。"),
        )
        .hint("Write it as, for example, http://localhost:8000/v1.", "请写成例如 http://localhost:8000/v1。")
        .field(field)
        .into()),
    }
}

fn no_reference(name: &str, missing: usize) -> Problem {
    Problem::new(
        "no_reference",
        format!("The reward {name} compares with the answers of the rows, and {missing} rows have none."),
        format!("奖励函数 {name} 要与样本的回答比较，而有 {missing} 行没有回答。"),
    )
    .hint(
        "Choose a dataset with answers, or a reward that needs none, such as format or judge.",
        "请选择带回答的数据集，或改用无需回答的奖励，例如 format 或 judge。",
    )
    .field("reward_funcs")
}

/// A regular expression that a person wrote.
fn pattern(field: &str, text: &str) -> Result<::regex::Regex, Problems> {
    ::regex::Regex::new(text).map_err(|e| {
        let reason = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
        Problem::new(
            "bad_pattern",
            format!("{field} {text:?} is no regular expression: {reason}."),
            format!("{field} “{text}”不是有效的正则表达式：{reason}。"),
        )
        .hint(
            "Look-around and back-references are not available; write it without them.",
            "不支持环视与反向引用，请改写。",
        )
        .field(field)
        .into()
    })
}

/// Each attempt by itself, with a function of it alone.
fn each(attempts: &[Attempt], score: impl Fn(&Attempt) -> f64) -> Result<Vec<Option<f64>>> {
    Ok(attempts.iter().map(|attempt| Some(score(attempt))).collect())
}

fn hit(is_hit: bool) -> f64 {
    f64::from(u8::from(is_hit))
}
