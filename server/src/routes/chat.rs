//! Chat models and conversations with them.

use crate::{
    chat::{Conversation, check_messages, check_size},
    error::{Failure, Reply},
    extract::Json,
    router::{Content, Route},
    state::State as App,
};
use api::{
    Problem,
    chat::{ChatModel, Generate, LoadChat, Reply as Said, ScoreRequest, ScoreResponse},
    routes::{CHAT, CHAT_GENERATE, CHAT_MODEL, SCORE},
};
use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{delete, get, post},
};
use std::{convert::Infallible, time::Duration};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, CHAT, "Models loaded for chat", get(list))
            .gives(StatusCode::OK, Content::json::<Vec<ChatModel>>()),
        Route::new(Method::POST, CHAT, "Load a model for chat", post(load))
            .takes(Content::json::<LoadChat>())
            .gives(StatusCode::CREATED, Content::json::<ChatModel>()),
        Route::new(Method::GET, CHAT_MODEL, "One loaded model", get(one))
            .gives(StatusCode::OK, Content::json::<ChatModel>()),
        Route::new(Method::DELETE, CHAT_MODEL, "Unload a model", delete(unload)).gives_nothing(),
        Route::new(
            Method::POST,
            CHAT_GENERATE,
            "Answer a conversation, as server-sent events; closing it stops",
            post(generate),
        )
        .takes(Content::json::<Generate>())
        .gives(StatusCode::OK, Content::of::<Said>("text/event-stream")),
    ]
}

pub fn score_routes() -> Vec<Route> {
    let route = Route::new(Method::POST, SCORE, "Score texts by a loaded reward model", post(score));
    vec![route.takes(Content::json::<ScoreRequest>()).gives(StatusCode::OK, Content::json::<ScoreResponse>())]
}

async fn list(State(app): State<App>) -> axum::Json<Vec<ChatModel>> {
    axum::Json(app.chats.list())
}

async fn load(State(app): State<App>, Json(load): Json<LoadChat>) -> Reply<Response> {
    if load.model_name_or_path.is_empty() {
        let problem = Problem::new("model_missing", "No model is named.", "未指定模型。");
        return Err(Failure::bad(problem.hint("Choose one.", "请选择模型。").field("model_name_or_path")));
    }
    let model = app.chats.load(load)?;
    Ok((StatusCode::CREATED, axum::Json(model)).into_response())
}

async fn one(State(app): State<App>, Path(id): Path<String>) -> Reply<axum::Json<ChatModel>> {
    app.chats.get(&id).map(axum::Json)
}

async fn unload(State(app): State<App>, Path(id): Path<String>) -> Reply<StatusCode> {
    app.chats.unload(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn generate(State(app): State<App>, Path(id): Path<String>, Json(body): Json<Generate>) -> Reply<Response> {
    if body.messages.is_empty() {
        let problem = Problem::new("no_messages", "There is no message to answer.", "没有可回答的消息。");
        return Err(Failure::bad(problem.hint("Write something.", "请输入内容。").field("messages")));
    }
    check_messages(&body.messages)?;
    let conversation = app.chats.generate(&id, body)?;
    let stream = futures::stream::unfold(conversation, |mut conversation: Conversation| async move {
        let said = conversation.next().await?;
        let event = Event::default().data(serde_json::to_string(&said).unwrap_or_default());
        Some((Ok::<_, Infallible>(event), conversation))
    });
    // Also how a page that is gone is noticed, and its answer stopped.
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(5));
    Ok(Sse::new(stream).keep_alive(keep_alive).into_response())
}

async fn score(State(app): State<App>, Json(body): Json<ScoreRequest>) -> Reply<axum::Json<ScoreResponse>> {
    if body.messages.is_empty() {
        let problem = Problem::new("no_messages", "There is no text to score.", "没有可评分的文本。");
        return Err(Failure::bad(problem.hint("Give one text or more.", "请给出一段或多段文本。").field("messages")));
    }
    check_size(body.messages.len(), body.messages.iter().map(String::len).sum(), "messages")?;
    let model = body.model.clone();
    let (id, scores) = app.chats.score(body).await?;
    Ok(axum::Json(ScoreResponse { id: format!("scoreval-{id}"), object: "score.evaluation".into(), model, scores }))
}
