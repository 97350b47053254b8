//! L01: 32 conversations at once.

use super::{
    Counts, Result, Row,
    client::{Client, whole},
    ms, percentile,
    studio::{Studio, descendants, ticks},
};
use api::routes::{CHAT, CHAT_GENERATE, CHAT_MODEL, fill};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const STREAMS: usize = 32;
/// Many more than are answered at once.
const CROWD: usize = 300;
const TOKENS: u64 = 48;
/// Of answers that nobody waits for to the end.
const MANY: u64 = 2000;

/// What one stream was.
#[derive(Default)]
struct Stream {
    status: u16,
    /// Until the headers of the answer came.
    began: f64,
    /// Ids of the conversations that spoke in it: one, unless they were mixed up.
    ids: BTreeSet<String>,
    done: bool,
}

pub async fn streams(studio: &Studio) -> Result<Row> {
    let path = load(studio).await?;
    let mut waits = Vec::new();
    let (mut whole_ones, mut ids) = (0, BTreeSet::new());
    for stream in at_once(studio, &path, STREAMS).await? {
        waits.push(stream.began);
        if stream.done && stream.ids.len() == 1 {
            whole_ones += 1;
        }
        ids.extend(stream.ids);
    }
    let mixed_up = STREAMS.abs_diff(ids.len());
    let rests = rests_after_leaving(studio, &path).await?;
    let mut answers = Counts::new();
    for stream in at_once(studio, &path, CROWD).await? {
        *answers.entry(stream.status).or_default() += 1;
    }
    let refused = answers.remove(&429).unwrap_or(0);
    let served = answers.remove(&200).unwrap_or(0);
    Ok(Row::new("L01", format!("{STREAMS} chats at once, then {CROWD}, then pages that leave"))
        .at_least("whole", whole_ones as f64, "", STREAMS as f64)
        .at_most("mixed up", mixed_up as f64, "", 0.0)
        .at_most("p99 to headers", percentile(&mut waits, 0.99), "ms", 1000.0)
        .with("of the crowd answered", served as f64, "")
        .with("told to wait (429)", refused as f64, "")
        .at_most("other answers", answers.values().sum::<usize>() as f64, "", 0.0)
        .at_most("computes after all left", rests, "ms", 250.0))
}

async fn load(studio: &Studio) -> Result<String> {
    let mut client = studio.client().await?;
    let model = client.ask(Method::POST, CHAT, Some(&json!({"model_name_or_path": "starter"}))).await?;
    let id = model["id"].as_str().ok_or("the chat model has no id")?.to_owned();
    let begun = Instant::now();
    loop {
        let model = client.ask(Method::GET, &fill(CHAT_MODEL, &id), None).await?;
        match model["state"].as_str() {
            Some("ready") => return Ok(fill(CHAT_GENERATE, &id)),
            Some("failed") => return Err(model["problem"].to_string().into()),
            _ if begun.elapsed() > Duration::from_secs(60) => return Err("the model didn't load in a minute".into()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn question(number: usize, tokens: u64) -> Value {
    json!({
        "messages": [{"role": "user", "content": format!("Tell me about number {number}.")}],
        "params": {"max_new_tokens": tokens, "do_sample": true, "temperature": 3.0}
    })
}

async fn at_once(studio: &Studio, path: &str, count: usize) -> Result<Vec<Stream>> {
    let mut asked = JoinSet::new();
    for number in 0..count {
        let (mut client, path) = (studio.client().await?, path.to_owned());
        asked.spawn(async move {
            let begun = Instant::now();
            let answer = client.post(&path, &question(number, TOKENS)).await?;
            let mut stream =
                Stream { status: answer.status().as_u16(), began: ms(begun.elapsed()), ..Stream::default() };
            let (_, text) = whole(answer).await?;
            let lines = text.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
            for said in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
                stream.ids.extend(said["id"].as_str().map(str::to_owned));
                stream.done |= said["type"] == "done";
            }
            Ok::<_, super::Error>(stream)
        });
    }
    let mut streams = Vec::new();
    while let Some(stream) = asked.join_next().await {
        streams.push(stream??);
    }
    Ok(streams)
}

/// Milliseconds that the chat's worker still computes when every page has left in the middle of its answer.
async fn rests_after_leaving(studio: &Studio, path: &str) -> Result<f64> {
    let mut open = Vec::new();
    for number in 0..8 {
        let mut client: Client = studio.client().await?;
        let mut body = client.post(path, &question(number, MANY)).await?.into_body();
        let _ = body.frame().await;
        open.push((client, body));
    }
    drop(open);
    let computed = || descendants(studio.pid()).into_iter().map(ticks).sum::<u64>();
    let (left, mut last, mut before) = (Instant::now(), Instant::now(), computed());
    while left.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = computed();
        if now > before {
            (last, before) = (Instant::now(), now);
        }
    }
    Ok(ms(last - left))
}
