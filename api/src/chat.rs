//! Chat: one worker process holds one model; command lines go to its stdin, event lines come from its stdout.

use crate::{data::Message, problem::Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A line on a chat worker's stdin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    /// Answered by [`Reply::Text`] and one [`Reply::Ended`] for each answer, then [`Reply::Done`].
    Generate {
        /// Chosen by the caller; each event line about this request carries it.
        id: String,
        /// A conversation to answer, where there is no `prompt`.
        #[serde(default)]
        messages: Vec<Message>,
        /// A text to go on with as it stands, without a chat template.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt: Option<String>,
        /// OpenAI's list of tools, for the chat template.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools: Option<Value>,
        /// One of [`LoadChat::adapters`]; none: the model as it was loaded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adapter: Option<String>,
        /// [`GenerateParams`](crate::params::GenerateParams).
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
    /// Each text as a vector; answered by [`Reply::Embeddings`].
    Embed {
        id: String,
        texts: Vec<String>,
    },
}

/// A line on a chat worker's stdout, and a `data:` line of the stream that the browser reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The model is loaded. Sent once, first.
    Ready { model: String, seconds: f64, bytes: u64 },
    /// New text of an answer.
    Text {
        id: String,
        /// Which of the request's answers, from 0.
        #[serde(default)]
        index: u32,
        text: String,
        /// Of the tokens that the text came from, if `logprobs` asked for them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    /// One of a request's answers has ended.
    Ended {
        id: String,
        #[serde(default)]
        index: u32,
        finish_reason: FinishReason,
    },
    /// All of a request's answers have ended.
    Done { id: String, usage: Usage },
    /// For each text the mean of the last hidden states over its tokens, of length 1; and the tokens of all texts.
    Embeddings { id: String, embeddings: Vec<Vec<f32>>, tokens: u64 },
    /// One score for each text.
    Scores { id: String, scores: Vec<f64> },
    /// A request failed; `id` is empty when loading failed, and the worker ends.
    Failed { id: String, problem: Problem },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its answer.
    Stop,
    /// `max_new_tokens`, `max_length` or the context was reached.
    Length,
    /// The person stopped it.
    Cancelled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    pub prompt_tokens: u64,
    /// Of these, how many had their keys and values in the cache already.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Of all answers.
    pub completion_tokens: u64,
    /// From the request to its end, waiting included.
    pub seconds: f64,
    /// Until the first token.
    #[serde(default)]
    pub first_token_seconds: f64,
    #[serde(default)]
    pub cache: CacheUse,
}

/// The cache of keys and values when a request ended, of all requests together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CacheUse {
    /// Pages that sequences hold, and the positions that these have room for.
    pub pages: u64,
    pub places: u64,
    /// Positions that are filled.
    pub tokens: u64,
    /// Memory that is set aside for pages, free ones included.
    pub bytes: u64,
}

impl CacheUse {
    /// Filled positions of those set aside for sequences, 0 to 1.
    pub fn utilisation(&self) -> f64 {
        if self.places == 0 { 1.0 } else { self.tokens as f64 / self.places as f64 }
    }
}

/// A token of an answer and how likely it was, as the model gave it before any parameter changed that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenLogprob {
    #[serde(flatten)]
    pub token: TokenChance,
    /// The likeliest tokens at this place, the likeliest first.
    #[serde(default)]
    pub top: Vec<TokenChance>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenChance {
    pub token: String,
    /// Of the token, which may be a part of a character that `token` can't show.
    pub bytes: Vec<u8>,
    /// ln of the probability.
    pub logprob: f32,
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
    /// More adapters on the same base, chosen for each request; each is a folder, or several that stand on one another,
    /// separated by commas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
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
