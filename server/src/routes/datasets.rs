//! Datasets: what there is, rows and their tokens to look at, changes, upload, download, deletion.

use super::upload;
use crate::{
    ask::unexpected,
    error::{Failure, Reply},
    extract,
    router::{Content, FILE, Route},
    state::State as App,
};
use api::{
    Job, JobKind, Problem, RunConfig,
    data::{
        Columns, DatasetInfo, EditDataset, Edited, FileType, Preview, RowsWanted, Statistics, TokenPreview,
        TokensWanted,
    },
    hub::PullDataset,
    job::{Feed, NewJob},
    question::{Answer, Question},
    routes::{
        DATASET, DATASET_COLUMNS, DATASET_EDIT, DATASET_FILE, DATASET_ROWS, DATASET_STATISTICS, DATASET_TOKENS,
        DATASETS, DATASETS_PULL,
    },
};
use axum::{
    Json,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, FromRequest, Multipart, Path, Query, Request, State},
    http::{Method, StatusCode, header},
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
            .unhurried()
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
        .query("limit", "At most so many, 20 if not given, 200 at most; a row asked for alone comes whole")
        .query_of("search", "string", "Only rows with this text in a value, whatever its case")
        .query_of("faulty", "boolean", "Only rows with a problem")
        .gives(StatusCode::OK, Content::json::<Preview>()),
        Route::new(Method::GET, DATASET_COLUMNS, "Its columns, and how they are read", get(columns))
            .gives(StatusCode::OK, Content::json::<Columns>()),
        Route::new(Method::POST, DATASET_TOKENS, "A row as the tokens of a run", post(tokens))
            .takes(Content::json::<TokensWanted>())
            .gives(StatusCode::OK, Content::json::<TokenPreview>()),
        Route::new(Method::POST, DATASET_STATISTICS, "What it holds, counted for a run", post(statistics))
            .takes(Content::json::<RunConfig>())
            .gives(StatusCode::OK, Content::json::<Statistics>()),
        Route::new(Method::POST, DATASET_EDIT, "Change its rows, or how they are read", post(edit))
            .takes(Content::json::<EditDataset>())
            .unhurried()
            .gives(StatusCode::OK, Content::json::<Edited>()),
        Route::new(Method::GET, DATASET_FILE, "The dataset as a file", get(file))
            .query_of("type", "string", "json, jsonl, csv, parquet or arrow; json if not given")
            .query_of("formatting", "string", "alpaca, sharegpt or openai; its rows as they stand if not given")
            .gives(StatusCode::OK, Content::of::<Vec<u8>>(FILE)),
    ]
}

async fn list(State(app): State<App>) -> Reply<Json<Vec<DatasetInfo>>> {
    match app.ask.ask(&Question::Datasets).await? {
        Answer::Datasets { datasets } => Ok(Json(datasets)),
        other => Err(unexpected(&other)),
    }
}

async fn create(State(app): State<App>, request: Request) -> Reply<Response> {
    // The form around the file takes a little.
    let least = request.body().size_hint().lower().saturating_sub(64 << 10);
    upload::check_length(&app.home, least, app.upload_limit)?;
    let form = Multipart::from_request(request, &()).await.map_err(|_| upload::not_a_form())?;
    let upload = upload::receive(&app.home, form, app.upload_limit).await?;
    let dataset = register(&app, &upload).await?;
    upload.keep();
    Ok((StatusCode::CREATED, Json(dataset)).into_response())
}

/// Makes a dataset of an uploaded file.
pub(super) async fn register(app: &App, upload: &upload::Uploaded) -> Reply<DatasetInfo> {
    let question = Question::Register { name: upload.name.clone(), file: upload.file_name() };
    match app.ask.ask_patiently(&question).await? {
        Answer::Registered { dataset } => {
            changed(app).await?;
            Ok(dataset)
        }
        other => Err(unexpected(&other)),
    }
}

async fn pull(State(app): State<App>, extract::Json(wanted): extract::Json<PullDataset>) -> Reply<Response> {
    let id = wanted.id.trim().to_owned();
    if id.is_empty() || id.chars().count() > 300 {
        let problem = Problem::new("dataset_missing", "No dataset is named.", "未指定数据集。");
        let problem = problem.hint("Give its hub id, owner/name.", "请填写数据集编号：所有者/名称。");
        return Err(Failure::bad(problem.field("id")));
    }
    let given = serde_json::to_value(PullDataset { id, ..wanted }).map_err(Failure::internal)?;
    let mut config = RunConfig(given.as_object().cloned().unwrap_or_default());
    config.0.retain(|_, value| !value.is_null());
    let job = app.supervisor.create(NewJob::new(JobKind::Pull, "", config)).await?;
    Ok((StatusCode::CREATED, Json(job)).into_response())
}

