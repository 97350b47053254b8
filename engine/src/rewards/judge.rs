//! The score that a judge gives: a model of this computer, or of an OpenAI-compatible server, is shown question and answer and
//! asked for a number (Zheng et al., 2023).

use super::{Attempt, Reward, Scorer, address};
use crate::{
    Error, Result,
    entry::Entry,
    make::{Endpoint, Options, Teacher},
    stages::Setting,
};
use api::{
    Card, Problem, Problems, RunConfig, Text,
    catalog::ui,
    data::Message,
    params::{self, GenerateParams, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};

/// The highest score that a judge may give; what it gives counts as a share of it.
const MOST: f64 = 10.0;
/// Tokens that a judge may use.
const WORDS: usize = 256;

/// The argument that names a judge.
pub const JUDGE_MODEL: &str = "judge_model";

pub struct Judge;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JudgeParams {
    /// The model that the reward judge asks: one of this computer, or with an address the name of a model there.
    #[schemars(extend("ui" = ui(["Judge", "评审模型"], "奖励 judge 所询问的模型：本机模型；若填了地址，则为该服务上的模型名称。", ["", ""])))]
    pub judge_model: Option<String>,
    /// Address of an OpenAI-compatible server with the judge. Empty: a model of this computer.
    #[schemars(extend("ui" = ui(["Judge's server", "评审服务地址"], "评审模型所在的 OpenAI 兼容服务地址。留空则用本机模型。", ["For example http://localhost:8000/v1", "例如 http://localhost:8000/v1"])))]
    pub judge_base_url: Option<String>,
    /// What the judge is asked; {question}, {answer} and {reference} are put in. It has to give a number from 0 to 10.
    #[schemars(extend("ui" = ui(["Question to the judge", "评审提示词"], "向评审提出的问题，其中 {question}、{answer}、{reference} 会被替换。评审应给出 0 到 10 的数。", ["Say what a good answer is", "说明什么是好的回答"])))]
    pub judge_prompt: String,
}

impl Default for JudgeParams {
    fn default() -> Self {
        let judge_prompt = "Rate the answer to the question from 0 (useless) to 10 (perfect). Judge whether it is \
            correct, helpful and clear.\n\nQuestion:\n{question}\n\nAnswer:\n{answer}\n\nGive the number alone.";
        Self { judge_model: None, judge_base_url: None, judge_prompt: judge_prompt.into() }
    }
}

impl Entry for Judge {
    fn card(&self) -> Card {
        Card {
            name: "judge".into(),
            title: Text::new("Judge", "评审"),
            help: Text::new("A score that another model gives, 0 to 1.", "由另一个模型给出的分数，0 到 1。"),
            schema: params::schema::<JudgeParams>(),
        }
    }
}

impl Reward for Judge {
    fn other(&self, config: &RunConfig) -> Result<Option<(&'static str, ModelParams)>, Problems> {
        let asked: JudgeParams = params::read(config)?;
        let device = params::read::<ModelParams>(config)?.device;
        let model = given(&asked.judge_model).filter(|_| given(&asked.judge_base_url).is_none());
        Ok(model.map(|model| (JUDGE_MODEL, chosen(model, device))))
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        let asked: JudgeParams = params::read(config)?;
        let Some(model) = given(&asked.judge_model) else {
            return Err(no_judge().into());
        };
        if !asked.judge_prompt.contains("{answer}") {
            return Err(no_answer_asked().into());
        }
        let base_url = given(&asked.judge_base_url).map(|url| address("judge_base_url", &url)).transpose()?;
        Ok(Box::new(Asking { model, base_url, prompt: asked.judge_prompt, teacher: None }))
    }
}

/// A text that says something.
fn given(text: &Option<String>) -> Option<String> {
    text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn chosen(model: String, device: Option<String>) -> ModelParams {
    ModelParams { model_name_or_path: model, device, ..ModelParams::default() }
}

struct Asking {
    model: String,
    base_url: Option<String>,
    prompt: String,
    teacher: Option<Box<dyn Teacher>>,
}

impl Scorer for Asking {
    fn begin(&mut self, setting: &Setting) -> Result<()> {
        let model = self.model.clone();
        self.teacher = Some(match &self.base_url {
            Some(base_url) => {
                let endpoint = Endpoint { base_url: base_url.clone(), model };
                (setting.connect)(&endpoint).map_err(|error| error.at("judge_base_url"))?
            }
            None => {
                let chosen = chosen(model, setting.prepared.model.device.clone());
                crate::make::local(&chosen, setting.places).map_err(|error| error.at(JUDGE_MODEL))?
            }
        });
        Ok(())
    }

    fn score(&mut self, attempts: &[Attempt], stop: &AtomicBool) -> Result<Vec<Option<f64>>> {
        let Self { prompt, teacher, base_url, .. } = self;
        let field = if base_url.is_some() { "judge_base_url" } else { JUDGE_MODEL };
        let teacher = teacher.as_mut().ok_or_else(|| Error::Internal("no judge is connected".into()))?;
        let generate =
            GenerateParams { max_new_tokens: WORDS, do_sample: false, seed: Some(0), ..GenerateParams::default() };
        let options = Options { generate, surely: false };
        let mut scores = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            let asked = Message::new("user", question(prompt, attempt));
            let said = teacher.answer(&[asked], &options, stop);
            if stop.load(Ordering::Relaxed) {
                return Ok(vec![None; attempts.len()]);
            }
            scores.push(score(&said.map_err(|error| error.at(field))?.text));
        }
        Ok(scores)
    }
}

/// The prompt with question, answer and reference put in; what they say is not searched again.
fn question(prompt: &str, attempt: &Attempt) -> String {
    let words = [
        ("{question}", attempt.prompt.as_str()),
        ("{answer}", &attempt.text),
        ("{reference}", attempt.reference.as_deref().unwrap_or_default()),
    ];
    let (mut text, mut rest) = (String::new(), prompt);
    while let Some((at, (mark, word))) = words.iter().filter_map(|word| Some((rest.find(word.0)?, word))).min() {
        text.extend([&rest[..at], word]);
        rest = &rest[at + mark.len()..];
    }
    text + rest
}

/// The last number from 0 to 10 that a judge said, as a share.
fn score(said: &str) -> Option<f64> {
    // "8/10" and "8 out of 10" mean 8.
    let plain = said.replace("/10", " ").replace("out of 10", " ").replace("/ 10", " ");
    super::numeric::number(&plain).filter(|n| (0.0..=MOST).contains(n)).map(|n| n / MOST)
}

fn no_judge() -> Problem {
    Problem::new("no_judge", "The reward judge has no model to ask.", "奖励函数 judge 没有可询问的模型。")
        .hint(
            "Set judge_model, and judge_base_url if it is elsewhere.",
            "请设置 judge_model；若在其他服务上，还需设置 judge_base_url。",
        )
        .field("judge_model")
}

fn no_answer_asked() -> Problem {
    Problem::new("no_answer_asked", "judge_prompt never shows the answer.", "judge_prompt 中没有出现回答。")
        .hint("Put {answer} where the answer shall stand.", "请在应出现回答之处写入 {answer}。")
        .field("judge_prompt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_shown_everything_and_understood() {
        let attempt = Attempt {
            prompt: "What is {answer}?".into(),
            text: "It is {question}.".into(),
            reference: Some("R".into()),
            ..Attempt::default()
        };
        let shown = question("Q {question} A {answer} R {reference}!", &attempt);
        assert_eq!(shown, "Q What is {answer}? A It is {question}. R R!");
        let said = ["8", "I give it 7/10.", "Score: 10 out of 10", "4.5", "none", "11"].map(score);
        assert_eq!(said, [Some(0.8), Some(0.7), Some(1.0), Some(0.45), None, None]);
    }
}
