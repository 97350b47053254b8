//! A teacher behind an OpenAI-compatible server: one request for an answer, repeated with growing waits while the server is
//! busy or away. The key is shown to nobody but that server.

use crate::hub::request::{Retries, Trouble, host, shown};
use api::{Problem, RunConfig, data::Message, params::GenerateParams};
use reqwest::{Client, Response, StatusCode, Url, header::RETRY_AFTER, redirect::Policy};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Failures in a row after which the server is given up.
const PATIENCE: u32 = 8;
/// The same where it answers, but with what can't be understood.
const PATIENCE_WITH_NONSENSE: u32 = 3;
/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Time for one answer.
const LIMIT: Duration = Duration::from_secs(600);
/// The largest answer in bytes.
const LARGEST: usize = 8 << 20;

/// What the environment says about teachers; read by `cli` only.
#[derive(Clone, Debug, Default)]
pub struct TeacherSettings {
    /// `LATHE_TEACHER_API_KEY`.
    pub key: Option<String>,
    /// `LATHE_TEACHER_URL`: the key goes to this server alone. Without it, to the one that a job names.
    pub url: Option<String>,
}

/// The variables of [`TeacherSettings`]: only workers that ask another server get them.
pub const VARIABLES: [&str; 2] = ["LATHE_TEACHER_API_KEY", "LATHE_TEACHER_URL"];

/// Whether a training asks a judge or a reward server.
pub fn is_asked(config: &RunConfig) -> bool {
    let addresses = ["judge_base_url", "reward_url", "reward_model"].into_iter().filter_map(|key| config.text(key));
    addresses.into_iter().any(|text| text.trim_start().starts_with("http"))
}

/// A model of a server.
#[derive(Clone, Debug)]
pub struct Teacher {
    http: Client,
    /// Where answers are asked for, and the address as it was given, where scores are.
    url: Url,
    scorer: Url,
    model: String,
    key: Option<String>,
    /// After the first failure; it doubles with each further one.
    pub first_wait: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub text: String,
    /// exp of the mean log probability of the tokens, where the server tells it.
    pub confidence: Option<f64>,
    /// Whether it ended by itself.
    pub whole: bool,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Scores {
    scores: Vec<f64>,
}

#[derive(Deserialize)]
struct Choice {
    message: Spoken,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<LogProbs>,
}

#[derive(Deserialize)]
struct Spoken {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct LogProbs {
    #[serde(default)]
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    logprob: f64,
}

impl Teacher {
    /// `base_url` as OpenAI's programs take it, for example `http://localhost:8000/v1`.
    pub fn new(base_url: &str, model: &str, settings: &TeacherSettings) -> Result<Self, Problem> {
        let parsed = |text: &str| {
            let url = Url::parse(text.trim()).ok();
            url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        let mut url = parsed(base_url).ok_or_else(|| bad_url(base_url))?;
        let own = settings.url.as_deref().and_then(parsed);
        let is_meant = own.is_none_or(|own| own.origin() == url.origin());
        let is_key = |key: &String| !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
        let key = settings.key.clone().filter(|key| is_meant && is_key(key));
        let scorer = url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["chat", "completions"]);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("lathe/", env!("CARGO_PKG_VERSION")))
            // A redirect could lead the key elsewhere.
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .timeout(LIMIT);
        let name = url.host_str().unwrap_or_default();
        if name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| away(&url, &e.to_string()))?;
        Ok(Self { http, url, scorer, model: model.to_owned(), key, first_wait: Duration::from_millis(500) })
    }

    /// `model at host`, for people and for provenance.
    pub fn name(&self) -> String {
        format!("{} at {}", self.model, host(&self.url))
    }

    /// Answers a conversation; `surely`: with its confidence.
    pub async fn answer(&self, messages: &[Message], params: &GenerateParams, surely: bool) -> Result<Said, Problem> {
        let body = self.body(messages, params, surely);
        let mut retries = Retries::new(self.first_wait);
        loop {
            match self.ask(&body).await {
                Ok(said) => return Ok(said),
                Err(trouble) => retries.after(trouble).await?,
            }
        }
    }

