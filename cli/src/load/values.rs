//! L08: single values that are far too large.

use super::{
    Plan, Result, Row,
    client::whole,
    megabytes, ms,
    studio::{Studio, highest, memory},
};
use api::routes::{CHAT, CHAT_GENERATE, DATASETS, fill};
use http_body_util::StreamBody;
use hyper::{
    Method, StatusCode,
    body::{Bytes, Frame},
};
use serde_json::json;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub async fn huge(studio: &Studio, plan: &Plan) -> Result<Row> {
    let model = studio.client().await?.ask(Method::POST, CHAT, Some(&json!({"model_name_or_path": "starter"}))).await?;
    let chat = fill(CHAT_GENERATE, model["id"].as_str().unwrap_or_default());
    let before = memory(studio.pid(), "VmRSS");
    let (answers, peak) = highest(studio, all(studio, plan, &chat)).await;
    let answers = answers?;
    let slowest = answers.iter().map(|(_, _, time)| ms(*time)).fold(0.0, f64::max);
    let accepted = answers.iter().filter(|(_, status, _)| !status.is_client_error()).count();
    let mut row =
        Row::new("L08", "an 8 MiB prompt, 100,000 messages, a CSV row of a million columns, one endless JSON line")
            .at_most("not refused", accepted as f64, "", 0.0)
            .at_most("slowest refusal", slowest, "ms", 1000.0)
            .with("highest memory of a process", megabytes(peak), "MB")
            .with("of the studio before", megabytes(before), "MB");
    for (name, status, time) in answers {
        row = row.with(name, f64::from(status.as_u16()), "").with("in", ms(time), "ms");
    }
    Ok(row)
}

/// What was sent, how it was answered, and how long after its last byte.
type Answered = (&'static str, StatusCode, Duration);

async fn all(studio: &Studio, plan: &Plan, chat: &str) -> Result<Vec<Answered>> {
    let prompt = json!({"messages": [{"role": "user", "content": "word ".repeat((8 << 20) / 5)}]});
    let messages = json!({ "messages": vec![json!({"role": "user", "content": "Hi."}); 100_000] });
    let mut answers = Vec::new();
    for (name, body) in [("prompt", prompt), ("messages", messages)] {
        let body = body.to_string().into_bytes();
        answers.push(send(studio, name, chat, "application/json", vec![body.into()]).await?);
    }
    let wide = Bytes::from("a,".repeat(1_000_000));
    answers.push(send(studio, "columns", DATASETS, FORM, form("wide.csv", wide, 2)).await?);
    let megabytes = (plan.gigabytes * 2e9) as usize >> 20;
    let endless = Bytes::from(vec![b'x'; 1 << 20]);
    answers.push(send(studio, "line", DATASETS, FORM, form("endless.jsonl", endless, megabytes)).await?);
    Ok(answers)
}

const FORM: &str = "multipart/form-data; boundary=lathe-load";

/// The body of an upload: a file of `times` the same bytes.
fn form(file: &str, piece: Bytes, times: usize) -> Vec<Bytes> {
    let part = "--lathe-load\r\ncontent-disposition: form-data; name=";
    let head = format!("{part}\"name\"\r\n\r\nhuge\r\n{part}\"file\"; filename=\"{file}\"\r\n\r\n");
    let pieces = std::iter::repeat_n(piece, times);
    std::iter::once(head.into()).chain(pieces).chain(["\r\n--lathe-load--\r\n".into()]).collect()
}

async fn send(studio: &Studio, name: &'static str, path: &str, kind: &str, pieces: Vec<Bytes>) -> Result<Answered> {
    let (begun, taken) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let last = taken.clone();
    let pieces = pieces.into_iter().map(move |bytes| {
        last.store(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        Ok::<_, Infallible>(Frame::data(bytes))
    });
    let mut client = studio.client().await?;
    let body = StreamBody::new(futures::stream::iter(pieces));
    let (status, text) = whole(client.send(Method::POST, path, &[("content-type", kind)], body).await?).await?;
    // What only a chat's worker can find comes in the stream.
    let failed = String::from_utf8_lossy(&text).contains("\"type\":\"failed\"");
    let status = if status.is_success() && failed { StatusCode::UNPROCESSABLE_ENTITY } else { status };
    Ok((name, status, begun.elapsed().saturating_sub(Duration::from_micros(taken.load(Ordering::Relaxed)))))
}
