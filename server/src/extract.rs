//! JSON bodies: bounded, only as `application/json`, and with the place of a mistake.

use crate::error::{Failure, Reply};
use api::Problem;
use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The largest JSON body in bytes.
pub const LARGEST_JSON: usize = 16 << 20;

/// A body of JSON.
pub struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Reply<Self> {
        let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        // A form on a foreign page can't send this type.
        if !media.split(';').next().is_some_and(|m| m.trim().eq_ignore_ascii_case("application/json")) {
            let problem = Problem::new(
                "not_json_type",
                "The request isn't application/json.",
                "请求的类型不是 application/json。",
            );
            let problem =
                problem.hint("Send Content-Type: application/json.", "请发送 Content-Type: application/json。");
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
        }
        let bytes = bounded(request.into_body(), LARGEST_JSON).await?;
        let mut text = serde_json::Deserializer::from_slice(&bytes);
        let read = serde_path_to_error::deserialize(&mut text).map_err(|e| (e.path().to_string(), e.into_inner()));
        read.and_then(|value| text.end().map(|()| Self(value)).map_err(|e| (".".into(), e))).map_err(|(path, error)| {
            let (line, column) = (error.line(), error.column());
            let problem = Problem::new(
                "bad_json",
                format!("The request can't be read: {error}."),
                format!("请求无法读取（第 {line} 行第 {column} 列）：{error}。"),
            );
            let problem = problem.hint("See /openapi.json for its shape.", "格式见 /openapi.json。");
            Failure::bad(if path == "." { problem } else { problem.field(path) })
        })
    }
}

/// The whole body, if it has at most `most` bytes, counted and not believed.
pub async fn bounded(body: Body, most: usize) -> Reply<Bytes> {
    // What says itself that it is too large isn't waited for.
    if body.size_hint().lower() > most as u64 {
        forget(body, most).await;
        return Err(too_large(most));
    }
    to_bytes(body, most).await.map_err(|error| {
        let is_length = std::error::Error::source(&error).is_some_and(|e| e.to_string().contains("length limit"));
        if is_length {
            return too_large(most);
        }
        let problem = Problem::new("cut_off", "The request was cut off.", "请求中断。");
        Failure::bad(problem.hint("Send it again.", "请重新发送。"))
    })
}

/// Takes in a little of what is refused: who is still sending would else see a broken connection in the place of the sentence.
async fn forget(body: Body, most: usize) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let (mut pieces, mut taken) = (body.into_data_stream(), 0);
    let all = async {
        while let Some(Ok(piece)) = pieces.next().await {
            taken += piece.len();
            if taken > 2 * most {
                break;
            }
        }
    };
    // Out of time or not, the answer is the same.
    let _ = tokio::time::timeout(PATIENCE, all).await;
}

fn too_large(most: usize) -> Failure {
    let mib = most >> 20;
    let problem =
        Problem::new("too_large", format!("The request is larger than {mib} MiB."), format!("请求超过 {mib} MiB。"));
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, problem.hint("Send less at once.", "请减少单次发送的内容。"))
}