    /// A score for each text, by the protocol of LLaMA-Factory's `reward_model_type: api`.
    pub async fn scores(&self, texts: &[String]) -> Result<Vec<f64>, Problem> {
        let body = json!({ "model": self.model, "messages": texts });
        let mut retries = Retries::new(self.first_wait);
        loop {
            let scored = self.post(&self.scorer, &body).await.and_then(|text| {
                let scored = |what: &str| nonsense(no_scores(&self.scorer, what));
                let Scores { scores } = serde_json::from_slice(&text).map_err(|e| scored(&e.to_string()))?;
                match scores.len() == texts.len() {
                    true => Ok(scores),
                    false => Err(scored(&format!("it has {} scores for {} texts", scores.len(), texts.len()))),
                }
            });
            match scored {
                Ok(scores) => return Ok(scores),
                Err(trouble) => retries.after(trouble).await?,
            }
        }
    }

    fn body(&self, messages: &[Message], params: &GenerateParams, surely: bool) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), self.model.clone().into());
        body.insert("messages".into(), json!(messages));
        body.insert("max_tokens".into(), params.max_new_tokens.into());
        body.insert("temperature".into(), json!(if params.do_sample { params.temperature } else { 0.0 }));
        body.insert("top_p".into(), params.top_p.into());
        // Positive and small enough for servers that keep it in 31 bits.
        body.extend(params.seed.map(|seed| ("seed".to_owned(), (seed & 0x7FFF_FFFF).into())));
        if surely {
            body.insert("logprobs".into(), true.into());
        }
        body.into()
    }

    /// What a server answers to a body, unless it is a refusal.
    async fn post(&self, url: &Url, body: &Value) -> Result<Vec<u8>, Trouble> {
        let mut request = self.http.post(url.clone()).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let mut response = request.send().await.map_err(|e| self.lost(&e))?;
        let status = response.status();
        let text = read(&mut response).await.map_err(|e| self.lost(&e))?;
        match status.is_success() {
            true => Ok(text),
            false => Err(self.refused(status, &response, &text)),
        }
    }

    async fn ask(&self, body: &Value) -> Result<Said, Trouble> {
        let text = self.post(&self.url, body).await?;
        let bad = |what: &str| nonsense(bad_answer(&self.url, what));
        let answer: Completion = serde_json::from_slice(&text).map_err(|e| bad(&e.to_string()))?;
        let choice = answer.choices.into_iter().next().ok_or_else(|| bad("it has no choices"))?;
        let tokens = choice.logprobs.and_then(|l| l.content).filter(|tokens| !tokens.is_empty());
        let confidence = tokens.map(|tokens| {
            let sum: f64 = tokens.iter().map(|token| token.logprob).sum();
            (sum / tokens.len() as f64).exp().clamp(0.0, 1.0)
        });
        let whole = choice.finish_reason.as_deref() != Some("length");
        Ok(Said { text: choice.message.content.unwrap_or_default(), confidence, whole })
    }

    fn lost(&self, error: &reqwest::Error) -> Trouble {
        let mut reason: &dyn std::error::Error = error;
        while let Some(deeper) = reason.source() {
            reason = deeper;
        }
        Trouble::Again { problem: away(&self.url, &reason.to_string()), wait: None, patience: PATIENCE }
    }

    fn refused(&self, status: StatusCode, response: &Response, text: &[u8]) -> Trouble {
        let said = said(text);
        match status.as_u16() {
            status @ (401 | 403) => key_refused(&self.url, status).into(),
            status @ (408 | 409 | 425 | 429 | 500..) => {
                let asked = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                let wait = asked.map(Duration::from_secs);
                let problem = busy(&self.url, status, &said);
                if wait > Some(LONGEST_WAIT) {
                    return problem.into();
                }
                Trouble::Again { problem, wait, patience: PATIENCE }
            }
            status => bad_answer(&self.url, &format!("status {status} {said}")).into(),
        }
    }
}

