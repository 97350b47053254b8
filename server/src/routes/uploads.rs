//! Resumable uploads by the tus protocol 1.0. What came is kept in `uploads/ID.upload`, whose length is the offset; what was
//! told of it in `uploads/ID.json`. Both outlive the connection and the server, for a day.

use super::{datasets, upload};
use crate::{
    error::{Failure, Reply},
    home::{Home, replace_file},
    random,
    router::{Content, Route},
    state::State as App,
};
use api::{
    Problem,
    data::DatasetInfo,
    routes::{UPLOAD, UPLOADS, fill},
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, head, options, patch, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cap_std::fs::{Dir, OpenOptions};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
};
use tokio_util::sync::CancellationToken;

const VERSION: &str = "1.0.0";
const PIECE: &str = "application/offset+octet-stream";
/// Longest wait for the next bytes. A connection that is gone holds its upload as long.
const IDLE: Duration = Duration::from_secs(20);
/// A deletion waits so long for a piece that is under way.
const FAREWELL: Duration = Duration::from_secs(5);
/// Uploads that are begun and not ended.
const MOST: usize = 64;

/// What was told of an upload when it was created.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    /// Name of the dataset that it becomes.
    name: String,
    /// Name that its file gets.
    file: String,
    /// Bytes.
    length: u64,
}

/// Uploads that a request works on now: one at a time for each.
#[derive(Clone, Default)]
pub struct Holds(Arc<Mutex<HashMap<String, CancellationToken>>>);

/// One of them; it is let go when this is dropped.
struct Hold {
    holds: Holds,
    id: String,
    stop: CancellationToken,
}

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::OPTIONS, UPLOADS, "What of the tus protocol is spoken", options(capabilities))
            .gives_nothing(),
        Route::new(Method::POST, UPLOADS, "Begin a resumable upload (tus)", tus(post(create))).creates(),
        Route::new(Method::HEAD, UPLOAD, "How far an upload is", tus(head(offset))),
        Route::new(Method::PATCH, UPLOAD, "Go on with an upload; the last piece gives the dataset", tus(patch(go_on)))
            .takes(Content::of::<Vec<u8>>(PIECE))
            .unhurried()
            .gives(StatusCode::OK, Content::json::<DatasetInfo>()),
        Route::new(Method::DELETE, UPLOAD, "Give up an upload", tus(delete(give_up))).gives_nothing(),
    ]
}

/// A route of the protocol: only for clients of its version, and every answer names it.
fn tus(handler: MethodRouter<App>) -> MethodRouter<App> {
    async fn speak(request: Request, next: Next) -> Response {
        let is_spoken = request.headers().get("tus-resumable").is_some_and(|version| version == VERSION);
        let mut response = if is_spoken { next.run(request).await } else { other_version().into_response() };
        let headers = response.headers_mut();
        headers.insert("tus-resumable", HeaderValue::from_static(VERSION));
        if !is_spoken {
            headers.insert("tus-version", HeaderValue::from_static(VERSION));
        }
        response
    }
    handler.route_layer(from_fn(speak))
}

async fn capabilities(State(app): State<App>) -> impl IntoResponse {
    let most = app.upload_limit.to_string();
    let headers = [
        ("tus-resumable", VERSION),
        ("tus-version", VERSION),
        ("tus-extension", "creation,termination"),
        ("tus-max-size", &most),
    ];
    (StatusCode::NO_CONTENT, headers.map(|(name, value)| (name, value.to_owned()))).into_response()
}

async fn create(State(app): State<App>, headers: HeaderMap) -> Reply<Response> {
    let length = number(&headers, "upload-length")?;
    if length == 0 {
        return Err(upload::empty_file());
    }
    upload::check_length(&app.home, length, app.upload_limit)?;
    let given = metadata(&headers)?;
    let text = |key: &str| given.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
    let (name, file) = upload::names(text("name"), text("filename").unwrap_or_default())?;
    if is_taken(&app.home, &name) {
        return Err(taken(&name));
    }
    let failed = |e: io::Error| Failure::io(["Storing the upload", "保存上传的文件"], &e);
    let folder = app.home.uploads_dir().map_err(failed)?;
    let begun = folder.entries().map_err(failed)?.flatten();
    if begun.filter(|entry| entry.file_name().to_string_lossy().ends_with(".upload")).count() >= MOST {
        return Err(too_many());
    }
    // 128 random bits: nobody guesses another's upload.
    let id = random::hex(16).map_err(failed)?;
    let told = serde_json::to_vec(&Told { name, file, length }).map_err(Failure::internal)?;
    let [data, record] = files(&id)?;
    let made = folder.open_with(&data, OpenOptions::new().create_new(true).write(true));
    made.and_then(|_| replace_file(&app.home.uploads().join(record), &told)).map_err(failed)?;
    let headers = [(header::LOCATION.as_str(), fill(UPLOAD, &id)), ("upload-offset", "0".into())];
    Ok((StatusCode::CREATED, headers).into_response())
}

