//! Pairs of answers: what sources come to, datasets made of them, and a person's votes.

use super::datasets::{changed, known_shape};
use crate::{
    ask::unexpected,
    error::Reply,
    extract,
    router::{Content, Route},
    state::State as App,
};
use api::{
    data::DatasetInfo,
    preference::{Ballot, BuildPairs, CastVote, Pairs, PairsWanted},
    question::{Answer, Question},
    routes::{PREFERENCES_DATASET, PREFERENCES_PAIRS, PREFERENCES_VOTES},
};
use axum::{
    Json,
    extract::{Path, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, PREFERENCES_PAIRS, "Pairs of several datasets, and what filters leave", post(pairs))
            .takes(Content::json::<PairsWanted>())
            .gives(StatusCode::OK, Content::json::<Pairs>()),
        Route::new(Method::POST, PREFERENCES_DATASET, "Make a dataset of pairs", post(build))
            .takes(Content::json::<BuildPairs>())
            .unhurried()
            .gives(StatusCode::CREATED, Content::json::<DatasetInfo>()),
        Route::new(Method::GET, PREFERENCES_VOTES, "What is asked next about a dataset's answers", get(ballot))
            .gives(StatusCode::OK, Content::json::<Ballot>()),
        Route::new(Method::POST, PREFERENCES_VOTES, "Vote on two answers; it is on the disk when answered", post(vote))
            .takes(Content::json::<CastVote>())
            .gives(StatusCode::OK, Content::json::<Ballot>()),
    ]
}

async fn pairs(State(app): State<App>, extract::Json(wanted): extract::Json<PairsWanted>) -> Reply<Json<Pairs>> {
    match app.ask.ask(&Question::Pairs { wanted }).await? {
        Answer::Pairs { pairs } => Ok(Json(pairs)),
        other => Err(unexpected(&other)),
    }
}

async fn build(State(app): State<App>, extract::Json(wanted): extract::Json<BuildPairs>) -> Reply<Response> {
    match app.ask.ask_patiently(&Question::BuildPairs { wanted }).await? {
        Answer::Registered { dataset } => {
            changed(&app).await?;
            Ok((StatusCode::CREATED, Json(dataset)).into_response())
        }
        other => Err(unexpected(&other)),
    }
}

async fn ballot(State(app): State<App>, Path(name): Path<String>) -> Reply<Json<Ballot>> {
    asked(&app, name, None).await
}

async fn vote(
    State(app): State<App>,
    Path(name): Path<String>,
    extract::Json(cast): extract::Json<CastVote>,
) -> Reply<Json<Ballot>> {
    asked(&app, name, Some(cast)).await
}

async fn asked(app: &App, name: String, cast: Option<CastVote>) -> Reply<Json<Ballot>> {
    match app.ask.ask(&Question::Ballot { dataset: known_shape(name)?, cast }).await? {
        Answer::Ballot { ballot } => Ok(Json(ballot)),
        other => Err(unexpected(&other)),
    }
}
