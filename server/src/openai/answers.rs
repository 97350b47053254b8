//! Several answers of a model, gathered or as a stream of server-sent events. A client that goes away drops them, which
//! stops the model.

use super::failure;
use crate::{
    chat::Conversation,
    error::{Failure, Reply},
};
use api::{
    Problem,
    chat::{FinishReason, Reply as Said, TokenLogprob, Usage},
};
use axum::{
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::{collections::VecDeque, convert::Infallible, pin::Pin, time::Duration};

/// What answers say, with which of the prompts it answers.
pub type Replies = Pin<Box<dyn Stream<Item = (usize, Said)> + Send>>;

/// Waits until each prompt is answered, or refused: a refusal is a failed request, and no stream that fails.
pub async fn begin(conversations: Vec<Conversation>) -> Reply<Replies> {
    let mut all = Vec::new();
    for (prompt, mut conversation) in conversations.into_iter().enumerate() {
        let first = match conversation.next().await {
            Some(Said::Failed { problem, .. }) => return Err(Failure::bad(problem)),
            Some(first) => first,
            None => return Err(Failure::conflict(crate::chat::gone())),
        };
        let rest = stream::unfold(conversation, |mut conversation| async move {
            conversation.next().await.map(|said| (said, conversation))
        });
        all.push(stream::once(std::future::ready(first)).chain(rest).map(move |said| (prompt, said)).boxed());
    }
    Ok(Box::pin(stream::select_all(all)))
}

/// Gives the replies to `take` until all have ended.
pub async fn gather(mut replies: Replies, mut take: impl FnMut(usize, Said)) -> Reply<Tokens> {
    let mut tokens = Tokens::default();
    while let Some((prompt, said)) = replies.next().await {
        match said {
            Said::Failed { problem, .. } => return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, problem)),
            Said::Done { usage, .. } => tokens.add(usage),
            said => take(prompt, said),
        }
    }
    Ok(tokens)
}

/// What becomes of the replies in a stream.
pub trait Chunks: Send + 'static {
    /// Those before the first reply.
    fn begin(&mut self) -> Vec<Value> {
        Vec::new()
    }

    /// The chunks that a reply adds.
    fn of(&mut self, prompt: usize, said: Said) -> Vec<Value>;

    /// The last one, which tells the tokens used.
    fn usage(&self, tokens: Tokens) -> Value;
}

/// Server-sent events of chunks, and `[DONE]` behind them. What fails on the way is told in the stream.
pub fn stream(replies: Replies, mut chunks: impl Chunks, includes_usage: bool) -> Response {
    let ready = chunks.begin().iter().map(Value::to_string).collect();
    let state = Streaming { replies, chunks, includes_usage, tokens: Tokens::default(), ready, is_over: false };
    let events = stream::unfold(state, |mut state| async move {
        let data = state.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), state))
    });
    // Also how a client that is gone is noticed, and its answer stopped.
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(5))).into_response()
}

struct Streaming<C> {
    replies: Replies,
    chunks: C,
    includes_usage: bool,
    tokens: Tokens,
    ready: VecDeque<String>,
    is_over: bool,
}

impl<C: Chunks> Streaming<C> {
    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() && !self.is_over {
            match self.replies.next().await {
                Some((_, Said::Done { usage, .. })) => self.tokens.add(usage),
                Some((_, Said::Failed { problem, .. })) => self.fail(&problem),
                Some((prompt, said)) => self.ready.extend(self.chunks.of(prompt, said).iter().map(Value::to_string)),
                None => {
                    let usage = self.includes_usage.then(|| self.chunks.usage(self.tokens).to_string());
                    self.ready.extend(usage.into_iter().chain(["[DONE]".to_owned()]));
                    self.is_over = true;
                }
            }
        }
        self.ready.pop_front()
    }

    fn fail(&mut self, problem: &Problem) {
        self.ready.push_back(failure::body(StatusCode::INTERNAL_SERVER_ERROR, problem).to_string());
        self.is_over = true;
    }
}

/// Tokens of all prompts and answers.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Tokens {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: CachedTokens,
}

#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
struct CachedTokens {
    cached_tokens: u64,
}

impl Tokens {
    fn add(&mut self, usage: Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
        self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
    }
}

/// How likely a token was, as chat completions tell it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TokenChoice {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<api::chat::TokenChance>,
}

impl From<TokenLogprob> for TokenChoice {
    fn from(found: TokenLogprob) -> Self {
        let api::chat::TokenChance { token, bytes, logprob } = found.token;
        Self { token, logprob, bytes, top_logprobs: found.top }
    }
}

/// `stop`, `length`, or `tool_calls` where tools were called.
pub fn finish_reason(reason: FinishReason, calls: usize) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Cancelled if calls > 0 => "tool_calls",
        FinishReason::Stop | FinishReason::Cancelled => "stop",
    }
}

/// What answers to a request have in common.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Head {
    pub id: String,
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

impl Head {
    pub fn new(prefix: &str, object: &'static str, model: String) -> Reply<Self> {
        let id = format!("{prefix}-{}", crate::random::hex(12).map_err(Failure::internal)?);
        Ok(Self { id, object, created: crate::time::now() as u64, model })
    }
}