async fn offset(State(app): State<App>, Path(id): Path<String>) -> Reply<impl IntoResponse> {
    let (told, offset) = find(&app.home, &id)?;
    Ok([("upload-offset", offset.to_string()), ("upload-length", told.length.to_string())])
}

async fn go_on(State(app): State<App>, Path(id): Path<String>, request: Request) -> Reply<Response> {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if media != Some(PIECE) {
        return Err(not_a_piece());
    }
    let given = number(request.headers(), "upload-offset")?;
    find(&app.home, &id)?;
    let hold = app.uploads.hold(&id).ok_or_else(busy)?;
    // Again, now that nobody else writes.
    let (told, offset) = find(&app.home, &id)?;
    if given != offset {
        return Err(other_offset(given, offset));
    }
    // On its own: what came before a connection broke is flushed, and a dataset that is whole is registered.
    let work = tokio::spawn(async move {
        let (hold, body) = (hold, request.into_body());
        let offset = receive(&app, &hold, body, offset, told.length).await?;
        if offset < told.length {
            return Ok((StatusCode::NO_CONTENT, [("upload-offset", offset.to_string())]).into_response());
        }
        let dataset = finish(&app, &hold.id, &told).await?;
        Ok(([("upload-offset", offset.to_string())], Json(dataset)).into_response())
    });
    work.await.map_err(Failure::internal)?
}

