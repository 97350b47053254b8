//! Conversations that are kept, and the votes that are given in them.

use super::datasets::changed;
use crate::{
    ask::unexpected,
    error::{Failure, Reply},
    extract,
    home::replace_file,
    router::{Content, Route},
    sessions,
    state::State as App,
};
use api::{
    Problem, RunConfig,
    data::{DatasetInfo, Edit},
    question::{Answer, Question},
    routes::{PREFERENCES_CHAT, SESSION, SESSIONS},
    session::{ChatVote, Session, SessionContent, SessionInfo},
};
use axum::{
    Json,
    extract::{Path, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde_json::{Value, json};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, SESSIONS, "Conversations that are kept", get(list))
            .gives(StatusCode::OK, Content::json::<Vec<SessionInfo>>()),
        Route::new(Method::POST, SESSIONS, "Keep a conversation", post(begin))
            .takes(Content::json::<SessionContent>())
            .gives(StatusCode::CREATED, Content::json::<Session>()),
        Route::new(Method::GET, SESSION, "One conversation", get(one))
            .gives(StatusCode::OK, Content::json::<Session>()),
        Route::new(Method::PUT, SESSION, "Keep a conversation as it is now", put(change))
            .takes(Content::json::<SessionContent>())
            .gives(StatusCode::OK, Content::json::<Session>()),
        Route::new(Method::DELETE, SESSION, "Forget a conversation", delete(forget)).gives_nothing(),
        Route::new(Method::POST, PREFERENCES_CHAT, "Keep a vote on two answers as a row of a dataset", post(vote))
            .takes(Content::json::<ChatVote>())
            .unhurried()
            .gives(StatusCode::OK, Content::json::<DatasetInfo>()),
    ]
}

async fn list(State(app): State<App>) -> Reply<Json<Vec<SessionInfo>>> {
    Ok(Json(app.store.sessions().await?))
}

async fn begin(State(app): State<App>, extract::Json(content): extract::Json<SessionContent>) -> Reply<Response> {
    let session = sessions::begin(&app.store, content).await?;
    Ok((StatusCode::CREATED, Json(session)).into_response())
}

async fn one(State(app): State<App>, Path(id): Path<String>) -> Reply<Json<Session>> {
    sessions::find(&app.store, &id).await.map(Json)
}

async fn change(
    State(app): State<App>,
    Path(id): Path<String>,
    extract::Json(content): extract::Json<SessionContent>,
) -> Reply<Json<Session>> {
    sessions::change(&app.store, &id, content).await.map(Json)
}

async fn forget(State(app): State<App>, Path(id): Path<String>) -> Reply<StatusCode> {
    match app.store.forget_session(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(sessions::missing(&id)),
    }
}

/// Adds a row to the dataset of votes; the first one makes it.
async fn vote(State(app): State<App>, extract::Json(vote): extract::Json<ChatVote>) -> Reply<Json<DatasetInfo>> {
    for (field, text) in [("prompt", &vote.prompt), ("chosen", &vote.chosen), ("rejected", &vote.rejected)] {
        if text.trim().is_empty() {
            let problem = Problem::new("empty_vote", format!("{field} is empty."), format!("{field} 为空。"));
            let problem = problem.hint("Vote when both answers are there.", "请在两个回答都完成后再投票。");
            return Err(Failure::bad(problem.field(field)));
        }
    }
    let _turn = app.votes.lock().await;
    let datasets = match app.ask.ask(&Question::Datasets).await? {
        Answer::Datasets { datasets } => datasets,
        other => return Err(unexpected(&other)),
    };
    let question = match datasets.iter().any(|dataset| dataset.name == ChatVote::DATASET) {
        true => Question::Edit {
            dataset: ChatVote::DATASET.into(),
            edit: Edit::Add { rows: vec![row(&vote)] },
            config: RunConfig::default(),
        },
        false => {
            let file = format!("{}.json", ChatVote::DATASET);
            let (path, rows) = (app.home.datasets().join(&file), json!([row(&vote)]).to_string());
            let written = tokio::task::spawn_blocking(move || replace_file(&path, rows.as_bytes())).await;
            written.map_err(Failure::internal)?.map_err(|e| Failure::io(["Keeping the vote", "保存投票"], &e))?;
            Question::Register { name: ChatVote::DATASET.into(), file }
        }
    };
    let dataset = match app.ask.ask_patiently(&question).await? {
        Answer::Edited { edited } => edited.dataset,
        Answer::Registered { dataset } => dataset,
        other => return Err(unexpected(&other)),
    };
    changed(&app).await?;
    Ok(Json(dataset))
}

/// As `dpo` and `rm` read it; who wrote the answers stands beside it.
fn row(vote: &ChatVote) -> Value {
    json!({
        "system": vote.system, "instruction": vote.prompt, "input": "", "chosen": vote.chosen, "rejected": vote.rejected,
        "chosen_by": vote.chosen_by, "rejected_by": vote.rejected_by,
    })
}
