//! Models on this computer, and downloads of more.

use crate::{
    ask::unexpected,
    error::{Failure, Reply},
    extract::Json,
    router::{Content, Route},
    state::State as App,
};
use api::{
    Job, JobKind, Problem, RunConfig,
    job::NewJob,
    model::{ModelInfo, PullModel},
    question::{Answer, Question},
    routes::{MODELS, MODELS_PULL},
};
use axum::{
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, MODELS, "Models on this computer", get(list))
            .gives(StatusCode::OK, Content::json::<Vec<ModelInfo>>()),
        Route::new(Method::POST, MODELS_PULL, "Download a model, as a job", post(pull))
            .takes(Content::json::<PullModel>())
            .gives(StatusCode::CREATED, Content::json::<Job>()),
    ]
}

async fn list(State(app): State<App>) -> Reply<axum::Json<Vec<ModelInfo>>> {
    match app.ask.ask(&Question::Models).await? {
        Answer::Models { models } => Ok(axum::Json(models)),
        other => Err(unexpected(&other)),
    }
}

async fn pull(State(app): State<App>, Json(wanted): Json<PullModel>) -> Reply<Response> {
    let id = wanted.id.trim();
    if id.is_empty() || id.chars().count() > 300 {
        let problem = Problem::new("model_missing", "No model is named.", "未指定模型。");
        let problem = problem.hint(
            "Give a hub id, for example HuggingFaceTB/SmolLM2-135M-Instruct.",
            "请填写模型 ID，例如 HuggingFaceTB/SmolLM2-135M-Instruct。",
        );
        return Err(Failure::bad(problem.field("id")));
    }
    let mut config = RunConfig::default();
    config.set("model_name_or_path", id);
    if !wanted.revision.is_empty() {
        config.set("revision", wanted.revision);
    }
    let job = app.supervisor.create(NewJob::new(JobKind::Pull, "", config)).await?;
    Ok((StatusCode::CREATED, axum::Json(job)).into_response())
}
