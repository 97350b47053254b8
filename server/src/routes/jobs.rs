//! Jobs: list, make, stop, resume, delete, and what is known of one.

use crate::{
    error::{Failure, Reply},
    extract::Json,
    router::{Content, Route},
    state::State as App,
    store::Wanted,
    supervisor,
};
use api::{
    Job, JobState, Problem,
    job::{Checkpoint, JobKind, Metric, NewChain, NewJob, Resume},
    queue::{Place, Queue, SetQueue},
    rollout::Rollout,
    routes::{
        CHAINS, JOB, JOB_CHECKPOINTS, JOB_LOG, JOB_METRICS, JOB_PLACE, JOB_RESUME, JOB_ROLLOUTS, JOB_STOP, JOBS, QUEUE,
    },
};
use axum::{
    extract::{Path, Query, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// Jobs of one page of the list, and words of one search.
const MOST_JOBS: u32 = 1000;
const MOST_WORDS: usize = 16;
/// Points of a curve that are given at most.
const MOST_POINTS: u32 = 2000;
/// The largest configuration in bytes.
const LARGEST_CONFIG: usize = 1 << 20;
/// Of a log, at most so much from its end.
const LOG_BYTES: u64 = 1 << 20;
/// Of a file of rollouts, which trainers keep far smaller, at most so much.
const LARGEST_ROLLOUTS: u64 = 64 << 20;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, JOBS, "Jobs, newest first", get(list))
            .query("limit", "At most so many, 500 if not given, never more than 1000")
            .query_of("before", "string", "Only those older than this one: its created_at, a comma, its id")
            .query_of("kind", "string", "Only train, export, pull or make")
            .query_of("state", "string", "Only those in this state, for example interrupted")
            .query_of("search", "string", "Only those whose id or configuration contains all these words")
            .gives(StatusCode::OK, Content::json::<Vec<Job>>()),
        Route::new(Method::POST, JOBS, "Put a job in the queue", post(create))
            .takes(Content::json::<NewJob>())
            .gives(StatusCode::CREATED, Content::json::<Job>()),
        Route::new(Method::POST, CHAINS, "Put jobs in the queue that follow each other", post(create_chain))
            .takes(Content::json::<NewChain>())
            .gives(StatusCode::CREATED, Content::json::<Vec<Job>>()),
        Route::new(Method::GET, JOB, "One job", get(one)).gives(StatusCode::OK, Content::json::<Job>()),
        Route::new(Method::DELETE, JOB, "Delete an ended job and its folder", delete(remove)).gives_nothing(),
        Route::new(Method::POST, JOB_PLACE, "Give a waiting job another priority or place", post(place))
            .takes(Content::json::<Place>())
            .gives(StatusCode::OK, Content::json::<Job>()),
        Route::new(Method::GET, QUEUE, "The order of the waiting jobs, and what each waits for", get(queue))
            .gives(StatusCode::OK, Content::json::<Queue>()),
        Route::new(Method::POST, QUEUE, "Pause the queue or let it go on", post(set_queue))
            .takes(Content::json::<SetQueue>())
            .gives(StatusCode::OK, Content::json::<Queue>()),
        Route::new(Method::POST, JOB_STOP, "Save and stop", post(stop)).gives(StatusCode::OK, Content::json::<Job>()),
        Route::new(
            Method::POST,
            JOB_RESUME,
            "Go on from a checkpoint, the newest whole one if none is named",
            post(resume),
        )
        .takes(Content::json::<Resume>())
        .gives(StatusCode::OK, Content::json::<Job>()),
        Route::new(Method::GET, JOB_METRICS, "Points of the curves, thinned to 2000", get(metrics))
            .query("after", "Only steps after this one")
            .gives(StatusCode::OK, Content::json::<Vec<Metric>>()),
        Route::new(Method::GET, JOB_LOG, "The end of the worker's log", get(log))
            .query("lines", "At most so many lines, 200 if not given")
            .gives(StatusCode::OK, Content::of::<String>("text/plain; charset=utf-8")),
        Route::new(
            Method::GET,
            JOB_CHECKPOINTS,
            "Checkpoints that stand, by step; `final` is the result",
            get(checkpoints),
        )
        .gives(StatusCode::OK, Content::json::<Vec<Checkpoint>>()),
        Route::new(Method::GET, JOB_ROLLOUTS, "What a step sampled and what it got for it", get(rollouts))
            .query("step", "Of this step; the newest if not given")
            .gives(StatusCode::OK, Content::json::<Vec<Rollout>>()),
    ]
}

