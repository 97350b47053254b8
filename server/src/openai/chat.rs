//! `POST /v1/chat/completions`.

use super::{
    answers::{self, Chunks, Head, TokenChoice, Tokens, finish_reason},
    messages,
    request::{ChatRequest, StreamOptions, generation, with_logprobs},
    tools,
};
use crate::{
    chat::{Asked, check_messages},
    error::{Failure, Reply},
    extract,
    router::{Content, Route},
    state::State as App,
};
use api::{
    calls::Call,
    chat::Reply as Said,
    routes::CHAT_COMPLETIONS,
    splitter::{Piece, Splitter},
};
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

pub fn routes() -> Vec<Route> {
    let route =
        Route::new(Method::POST, CHAT_COMPLETIONS, "Answer a conversation, as OpenAI's clients ask it", post(chat));
    vec![
        route
            .takes(Content::json::<ChatRequest>())
            .unhurried()
            .gives(StatusCode::OK, Content::json::<ChatCompletion>()),
    ]
}

#[derive(Serialize, JsonSchema)]
struct ChatCompletion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<Choice>,
    usage: Tokens,
}

#[derive(Default, Serialize, JsonSchema)]
struct Choice {
    index: u32,
    message: Answer,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Answer {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    refusal: Option<String>,
}

impl Default for Answer {
    fn default() -> Self {
        Self { role: "assistant", content: None, reasoning_content: None, tool_calls: Vec::new(), refusal: None }
    }
}

#[derive(Serialize, JsonSchema)]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Call,
}

#[derive(Default, Serialize, JsonSchema)]
struct Logprobs {
    content: Vec<TokenChoice>,
}

async fn chat(State(app): State<App>, extract::Json(mut request): extract::Json<ChatRequest>) -> Reply<Response> {
    let parameters = with_logprobs(std::mem::take(&mut request.parameters), request.logprobs);
    let mut params = generation(parameters, app.chats.defaults())?;
    let tools = tools::read(request.tools, request.tool_choice)?;
    if let Some(format) = tools.format {
        params.insert("response_format".into(), format);
    }
    let has_tools = tools.list.is_some();
    let messages = messages::read(request.messages)?;
    check_messages(&messages)?;
    let served = app.chats.serving(&request.model)?;
    let model = served.model.name.clone();
    let asked = Asked { messages, tools: tools.list, params, ..Asked::default() };
    let replies = answers::begin(vec![app.chats.begin(&served, asked)?]).await?;

    let form = |object| Ok::<_, Failure>(Form { head: Head::new("chatcmpl", object, model)?, has_tools });
    if request.stream.unwrap_or(false) {
        let chunks = Streamed { form: form("chat.completion.chunk")?, choices: Vec::new() };
        return Ok(answers::stream(replies, chunks, StreamOptions::includes_usage(request.stream_options)));
    }
    let mut gathered = Gathered { form: form("chat.completion")?, choices: Vec::new() };
    let usage = answers::gather(replies, |_, said| gathered.hear(said)).await?;
    let choices = gathered.choices.into_iter().map(|(choice, _)| choice).collect();
    Ok(Json(ChatCompletion { head: gathered.form.head, choices, usage }).into_response())
}

/// What all choices of a request have in common.
struct Form {
    head: Head,
    has_tools: bool,
}

impl Form {
    /// An id of its own for a call of a choice.
    fn call_id(&self, choice: u32, call: usize) -> String {
        let id = self.head.id.rsplit('-').next().unwrap_or_default();
        format!("call_{id}_{choice}_{call}")
    }
}

/// Choices as they grow.
struct Gathered {
    form: Form,
    choices: Vec<(Choice, Splitter)>,
}

impl Gathered {
    fn hear(&mut self, said: Said) {
        match said {
            Said::Text { index, text, logprobs, .. } => {
                self.grow(index, |splitter| splitter.push(&text));
                if !logprobs.is_empty() {
                    let told = self.at(index).0.logprobs.get_or_insert_default();
                    told.content.extend(logprobs.into_iter().map(TokenChoice::from));
                }
            }
            Said::Ended { index, finish_reason: reason, .. } => {
                self.grow(index, Splitter::end);
                let (choice, splitter) = self.at(index);
                choice.finish_reason = finish_reason(reason, splitter.calls());
                if choice.message.tool_calls.is_empty() {
                    choice.message.content.get_or_insert_default();
                }
            }
            _ => {}
        }
    }

