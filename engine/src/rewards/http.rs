//! Scores of a server, by the protocol of LLaMA-Factory's `reward_model_type: api`: it is sent `{"model", "messages"}`, each
//! message a prompt with its answer as one text, and gives `{"scores"}`, a number for each. The engine opens no connection:
//! the caller of a run does.

use super::{Attempt, Reward, Scorer, address};
use crate::{
    Error, Result,
    entry::Entry,
    make::{Endpoint, Teacher},
    stages::Setting,
};
use api::{Card, Problem, Problems, RunConfig, Text, catalog::ui, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};

/// Answers that are sent together.
const TOGETHER: usize = 64;

pub struct Http;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HttpParams {
    /// The address that the reward http sends answers to.
    #[schemars(extend("ui" = ui(["Reward server", "打分服务"], "奖励 http 发送回答的地址。", ["It gets {\"messages\": [...]} and gives {\"scores\": [...]}", "请求 {\"messages\": [...]}，返回 {\"scores\": [...]}"])))]
    pub reward_url: Option<String>,
}

impl Entry for Http {
    fn card(&self) -> Card {
        Card {
            name: "http".into(),
            title: Text::new("Server", "打分服务"),
            help: Text::new("The score that a server gives.", "由服务给出的分数。"),
            schema: params::schema::<HttpParams>(),
        }
    }
}

impl Reward for Http {
    fn start(&self, config: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        let HttpParams { reward_url } = params::read(config)?;
        match reward_url.map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()) {
            Some(url) => Ok(scorer(address("reward_url", &url)?, "reward_url")),
            None => Err(no_url().into()),
        }
    }
}

/// What asks the server at `url`, which the argument `field` named.
pub(super) fn scorer(url: String, field: &'static str) -> Box<dyn Scorer> {
    Box::new(Remote { url, field, server: None })
}

struct Remote {
    url: String,
    field: &'static str,
    server: Option<Box<dyn Teacher>>,
}

impl Scorer for Remote {
    fn begin(&mut self, setting: &Setting) -> Result<()> {
        let endpoint =
            Endpoint { base_url: self.url.clone(), model: setting.prepared.model.model_name_or_path.clone() };
        self.server = Some((setting.connect)(&endpoint).map_err(|error| error.at(self.field))?);
        Ok(())
    }

    fn score(&mut self, attempts: &[Attempt], stop: &AtomicBool) -> Result<Vec<Option<f64>>> {
        let server = self.server.as_mut().ok_or_else(|| Error::Internal("no reward server is connected".into()))?;
        let texts: Vec<String> = attempts.iter().map(|attempt| format!("{}{}", attempt.prompt, attempt.text)).collect();
        let mut all = Vec::with_capacity(texts.len());
        for some in texts.chunks(TOGETHER) {
            let scores = match server.scores(some, stop) {
                Ok(scores) => scores,
                Err(_) if stop.load(Ordering::Relaxed) => return Ok(vec![None; attempts.len()]),
                Err(error) => return Err(error.at(self.field)),
            };
            if scores.len() != some.len() {
                return Err(wrong_count(some.len(), scores.len()).field(self.field).into());
            }
            all.extend(scores.into_iter().map(Some));
        }
        Ok(all)
    }
}

fn no_url() -> Problem {
    Problem::new("no_reward_url", "The reward http has no address.", "奖励函数 http 没有地址。")
        .hint(
            "Set reward_url, for example to http://localhost:8000/v1/score/evaluation.",
            "请设置 reward_url，例如 http://localhost:8000/v1/score/evaluation。",
        )
        .field("reward_url")
}

fn wrong_count(wanted: usize, given: usize) -> Problem {
    Problem::new(
        "wrong_scores",
        format!("The reward server gave {given} scores for {wanted} answers."),
        format!("打分服务为 {wanted} 个回答返回了 {given} 个分数。"),
    )
    .hint("It has to give one number for each message.", "它必须为每条消息返回一个数。")
}