#[derive(Deserialize)]
struct ListQuery {
    limit: Option<u32>,
    before: Option<String>,
    kind: Option<JobKind>,
    state: Option<JobState>,
    #[serde(default)]
    search: String,
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Reply<Response> {
    let limit = query.limit.unwrap_or(500).min(MOST_JOBS);
    let before = query.before.as_deref().map(cursor).transpose()?;
    let words = query.search.split_whitespace().take(MOST_WORDS).map(ToOwned::to_owned).collect();
    let wanted = Wanted { limit, before, kind: query.kind, state: query.state, words };
    let mut jobs = app.store.jobs(&wanted).await?;
    app.supervisor.tell_reasons(&mut jobs).await?;
    Ok(axum::Json(jobs).into_response())
}

/// Where a page of the list ended: `CREATED_AT,ID` of its last job.
fn cursor(text: &str) -> Reply<(f64, String)> {
    let parsed = text.split_once(',').and_then(|(time, id)| Some((time.parse::<f64>().ok()?, id.to_owned())));
    parsed.filter(|(time, _)| time.is_finite()).ok_or_else(|| {
        let shown: String = text.chars().take(100).collect();
        let problem = Problem::new(
            "bad_cursor",
            format!("before is {shown:?}, which is no place in the list."),
            format!("before 为 {shown:?}，不是列表中的位置。"),
        );
        let hint = [
            "Give created_at and id of the last job, with a comma between.",
            "请给出最后一个任务的 created_at 和 id，以逗号分隔。",
        ];
        Failure::bad(problem.hint(hint[0], hint[1]).field("before"))
    })
}

async fn create(State(app): State<App>, Json(new): Json<NewJob>) -> Reply<Response> {
    acceptable(&new)?;
    let job = app.supervisor.create(new).await?;
    Ok((StatusCode::CREATED, axum::Json(job)).into_response())
}

async fn create_chain(State(app): State<App>, Json(chain): Json<NewChain>) -> Reply<Response> {
    chain.jobs.iter().try_for_each(acceptable)?;
    let jobs = app.supervisor.create_chain(chain).await?;
    Ok((StatusCode::CREATED, axum::Json(jobs)).into_response())
}

fn acceptable(new: &NewJob) -> Reply<()> {
    if new.name.chars().count() > 200 {
        let problem = Problem::new("name_too_long", "The name is longer than 200 characters.", "名称超过 200 个字符。");
        return Err(Failure::bad(problem.hint("Choose a shorter one.", "请缩短名称。").field("name")));
    }
    let size = serde_json::to_vec(&new.config).map_or(0, |text| text.len());
    if size > LARGEST_CONFIG {
        let problem = Problem::new(
            "too_large",
            format!("The configuration has {size} bytes, at most {LARGEST_CONFIG} are taken."),
            format!("配置有 {size} 字节，最多允许 {LARGEST_CONFIG} 字节。"),
        );
        let problem = problem.hint("Put long texts into a dataset.", "请将长文本放入数据集。");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
    }
    if new.kind == JobKind::Pull && ["model_name_or_path", "id"].iter().all(|key| new.config.text(key).is_none()) {
        let problem = Problem::new("model_missing", "No model is named.", "未指定模型。");
        let problem = problem.hint("Give its hub id.", "请填写模型 ID。").field("model_name_or_path");
        return Err(Failure::bad(problem));
    }
    Ok(())
}

async fn one(State(app): State<App>, Path(id): Path<String>) -> Reply<axum::Json<Job>> {
    let record = app.store.job(&id).await?.ok_or_else(|| missing(&id))?;
    let mut job = [record.job];
    app.supervisor.tell_reasons(&mut job).await?;
    let [job] = job;
    Ok(axum::Json(job))
}

async fn place(State(app): State<App>, Path(id): Path<String>, Json(place): Json<Place>) -> Reply<axum::Json<Job>> {
    app.supervisor.place(&id, &place).await.map(axum::Json)
}

async fn queue(State(app): State<App>) -> Reply<axum::Json<Queue>> {
    Ok(axum::Json(app.supervisor.queue().await?))
}

async fn set_queue(State(app): State<App>, Json(wanted): Json<SetQueue>) -> Reply<axum::Json<Queue>> {
    app.supervisor.pause(wanted.paused).await.map(axum::Json)
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Reply<StatusCode> {
    app.supervisor.delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(State(app): State<App>, Path(id): Path<String>) -> Reply<axum::Json<Job>> {
    app.supervisor.stop(&id).await.map(axum::Json)
}

async fn resume(State(app): State<App>, Path(id): Path<String>, Json(wish): Json<Resume>) -> Reply<axum::Json<Job>> {
    app.supervisor.resume(&id, &wish).await.map(axum::Json)
}

#[derive(Deserialize)]
struct MetricsQuery {
    after: Option<u64>,
}

async fn metrics(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<MetricsQuery>,
) -> Reply<axum::Json<Vec<Metric>>> {
    known(&app, &id).await?;
    let after = query.after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
    Ok(axum::Json(app.store.metrics(&id, after, MOST_POINTS).await?))
}

#[derive(Deserialize)]
struct LogQuery {
    lines: Option<usize>,
}

async fn log(State(app): State<App>, Path(id): Path<String>, Query(query): Query<LogQuery>) -> Reply<Response> {
    known(&app, &id).await?;
    let lines = query.lines.unwrap_or(200).min(10_000);
    let text = tokio::task::spawn_blocking(move || tail(app.home.run_file(&id, "worker.log")?, lines))
        .await
        .map_err(Failure::internal)?;
    let text = text.map_err(|e| Failure::io(["Reading the log", "读取日志"], &e))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

async fn checkpoints(State(app): State<App>, Path(id): Path<String>) -> Reply<axum::Json<Vec<Checkpoint>>> {
    known(&app, &id).await?;
    Ok(axum::Json(supervisor::checkpoints(&app.store, &app.home, &id).await?))
}

#[derive(Deserialize)]
struct RolloutsQuery {
    step: Option<u64>,
}

async fn rollouts(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<RolloutsQuery>,
) -> Reply<axum::Json<Vec<Rollout>>> {
    known(&app, &id).await?;
    let read = move || of_step(app.home.run_file(&id, "rollouts.jsonl")?, query.step);
    let found = tokio::task::spawn_blocking(read).await.map_err(Failure::internal)?;
    let found = found.map_err(|e| Failure::io(["Reading the rollouts", "读取采样记录"], &e))?;
    Ok(axum::Json(found))
}

/// The lines of a step in a file of rollouts, of the newest if none is given; none of a file that isn't there, and nothing of
/// a line that is still being written.
fn of_step(file: Option<File>, step: Option<u64>) -> io::Result<Vec<Rollout>> {
    #[derive(Deserialize)]
    struct Stepped {
        step: u64,
    }
    let mut text = String::new();
    let Some(file) = file else { return Ok(Vec::new()) };
    file.take(LARGEST_ROLLOUTS).read_to_string(&mut text)?;
    let stepped = |line: &'_ str| serde_json::from_str::<Stepped>(line).ok().map(|found| found.step);
    let Some(wanted) = step.or_else(|| text.lines().rev().find_map(stepped)) else { return Ok(Vec::new()) };
    let lines = text.lines().filter(|line| stepped(line) == Some(wanted));
    Ok(lines.filter_map(|line| serde_json::from_str(line).ok()).collect())
}

async fn known(app: &App, id: &str) -> Reply<()> {
    app.store.job(id).await?.map(|_| ()).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Failure {
    Failure::missing(["job", "任务"], id)
}

/// The last lines of a file; a log that isn't there yet is empty.
fn tail(file: Option<File>, lines: usize) -> io::Result<String> {
    let Some(mut file) = file else { return Ok(String::new()) };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let skip = text.lines().count().saturating_sub(lines);
    Ok(text.lines().skip(skip).flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.log");
        assert_eq!(tail(None, 5).unwrap(), "");
        std::fs::write(&path, b"a\nb\n\xff\nd").unwrap();
        let open = || File::open(&path).ok();
        assert_eq!(tail(open(), 2).unwrap(), "\u{fffd}\nd\n");
        assert_eq!(tail(open(), 50).unwrap(), "a\nb\n\u{fffd}\nd\n");
    }
}