    fn grow(&mut self, index: u32, pieces: impl FnOnce(&mut Splitter) -> Vec<Piece>) {
        for piece in pieces(&mut self.at(index).1) {
            let id = match piece {
                Piece::Call(call, _) => self.form.call_id(index, call),
                _ => String::new(),
            };
            let message = &mut self.at(index).0.message;
            match piece {
                Piece::Content(text) => message.content.get_or_insert_default().push_str(&text),
                Piece::Thinking(text) => message.reasoning_content.get_or_insert_default().push_str(&text),
                Piece::Call(_, name) => {
                    let function = Call { name, arguments: String::new() };
                    message.tool_calls.push(ToolCall { id, kind: "function", function });
                }
                Piece::Arguments(call, text) => {
                    if let Some(call) = message.tool_calls.get_mut(call) {
                        call.function.arguments.push_str(&text);
                    }
                }
            }
        }
    }

    fn at(&mut self, index: u32) -> &mut (Choice, Splitter) {
        let index = index as usize;
        while self.choices.len() <= index {
            let choice = Choice { index: self.choices.len() as u32, ..Choice::default() };
            self.choices.push((choice, Splitter::new(self.form.has_tools)));
        }
        &mut self.choices[index]
    }
}

/// Choices whose every piece is a chunk.
struct Streamed {
    form: Form,
    choices: Vec<Speaking>,
}

/// One that is being written.
struct Speaking {
    splitter: Splitter,
    /// Of text that is held back.
    logprobs: Vec<TokenChoice>,
}

impl Streamed {
    fn chunk(&self, index: u32, delta: Value, logprobs: Vec<TokenChoice>, finish_reason: Option<&str>) -> Value {
        let logprobs = (!logprobs.is_empty()).then(|| json!({ "content": logprobs }));
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason });
        self.with_choices(json!([choice]))
    }

    fn with_choices(&self, choices: Value) -> Value {
        let mut chunk = json!(self.form.head);
        chunk["choices"] = choices;
        chunk
    }

    /// The choices up to this one; each begins by saying who speaks.
    fn begin(&mut self, index: u32) -> Vec<Value> {
        let begun = self.choices.len() as u32..index + 1;
        self.choices.extend(begun.clone().map(|_| {
            let splitter = Splitter::new(self.form.has_tools);
            Speaking { splitter, logprobs: Vec::new() }
        }));
        let role = json!({ "role": "assistant", "content": "" });
        begun.map(|index| self.chunk(index, role.clone(), Vec::new(), None)).collect()
    }

    fn deltas(&mut self, index: u32, pieces: Vec<Piece>) -> Vec<Value> {
        let delta = |piece| match piece {
            Piece::Content(text) => json!({ "content": text }),
            Piece::Thinking(text) => json!({ "reasoning_content": text }),
            Piece::Call(call, name) => json!({ "tool_calls": [{
                "index": call, "id": self.form.call_id(index, call), "type": "function",
                "function": { "name": name, "arguments": "" },
            }] }),
            Piece::Arguments(call, text) => {
                json!({ "tool_calls": [{ "index": call, "function": { "arguments": text } }] })
            }
        };
        let deltas: Vec<Value> = pieces.into_iter().map(delta).collect();
        let chunk = |delta| {
            let logprobs = std::mem::take(&mut self.choices[index as usize].logprobs);
            self.chunk(index, delta, logprobs, None)
        };
        deltas.into_iter().map(chunk).collect()
    }
}

impl Chunks for Streamed {
    fn of(&mut self, _: usize, said: Said) -> Vec<Value> {
        match said {
            Said::Text { index, text, logprobs, .. } => {
                let mut chunks = self.begin(index);
                let speaking = &mut self.choices[index as usize];
                speaking.logprobs.extend(logprobs.into_iter().map(TokenChoice::from));
                let pieces = speaking.splitter.push(&text);
                chunks.extend(self.deltas(index, pieces));
                chunks
            }
            Said::Ended { index, finish_reason: reason, .. } => {
                let mut chunks = self.begin(index);
                let pieces = self.choices[index as usize].splitter.end();
                chunks.extend(self.deltas(index, pieces));
                let Speaking { splitter, logprobs } = &mut self.choices[index as usize];
                let (calls, logprobs) = (splitter.calls(), std::mem::take(logprobs));
                chunks.push(self.chunk(index, json!({}), logprobs, Some(finish_reason(reason, calls))));
                chunks
            }
            _ => Vec::new(),
        }
    }

    fn usage(&self, tokens: Tokens) -> Value {
        let mut chunk = self.with_choices(json!([]));
        chunk["usage"] = json!(tokens);
        chunk
    }
}