async fn give_up(State(app): State<App>, Path(id): Path<String>) -> Reply<StatusCode> {
    find(&app.home, &id)?;
    let _hold = tokio::time::timeout(FAREWELL, app.uploads.take_over(&id)).await.map_err(|_| busy())?;
    remove(&app.home, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes the body behind what is there; gives the new offset. What came before the body ended, in whatever way, is kept.
async fn receive(app: &App, hold: &Hold, body: Body, start: u64, length: u64) -> Reply<u64> {
    let failed = |e: io::Error| Failure::io(["Storing the upload", "保存上传的文件"], &e);
    let [data, _] = files(&hold.id)?;
    let out = app.home.uploads_dir().and_then(|folder| folder.open_with(data, OpenOptions::new().write(true)));
    let mut out = File::from_std(out.map_err(failed)?.into_std());
    out.seek(io::SeekFrom::Start(start)).await.map_err(failed)?;
    let mut room = upload::Room::of(&app.home);
    let (mut pieces, mut offset) = (body.into_data_stream(), start);
    let result = loop {
        let piece = tokio::select! {
            piece = tokio::time::timeout(IDLE, pieces.next()) => piece,
            () = hold.stop.cancelled() => break Err(cut_off()),
        };
        let piece = match piece {
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => break Ok(()),
            Ok(Some(Err(_))) | Err(_) => break Err(cut_off()),
        };
        if piece.len() as u64 > length - offset {
            break Err(too_long(length));
        }
        if let Err(failure) = room.check(offset) {
            break Err(failure);
        }
        if let Err(error) = out.write_all(&piece).await {
            break Err(failed(error));
        }
        offset += piece.len() as u64;
    };
    out.flush().await.map_err(failed)?;
    out.sync_data().await.map_err(failed)?;
    result.map(|()| offset)
}

/// Makes a dataset of a whole upload. One that can't be read is deleted; where something else went wrong, the upload stays,
/// and another request at its end tries again.
async fn finish(app: &App, id: &str, told: &Told) -> Reply<DatasetInfo> {
    let [data, _] = files(id)?;
    let moved = upload::Uploaded::take(&app.home, &data, told.name.clone(), &told.file)?;
    match datasets::register(app, &moved).await {
        Ok(dataset) => {
            moved.keep();
            remove(&app.home, id)?;
            Ok(dataset)
        }
        Err(failure) if failure.status == StatusCode::UNPROCESSABLE_ENTITY => {
            remove(&app.home, id)?;
            Err(failure)
        }
        Err(failure) => {
            moved.give_back(&app.home, &data)?;
            Err(failure)
        }
    }
}

impl Holds {
    /// Takes an upload, if no other request has it.
    fn hold(&self, id: &str) -> Option<Hold> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(id) {
            return None;
        }
        let stop = CancellationToken::new();
        held.insert(id.to_owned(), stop.clone());
        Some(Hold { holds: self.clone(), id: id.to_owned(), stop })
    }

    /// Takes an upload, stopping the request that has it.
    async fn take_over(&self, id: &str) -> Hold {
        loop {
            if let Some(hold) = self.hold(id) {
                return hold;
            }
            if let Some(stop) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
                stop.cancel();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// The names of the data and the record of an upload.
fn files(id: &str) -> Reply<[String; 2]> {
    let is_id = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_id { Ok(["upload", "json"].map(|ending| format!("{id}.{ending}"))) } else { Err(missing(id)) }
}

fn folder(home: &Home) -> Reply<Dir> {
    home.uploads_dir().map_err(|e| Failure::io(["Opening the uploads", "打开上传文件夹"], &e))
}

/// What was told of an upload, and how much of it is there.
fn find(home: &Home, id: &str) -> Reply<(Told, u64)> {
    let ([data, record], folder) = (files(id)?, folder(home)?);
    let (Ok(meta), Ok(text)) = (folder.metadata(data), folder.read(record)) else { return Err(missing(id)) };
    let told = serde_json::from_slice(&text).map_err(Failure::internal)?;
    Ok((told, meta.len()))
}

fn remove(home: &Home, id: &str) -> Reply<()> {
    let folder = folder(home)?;
    for file in files(id)? {
        match folder.remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io(["Deleting the upload", "删除上传的文件"], &e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a dataset of that name is registered, told before its bytes are sent; the registration itself looks again.
fn is_taken(home: &Home, name: &str) -> bool {
    let text = home.datasets_dir().and_then(|folder| folder.read("dataset_info.json")).unwrap_or_default();
    let known: HashMap<String, serde::de::IgnoredAny> = serde_json::from_slice(&text).unwrap_or_default();
    known.contains_key(name)
}

fn number(headers: &HeaderMap, name: &str) -> Reply<u64> {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| text.len() <= 18);
    let digits = text.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or_else(|| bad_header(name))
}

/// `Upload-Metadata`: keys and values in Base64, a comma between pairs.
fn metadata(headers: &HeaderMap) -> Reply<HashMap<String, String>> {
    const NAME: &str = "upload-metadata";
    let Some(value) = headers.get(NAME) else { return Ok(HashMap::new()) };
    let pair = |pair: &str| {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
        Some((key.to_owned(), value))
    };
    let pairs = value.to_str().ok().map(|text| text.split(',').map(|p| pair(p.trim())).collect::<Option<_>>());
    pairs.flatten().ok_or_else(|| bad_header(NAME))
}

fn missing(id: &str) -> Failure {
    Failure::missing(["upload", "上传"], id)
}

fn taken(name: &str) -> Failure {
    let problem = Problem::new(
        "dataset_taken",
        format!("There already is a dataset {name:?}."),
        format!("已有名为“{name}”的数据集。"),
    );
    let problem =
        problem.hint("Choose another name, or delete that dataset first.", "请换一个名字，或先删除该数据集。");
    Failure::conflict(problem.field("name"))
}

fn other_version() -> Failure {
    let problem = Problem::new(
        "tus_version",
        format!("The request isn't one of tus {VERSION}."),
        format!("该请求不符合 tus {VERSION}。"),
    );
    let problem = problem.hint(
        format!("Send Tus-Resumable: {VERSION}, or upload by a form to /api/datasets."),
        format!("请发送 Tus-Resumable: {VERSION}，或以表单上传到 /api/datasets。"),
    );
    Failure::new(StatusCode::PRECONDITION_FAILED, problem)
}

fn bad_header(name: &str) -> Failure {
    let problem = Problem::new(
        "bad_header",
        format!("The header {name} is missing or not understood."),
        format!("缺少请求头 {name} 或其内容无法理解。"),
    );
    Failure::bad(problem.hint("See the tus protocol, version 1.0.", "请参阅 tus 协议 1.0 版。"))
}

fn not_a_piece() -> Failure {
    let problem = Problem::new("not_a_piece", format!("The piece isn't {PIECE}."), format!("上传的分块不是 {PIECE}。"));
    let problem = problem.hint(format!("Send Content-Type: {PIECE}."), format!("请发送 Content-Type: {PIECE}。"));
    Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem)
}

fn other_offset(given: u64, offset: u64) -> Failure {
    let problem = Problem::new(
        "other_offset",
        format!("The piece begins at byte {given}, and {offset} bytes are there."),
        format!("分块从第 {given} 字节开始，而已收到 {offset} 字节。"),
    );
    Failure::conflict(problem.hint("Ask with HEAD, then go on from there.", "请先用 HEAD 查询，再从该处继续。"))
}

fn busy() -> Failure {
    let problem = Problem::new("upload_busy", "Another request works on this upload.", "另一请求正在处理此上传。");
    Failure::new(StatusCode::LOCKED, problem.hint("Try again in a moment.", "请稍后重试。"))
}

fn too_many() -> Failure {
    let problem = Problem::new(
        "too_many_uploads",
        format!("{MOST} uploads are begun and not ended."),
        format!("已有 {MOST} 个上传未完成。"),
    );
    let problem = problem.hint("End or delete some of them.", "请完成或删除其中一些。");
    Failure::new(StatusCode::TOO_MANY_REQUESTS, problem)
}

fn cut_off() -> Failure {
    let problem =
        Problem::new("cut_off", "The piece was cut off; what came is kept.", "分块传输中断，已收到的部分会保留。");
    Failure::bad(problem.hint("Ask with HEAD, then go on from there.", "请先用 HEAD 查询，再从该处继续。"))
}

fn too_long(length: u64) -> Failure {
    let problem = Problem::new(
        "too_large",
        format!("More bytes come than the {length} that were told."),
        format!("收到的字节数超过所声明的 {length}。"),
    );
    let problem = problem.hint("Begin again with the right Upload-Length.", "请以正确的 Upload-Length 重新开始。");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, problem)
}