/// Tells the pages that the list is another.
pub(super) async fn changed(app: &App) -> Reply<()> {
    Ok(app.store.tell(&Feed::Changed { what: "datasets".into() }).await?)
}

async fn remove(State(app): State<App>, Path(name): Path<String>) -> Reply<StatusCode> {
    let dataset = known_shape(name)?;
    match app.ask.ask(&Question::Forget { dataset }).await? {
        Answer::Forgotten => {
            changed(&app).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        other => Err(unexpected(&other)),
    }
}

#[derive(Deserialize)]
struct RowsQuery {
    offset: Option<u64>,
    limit: Option<u64>,
    search: Option<String>,
    faulty: Option<bool>,
}

async fn rows(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<RowsQuery>,
) -> Reply<Json<Preview>> {
    let wanted = RowsWanted {
        offset: query.offset.unwrap_or(0),
        limit: query.limit.unwrap_or(20).min(200),
        search: query.search.unwrap_or_default(),
        faulty: query.faulty.unwrap_or_default(),
    };
    match app.ask.ask(&Question::Rows { dataset: known_shape(name)?, wanted }).await? {
        Answer::Rows { preview } => Ok(Json(preview)),
        other => Err(unexpected(&other)),
    }
}

async fn columns(State(app): State<App>, Path(name): Path<String>) -> Reply<Json<Columns>> {
    match app.ask.ask(&Question::Columns { dataset: known_shape(name)? }).await? {
        Answer::Columns { columns } => Ok(Json(columns)),
        other => Err(unexpected(&other)),
    }
}

async fn tokens(
    State(app): State<App>,
    Path(name): Path<String>,
    extract::Json(wanted): extract::Json<TokensWanted>,
) -> Reply<Json<TokenPreview>> {
    let TokensWanted { row, config } = wanted;
    match app.ask.ask(&Question::Tokens { dataset: known_shape(name)?, row, config }).await? {
        Answer::Tokens { preview } => Ok(Json(preview)),
        other => Err(unexpected(&other)),
    }
}

async fn statistics(
    State(app): State<App>,
    Path(name): Path<String>,
    extract::Json(config): extract::Json<RunConfig>,
) -> Reply<Json<Statistics>> {
    match app.ask.ask(&Question::Statistics { dataset: known_shape(name)?, config }).await? {
        Answer::Statistics { statistics } => Ok(Json(statistics)),
        other => Err(unexpected(&other)),
    }
}

async fn edit(
    State(app): State<App>,
    Path(name): Path<String>,
    extract::Json(wanted): extract::Json<EditDataset>,
) -> Reply<Json<Edited>> {
    let EditDataset { edit, config } = wanted;
    match app.ask.ask_patiently(&Question::Edit { dataset: known_shape(name)?, edit, config }).await? {
        Answer::Edited { edited } => {
            changed(&app).await?;
            Ok(Json(edited))
        }
        other => Err(unexpected(&other)),
    }
}

#[derive(Deserialize)]
struct FileQuery {
    #[serde(rename = "type", default)]
    file_type: FileType,
    formatting: Option<String>,
}

async fn file(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<FileQuery>,
) -> Reply<impl IntoResponse> {
    let FileQuery { file_type, formatting } = query;
    let dataset = known_shape(name)?;
    let disposition = attachment(&dataset, file_type);
    let formatting = formatting.filter(|formatting| !formatting.is_empty());
    let exported = app.ask.export(&Question::Export { dataset, file_type, formatting }).await?;
    let headers = [(header::CONTENT_TYPE, FILE.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(exported.into_stream())))
}

/// The header that makes a browser save a dataset under its name (RFC 6266), whatever its letters.
fn attachment(dataset: &str, file_type: FileType) -> String {
    let ending = match file_type {
        FileType::Json => "json",
        FileType::Jsonl => "jsonl",
        FileType::Csv => "csv",
        FileType::Parquet => "parquet",
        FileType::Arrow => "arrow",
    };
    let plain: String =
        dataset.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let whole = api::routes::fill("{name}", dataset);
    format!("attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{whole}.{ending}")
}

/// A name that could stand in `dataset_info.json`; it is never a path here.
pub(super) fn known_shape(name: String) -> Reply<String> {
    let is_fine = !name.is_empty() && name.chars().count() <= 200 && !name.chars().any(char::is_control);
    if is_fine { Ok(name) } else { Err(Failure::missing(["dataset", "数据集"], &name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_has_the_name_of_its_dataset() {
        assert_eq!(attachment("a", FileType::Csv), "attachment; filename=\"a.csv\"; filename*=UTF-8''a.csv");
        let named = attachment("数据\"; x=../y", FileType::Json);
        assert!(
            named.starts_with(
                "attachment; filename=\"_____x_.._y.json\"; filename*=UTF-8''%E6%95%B0%E6%8D%AE%22%3B%20x%3D..%2Fy.json"
            ),
            "{named}"
        );
    }
}
