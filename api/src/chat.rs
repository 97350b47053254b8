//! Chat: one worker process holds one model; command lines go to its stdin, event lines come from its stdout.

use crate::{data::Message, problem::Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A line on a chat worker's stdin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    Generate {
        /// Chosen by the caller; each event line about this request carries it.
        id: String,
        messages: Vec<Message>,
        /// Generation parameters (`max_new_tokens`, `temperature`, `top_p`, `top_k`, `do_sample`, `repetition_penalty`, `seed`).
        #[serde(default)]
        params: Map<String, Value>,
    },
    Stop {
        id: String,
    },
    /// What a reward model gives texts; answered by [`Reply::Scores`].
    Score {
        id: String,
        texts: Vec<String>,
        /// Tokens of a text that are read; the rest is cut off.
        #[serde(default)]
        max_length: Option<usize>,
    },
}

/// A line on a chat worker's stdout, and a `data:` line of the stream that the browser reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The model is loaded. Sent once, first.
    Ready {
        model: String,
        seconds: f64,
        bytes: u64,
    },
    /// New text of a request.
    Text {
        id: String,
        text: String,
    },
    Done {
        id: String,
        finish_reason: FinishReason,
        usage: Usage,
    },
    /// One score for each text.
    Scores {
        id: String,
        scores: Vec<f64>,
    },
    /// A request failed; `id` is empty when loading failed, and the worker ends.
    Failed {
        id: String,
        problem: Problem,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its answer.
    Stop,
    /// `max_new_tokens` or the context was reached.
    Length,
    /// The person stopped it.
    Cancelled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub seconds: f64,
}

/// What `lathe chat --prompt … --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    pub text: String,
    pub ids: Vec<u32>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub finish_reason: FinishReason,
}

/// Body of `POST /api/chat`: which model to load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadChat {
    pub model_name_or_path: String,
    #[serde(default)]
    pub adapter_name_or_path: Option<String>,
    #[serde(default)]
    pub template: Option<String>,
}

/// A loaded (or loading) chat model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatModel {
    pub id: String,
    pub load: LoadChat,
    pub state: ChatState,
    pub bytes: u64,
    pub problem: Option<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatState {
    Loading,
    Ready,
    Failed,
}

/// Body of `POST /api/chat/{id}/generate`; the answer is an event stream of [`Reply`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Generate {
    pub messages: Vec<Message>,
    #[serde(default)]
    pub params: Map<String, Value>,
}

/// Body of `POST /v1/score/evaluation`, as LLaMA-Factory's API takes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreRequest {
    /// A loaded reward model: its id, its folder or its adapter. While one model is loaded alone, any name means that one.
    pub model: String,
    /// Whole conversations as the chat template writes them, special tokens included.
    pub messages: Vec<String>,
    #[serde(default)]
    pub max_length: Option<usize>,
}

/// Answer to a [`ScoreRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreResponse {
    pub id: String,
    /// `score.evaluation`.
    pub object: String,
    pub model: String,
    /// One for each text.
    pub scores: Vec<f64>,
}
