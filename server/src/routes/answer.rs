//! `GET /answer?prompt=`: goes on with a text by the parameters that transformers' `generate` has.

use crate::{
    chat::{Asked, check_size},
    error::{Failure, Reply},
    openai,
    router::{Content, Route},
    state::State as App,
};
use api::{Problem, chat::Reply as Said, data::Message, routes::ANSWER};
use axum::{
    Json,
    extract::{Query, State},
    http::{Method, StatusCode},
    routing::get,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Serialize, JsonSchema)]
struct Generated {
    /// The prompt and what the model wrote after it; with `chat=true` its answer alone.
    generated_text: String,
}

pub fn routes() -> Vec<Route> {
    let route =
        Route::new(Method::GET, ANSWER, "Go on with a text; every parameter of a generation can be given", get(answer))
            .query_of("prompt", "string", "The text")
            .query_of("model", "string", "A loaded model by its name in /v1/models; the first if there is none")
            .query_of("chat", "boolean", "Take the prompt as a message and answer it by the chat template")
            .query("max_length", "Most tokens of prompt and answer together (100)")
            .query("min_length", "Fewest tokens of prompt and answer together (30)")
            .query_of("top_p", "number", "Share of the likeliest words that are chosen from (0.85)")
            .query_of("temperature", "number", "How daring the choice of words is (0.6)")
            .query_of("do_sample", "boolean", "Choose at random (true)")
            .query_of("repetition_penalty", "number", "Makes words that were said less likely (1.2)")
            .query("no_repeat_ngram_size", "No sequence of so many tokens comes twice (3)")
            .query("num_beams", "Answers that are followed at once (4)")
            .query_of("early_stopping", "boolean", "End with as many answers as beams (true)");
    vec![route.unhurried().gives(StatusCode::OK, Content::json::<Generated>())]
}

/// Where nothing is asked for.
fn defaults() -> Map<String, Value> {
    let defaults = json!({
        "max_length": 100, "min_length": 30, "top_p": 0.85, "temperature": 0.6, "do_sample": true,
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "num_beams": 4, "early_stopping": true,
    });
    defaults.as_object().cloned().unwrap_or_default()
}

async fn answer(State(app): State<App>, Query(mut asked): Query<BTreeMap<String, String>>) -> Reply<Json<Generated>> {
    let prompt = asked.remove("prompt").filter(|prompt| !prompt.is_empty()).ok_or_else(no_prompt)?;
    let model = asked.remove("model").unwrap_or_default();
    let is_chat = asked.remove("chat").is_some_and(|chat| ["true", "1"].contains(&chat.to_lowercase().as_str()));
    check_size(1, prompt.len(), "prompt")?;
    // Python writes True.
    let value = |text: String| match text.to_lowercase().as_str() {
        truth @ ("true" | "false") => truth.into(),
        _ => Value::String(text),
    };
    let asked = asked.into_iter().map(|(key, text)| (key, value(text))).collect();
    let mut params = openai::generation(asked, &defaults()).map_err(unprocessable)?;
    // The whole length is the bound; only who asks for it has another.
    let whole = params["max_length"].clone();
    params.entry("max_new_tokens").or_insert(whole);
    let served = app.chats.serving(&model)?;
    let asked = match is_chat {
        true => Asked { messages: vec![Message::new("user", &prompt)], params, ..Asked::default() },
        false => Asked { prompt: Some(prompt.clone()), params, ..Asked::default() },
    };
    let mut conversation = app.chats.begin(&served, asked)?;
    let mut generated_text = if is_chat { String::new() } else { prompt };
    while let Some(said) = conversation.next().await {
        match said {
            Said::Text { index: 0, text, .. } => generated_text.push_str(&text),
            Said::Failed { problem, .. } => return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, problem)),
            _ => {}
        }
    }
    Ok(Json(Generated { generated_text }))
}

fn no_prompt() -> Failure {
    let problem = Problem::new("no_prompt", "prompt is missing or empty.", "缺少 prompt，或其为空。");
    let problem =
        problem.hint("Write /answer?prompt= and the text.", "请写成 /answer?prompt= 加文本。").field("prompt");
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, problem)
}

fn unprocessable(failure: Failure) -> Failure {
    Failure { status: StatusCode::UNPROCESSABLE_ENTITY, ..failure }
}
