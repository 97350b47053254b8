//! `POST /v1/completions`: texts that the model goes on with as they stand, without a chat template.

use super::{
    answers::{self, Chunks, Head, Tokens, finish_reason},
    request::{CompletionRequest, StreamOptions, generation},
};
use crate::{
    chat::{Asked, check_size},
    error::Reply,
    extract,
    router::{Content, Route},
    state::State as App,
};
use api::{
    chat::{Reply as Said, TokenLogprob},
    routes::COMPLETIONS,
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
use serde_json::{Map, Value, json};

pub fn routes() -> Vec<Route> {
    let route = Route::new(Method::POST, COMPLETIONS, "Go on with texts, as OpenAI's clients ask it", post(complete));
    vec![
        route
            .takes(Content::json::<CompletionRequest>())
            .unhurried()
            .gives(StatusCode::OK, Content::json::<Completion>()),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Completion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<Choice>,
    usage: Tokens,
}

/// A choice, or what a chunk adds to it.
#[derive(Clone, Default, Serialize, JsonSchema)]
struct Choice {
    /// The answers to the first prompt come first.
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Clone, Default, Serialize, JsonSchema)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

async fn complete(State(app): State<App>, extract::Json(request): extract::Json<CompletionRequest>) -> Reply<Response> {
    let params = generation(request.parameters, app.chats.defaults())?;
    let prompts = request.prompt.into_texts("prompt")?;
    check_size(prompts.len(), prompts.iter().map(String::len).sum(), "prompt")?;
    let served = app.chats.serving(&request.model)?;
    let each = params.get("num_return_sequences").and_then(Value::as_u64).unwrap_or(1) as usize;
    let begin = |prompt: &String| {
        let asked = Asked { prompt: Some(prompt.clone()), params: params.clone(), ..Asked::default() };
        app.chats.begin(&served, asked)
    };
    let replies = answers::begin(prompts.iter().map(begin).collect::<Reply<_>>()?).await?;

    let echoed = |prompt: &String| if request.echo == Some(true) { prompt.clone() } else { String::new() };
    let head = Head::new("cmpl", "text_completion", served.model.name)?;
    let mut choices = Choices { head, each, said: prompts.iter().flat_map(|p| vec![echoed(p); each]).collect() };
    if request.stream.unwrap_or(false) {
        return Ok(answers::stream(replies, Streamed(choices), StreamOptions::includes_usage(request.stream_options)));
    }
    let one = |(index, text): (usize, &String)| Choice { index, text: text.clone(), ..Choice::default() };
    let mut gathered: Vec<Choice> = choices.said.iter().enumerate().map(one).collect();
    let usage = answers::gather(replies, |prompt, said| {
        let Some(more) = choices.hear(prompt, said) else { return };
        let Some(choice) = gathered.get_mut(more.index) else { return };
        choice.text.push_str(&more.text);
        choice.finish_reason = choice.finish_reason.or(more.finish_reason);
        if let Some(more) = more.logprobs {
            choice.logprobs.get_or_insert_default().extend(more);
        }
    });
    let usage = usage.await?;
    Ok(Json(Completion { head: choices.head, choices: gathered, usage }).into_response())
}

/// Which choice a reply belongs to, and how far each is.
struct Choices {
    head: Head,
    /// Answers to one prompt.
    each: usize,
    /// The text of each choice so far.
    said: Vec<String>,
}

impl Choices {
    /// What a reply adds to a choice.
    fn hear(&mut self, prompt: usize, said: Said) -> Option<Choice> {
        let at = |index: u32| prompt * self.each + index as usize;
        match said {
            Said::Text { index, text, logprobs, .. } => {
                let index = at(index);
                let before = self.said.get_mut(index)?;
                let logprobs = (!logprobs.is_empty()).then(|| Logprobs::of(logprobs, before.chars().count()));
                before.push_str(&text);
                Some(Choice { index, text, logprobs, finish_reason: None })
            }
            Said::Ended { index, finish_reason: reason, .. } => {
                Some(Choice { index: at(index), finish_reason: Some(finish_reason(reason, 0)), ..Choice::default() })
            }
            _ => None,
        }
    }
}

impl Logprobs {
    fn of(found: Vec<TokenLogprob>, mut offset: usize) -> Self {
        let mut all = Self::default();
        for TokenLogprob { token, top } in found {
            all.text_offset.push(offset);
            offset += token.token.chars().count();
            all.tokens.push(token.token);
            all.token_logprobs.push(token.logprob);
            all.top_logprobs.push(top.into_iter().map(|chance| (chance.token, json!(chance.logprob))).collect());
        }
        all
    }

    fn extend(&mut self, more: Self) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}

struct Streamed(Choices);

impl Streamed {
    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = json!(self.0.head);
        chunk["choices"] = choices;
        chunk
    }
}

impl Chunks for Streamed {
    fn begin(&mut self) -> Vec<Value> {
        let echoed = self.0.said.iter().enumerate().filter(|(_, text)| !text.is_empty());
        let choice = |(index, text): (usize, &String)| Choice { index, text: text.clone(), ..Choice::default() };
        echoed.map(choice).map(|choice| self.chunk(json!([choice]))).collect()
    }

    fn of(&mut self, prompt: usize, said: Said) -> Vec<Value> {
        self.0.hear(prompt, said).map(|choice| self.chunk(json!([choice]))).into_iter().collect()
    }

    fn usage(&self, tokens: Tokens) -> Value {
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = json!(tokens);
        chunk
    }
}