/// What a server in trouble may mend by itself.
fn nonsense(problem: Problem) -> Trouble {
    Trouble::Again { problem, wait: None, patience: PATIENCE_WITH_NONSENSE }
}

async fn read(response: &mut Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST {
            break; // It won't be understood, and the problem says so.
        }
    }
    Ok(body)
}

/// What a server says of an error, as OpenAI's do, cut to a line.
fn said(text: &[u8]) -> String {
    let value: Value = serde_json::from_slice(text).unwrap_or_default();
    let message = value.pointer("/error/message").or(value.get("message")).and_then(Value::as_str).unwrap_or_default();
    message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

fn bad_url(text: &str) -> Problem {
    let shown: String = text.chars().take(200).collect();
    Problem::new(
        "bad_base_url",
        format!("base_url is {shown:?}, must be an http or https address."),
        format!("base_url 是“{shown}”，必须是 http 或 https 地址。"),
    )
    .hint("Write it as, for example, http://localhost:8000/v1.", "请写成例如 http://localhost:8000/v1。")
    .field("base_url")
}

fn away(url: &Url, reason: &str) -> Problem {
    let host = host(url);
    Problem::new(
        "teacher_unreachable",
        format!("The model or scorer at {host} can't be reached: {reason}."),
        format!("无法连接到 {host} 的模型或打分服务：{reason}。"),
    )
    .hint(
        "Check that its server runs and its address is right, then resume: what is done so far is kept.",
        "请确认其服务正在运行且地址正确，然后继续：已完成的部分会保留。",
    )
    .field("base_url")
}

fn busy(url: &Url, status: u16, said: &str) -> Problem {
    let host = host(url);
    Problem::new(
        "teacher_busy",
        format!("The model or scorer at {host} keeps answering with status {status}. {said}").trim_end().to_owned(),
        format!("{host} 的模型或打分服务一直返回状态 {status}。{said}"),
    )
    .hint(
        "Wait until it has time again, then resume: what is done so far is kept.",
        "请等待其恢复，然后继续：已完成的部分会保留。",
    )
    .field("base_url")
}

fn key_refused(url: &Url, status: u16) -> Problem {
    let host = host(url);
    Problem::new(
        "teacher_key",
        format!("The server at {host} refuses the key, or there is none (status {status})."),
        format!("{host} 的服务拒绝了密钥，或未提供密钥（状态 {status}）。"),
    )
    .hint(
        "Set LATHE_TEACHER_API_KEY where Lathe is started; with LATHE_TEACHER_URL it goes to that server alone.",
        "请在启动 Lathe 的环境中设置 LATHE_TEACHER_API_KEY；若设置了 LATHE_TEACHER_URL，密钥只发送给该服务。",
    )
    .field("base_url")
}

fn bad_answer(url: &Url, what: &str) -> Problem {
    let shown = shown(url);
    Problem::new(
        "teacher_answer",
        format!("The answer of {shown} is not that of an OpenAI-compatible server: {what}."),
        format!("{shown} 的回答不符合 OpenAI 兼容服务的格式：{what}。"),
    )
    .hint(
        "Check its address (it often ends with /v1) and the name of the model there.",
        "请检查其地址（通常以 /v1 结尾）和该服务上的模型名称。",
    )
    .field("base_url")
}

fn no_scores(url: &Url, what: &str) -> Problem {
    let shown = shown(url);
    Problem::new(
        "reward_answer",
        format!("The answer of {shown} is not that of a reward server: {what}."),
        format!("{shown} 的回答不符合打分服务的格式：{what}。"),
    )
    .hint(
        "It has to answer {\"scores\": [...]}, a number for each of the messages that it is sent.",
        "它应返回 {\"scores\": [...]}，为收到的每条消息给出一个数。",
    )
    .field("reward_url")
}
