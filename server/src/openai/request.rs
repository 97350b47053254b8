//! Bodies of requests. Fields that aren't known are passed over, as OpenAI's servers do; those that are parameters of a
//! generation have Lathe's bounds, and those that only Lathe knows (`top_k`, `num_beams` …) can be given beside them.

use super::{messages::ChatMessage, tools::ToolChoice};
use crate::error::{Failure, Reply};
use api::{
    Problem, Problems, RunConfig,
    params::{self, GenerateParams},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Body of `POST /v1/chat/completions`.
#[derive(Deserialize, JsonSchema)]
pub struct ChatRequest {
    #[serde(default)]
    pub model: String,
    pub messages: Vec<ChatMessage>,
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether the answer tells how likely each token was.
    #[serde(default)]
    pub logprobs: Option<bool>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// `n`, `stop`, `seed`, `temperature` and all other parameters of a generation.
    #[serde(flatten)]
    pub parameters: Map<String, Value>,
}

/// Body of `POST /v1/completions`.
#[derive(Deserialize, JsonSchema)]
pub struct CompletionRequest {
    #[serde(default)]
    pub model: String,
    /// A text to go on with, or several.
    pub prompt: Texts,
    /// Whether the answer begins with the prompt.
    #[serde(default)]
    pub echo: Option<bool>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// `n`, `stop`, `seed`, `temperature`, `logprobs` and all other parameters of a generation.
    #[serde(flatten)]
    pub parameters: Map<String, Value>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// Whether a last chunk tells the tokens used.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

impl StreamOptions {
    pub fn includes_usage(options: Option<Self>) -> bool {
        options.and_then(|options| options.include_usage).unwrap_or(false)
    }
}

/// A text or several. OpenAI takes tokens too; what they are depends on the model, so they are refused.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Texts {
    One(String),
    Several(Vec<String>),
    Tokens(Vec<Value>),
}

impl Texts {
    /// At least one, none of them empty.
    pub fn into_texts(self, field: &'static str) -> Reply<Vec<String>> {
        let texts = match self {
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
            Self::Tokens(values) => {
                let count = values.len();
                return Err(refused(
                    field,
                    format!("{field} is a list of {count} values that aren't all texts."),
                    format!("{field} 是含 {count} 个值的列表，其中有些不是文本。"),
                    [
                        "Send text; the model's own tokenizer makes tokens of it.",
                        "请发送文本；模型自带的分词器会将其转换为词元。",
                    ],
                ));
            }
        };
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            return Err(refused(
                field,
                format!("{field} has an empty text or none."),
                format!("{field} 为空或含有空文本。"),
                ["Write something in each.", "请确保每段文本不为空。"],
            ));
        }
        Ok(texts)
    }
}

/// Parameters of a generation under the names that OpenAI has for them, and Lathe's.
const NAMES: [(&str, &str); 4] = [
    ("max_completion_tokens", "max_new_tokens"),
    ("max_tokens", "max_new_tokens"),
    ("n", "num_return_sequences"),
    ("top_logprobs", "logprobs"),
];

/// What `asked` says of a generation, on top of `defaults`, checked. A problem names the field as it was asked for.
pub fn generation(asked: Map<String, Value>, defaults: &Map<String, Value>) -> Reply<Map<String, Value>> {
    let schema = params::schema::<GenerateParams>();
    let known = |key: &str| schema["properties"].get(key).is_some();
    let mut found = defaults.clone();
    let mut renamed = Vec::new();
    for (key, value) in asked {
        let ours = NAMES.iter().find(|(theirs, _)| *theirs == key).map(|(_, ours)| *ours);
        let name = ours.map_or_else(|| key.clone(), str::to_owned);
        if !known(&name) || value.is_null() {
            continue;
        }
        renamed.extend(ours.map(|ours| (key, ours)));
        found.insert(name, value);
    }
    if found.get("response_format").is_some_and(|format| format["type"] == "text") {
        found.remove("response_format");
    }
    let named_as_asked = |mut problem: Problem| {
        if let Some((theirs, ours)) = renamed.iter().find(|(_, ours)| problem.field.as_deref() == Some(ours)) {
            problem.field = Some(theirs.clone());
            problem.message = problem.message.replacen(ours, theirs, 1);
            if let Some(zh) = &mut problem.zh {
                zh.message = zh.message.replacen(ours, theirs, 1);
            }
        }
        match problem.hint.is_empty() {
            true => problem.hint("See /openapi.json for what can be asked.", "可用的参数见 /openapi.json。"),
            false => problem,
        }
    };
    params::read::<GenerateParams>(&RunConfig(found.clone()))
        .map_err(|Problems(all)| Failure::from(Problems(all.into_iter().map(named_as_asked).collect())))?;
    Ok(found)
}

/// Adds what isn't asked for as a number: `logprobs: true` without `top_logprobs` means none beside the token itself.
pub fn with_logprobs(mut parameters: Map<String, Value>, wanted: Option<bool>) -> Map<String, Value> {
    match wanted {
        Some(true) => {
            parameters.entry("top_logprobs").or_insert(json!(0));
        }
        _ => {
            parameters.remove("top_logprobs");
        }
    }
    parameters
}

/// A field that can't be as it is.
pub fn refused(field: &str, en: String, zh: String, [hint, tip]: [&str; 2]) -> Failure {
    Failure::bad(Problem::new("invalid_value", en, zh).hint(hint, tip).field(field))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(asked: Value) -> Result<Value, Vec<Problem>> {
        let defaults = json!({ "temperature": 0.5 });
        let read = generation(asked.as_object().unwrap().clone(), defaults.as_object().unwrap());
        read.map(Value::Object).map_err(|failure| failure.problems)
    }

    #[test]
    fn parameters_have_openais_names_and_others_pass() {
        assert_eq!(
            read(json!({"max_tokens": 5, "n": 2, "stop": "\n", "user": "x", "seed": null, "top_logprobs": 3})).unwrap(),
            json!({"temperature": 0.5, "max_new_tokens": 5, "num_return_sequences": 2, "stop": "\n", "logprobs": 3})
        );
        assert_eq!(read(json!({"response_format": {"type": "text"}})).unwrap(), json!({"temperature": 0.5}));
        assert_eq!(read(json!({"temperature": 1, "top_k": 3})).unwrap(), json!({"temperature": 1, "top_k": 3}));
    }

    #[test]
    fn a_problem_names_the_field_that_was_sent() {
        for (asked, field) in [
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_completion_tokens": -1}), "max_completion_tokens"),
            (json!({"n": 1000}), "n"),
            (json!({"temperature": "warm"}), "temperature"),
            (json!({"presence_penalty": 3}), "presence_penalty"),
        ] {
            let problem = read(asked).unwrap_err().remove(0);
            assert_eq!(problem.field.as_deref(), Some(field));
            assert!(problem.message.starts_with(field) && problem.zh.unwrap().message.starts_with(field));
        }
    }
}
