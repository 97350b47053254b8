//! Datasets: what there is, rows to look at, upload, deletion.

use super::upload;
use crate::{
    error::{Failure, Reply},
    extract::Json as Body,
    router::{Content, Route},
    state::State as App,
};
use api::{
    Job, JobKind, Problem, RunConfig,
    data::{DatasetInfo, Preview},
    hub::PullDataset,
    job::{Feed, NewJob},
    question::{Answer, Question},
    routes::{DATASET, DATASET_ROWS, DATASETS, DATASETS_PULL},
};
use axum::{
    Json,
    body::HttpBody,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Path, Query, Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// The form of an upload, for `/openapi.json`.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct Upload {
    /// Name of the dataset; the file's name without its ending if not given.
    name: Option<String>,
    /// The file itself.
    file: Vec<u8>,
}

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, DATASETS, "All datasets", get(list))
            .gives(StatusCode::OK, Content::json::<Vec<DatasetInfo>>()),
        Route::new(Method::POST, DATASETS, "Upload a dataset", post(create).layer(DefaultBodyLimit::disable()))
            .takes(Content::of::<Upload>("multipart/form-data"))
            .gives(StatusCode::CREATED, Content::json::<DatasetInfo>()),
        Route::new(Method::POST, DATASETS_PULL, "Download a dataset of a hub, as a job", post(pull))
            .takes(Content::json::<PullDataset>())
            .gives(StatusCode::CREATED, Content::json::<Job>()),
        Route::new(Method::DELETE, DATASET, "Delete a dataset", delete(remove)).gives_nothing(),
        Route::new(
            Method::GET,
            DATASET_ROWS,
            "Rows as they stand in the file and as the trainer reads them",
            get(rows),
        )
        .query("offset", "From this row, 0 if not given")
        .query("limit", "At most so many, 20 if not given, 200 at most")
        .gives(StatusCode::OK, Content::json::<Preview>()),
    ]
}

async fn list(State(app): State<App>) -> Reply<Json<Vec<DatasetInfo>>> {
    match app.ask.ask(&Question::Datasets).await? {
        Answer::Datasets { datasets } => Ok(Json(datasets)),
        other => Err(unexpected(&other)),
    }
}

async fn create(State(app): State<App>, request: Request) -> Reply<Response> {
    upload::check_length(&app.home, request.body().size_hint().lower(), app.upload_limit)?;
    let form = Multipart::from_request(request, &()).await.map_err(|_| upload::not_a_form())?;
    let upload = upload::receive(&app.home, form, app.upload_limit).await?;
    let question = Question::Register { name: upload.name.clone(), file: upload.file_name() };
    match app.ask.ask(&question).await? {
        Answer::Registered { dataset } => {
            upload.keep();
            app.store.tell(&Feed::Changed { what: "datasets".into() }).await?;
            Ok((StatusCode::CREATED, Json(dataset)).into_response())
        }
        other => Err(unexpected(&other)),
    }
}

async fn pull(State(app): State<App>, Body(wanted): Body<PullDataset>) -> Reply<Response> {
    let id = wanted.id.trim().to_owned();
    if id.is_empty() || id.chars().count() > 300 {
        let problem = Problem::new("dataset_missing", "No dataset is named.", "未指定数据集。");
        let problem = problem.hint("Give its hub id, owner/name.", "请填写数据集编号：所有者/名称。");
        return Err(Failure::bad(problem.field("id")));
    }
    let given = serde_json::to_value(PullDataset { id, ..wanted }).map_err(Failure::internal)?;
    let mut config = RunConfig(given.as_object().cloned().unwrap_or_default());
    config.0.retain(|_, value| !value.is_null());
    let job = app.supervisor.create(NewJob { kind: JobKind::Pull, name: String::new(), config }).await?;
    Ok((StatusCode::CREATED, Json(job)).into_response())
}

async fn remove(State(app): State<App>, Path(name): Path<String>) -> Reply<StatusCode> {
    let dataset = known_shape(name)?;
    match app.ask.ask(&Question::Forget { dataset }).await? {
        Answer::Forgotten => {
            app.store.tell(&Feed::Changed { what: "datasets".into() }).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        other => Err(unexpected(&other)),
    }
}

#[derive(Deserialize)]
struct RowsQuery {
    offset: Option<u64>,
    limit: Option<u64>,
}

async fn rows(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<RowsQuery>,
) -> Reply<Json<Preview>> {
    let dataset = known_shape(name)?;
    let question =
        Question::Rows { dataset, offset: query.offset.unwrap_or(0), limit: query.limit.unwrap_or(20).min(200) };
    match app.ask.ask(&question).await? {
        Answer::Rows { preview } => Ok(Json(preview)),
        other => Err(unexpected(&other)),
    }
}

/// A name that could stand in `dataset_info.json`; it is never a path here.
fn known_shape(name: String) -> Reply<String> {
    let is_fine = !name.is_empty() && name.chars().count() <= 200 && !name.chars().any(char::is_control);
    if is_fine { Ok(name) } else { Err(Failure::missing(["dataset", "数据集"], &name)) }
}

pub(super) fn unexpected(answer: &Answer) -> Failure {
    let text: String = format!("{answer:?}").chars().take(200).collect();
    Failure::internal(format!("the worker answered something else: {text}"))
}
