//! L02 and R18: many pages that follow one run, and one that never reads.

use super::{
    Plan, Result, Row,
    client::Client,
    megabytes, percentile, slower,
    studio::{Studio, forget_peak, memory},
};
use api::routes::EVENTS;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

/// How a point begins.
const METRIC: &[u8] = b"{\"type\":\"metric\"";
/// Spells without and with subscribers, in turns.
const TURNS: u32 = 6;

/// What subscribers heard: how long each point was on its way, in milliseconds, and how many came.
#[derive(Default)]
struct Heard {
    waits: Mutex<Vec<f64>>,
    points: AtomicU64,
}

/// How soon points are with 500 pages, and what these take.
pub async fn delivery(studio: &Studio, plan: &Plan) -> Result<Row> {
    let training = studio.train().await?;
    let before = memory(studio.pid(), "VmRSS");
    forget_peak(studio.pid());
    let heard = Arc::new(Heard::default());
    let pages = subscribe(studio.address, plan.subscribers, &heard).await?;
    let (from, all) = (training.step(), plan.seconds);
    tokio::time::sleep(all).await;
    let steps = training.step() - from;
    let mut waits = std::mem::take(&mut *heard.waits.lock().unwrap_or_else(PoisonError::into_inner));
    let points = heard.points.load(Ordering::Relaxed) as f64 / plan.subscribers as f64;
    let more = memory(studio.pid(), "VmHWM").saturating_sub(before);
    drop(pages);
    Ok(Row::new(
        "L02",
        format!("{} pages follow a run of {:.0} points a second", plan.subscribers, steps as f64 / all.as_secs_f64()),
    )
    .at_most("p99 to a page", percentile(&mut waits, 0.99), "ms", 500.0)
    .at_least("points that came", points / steps.max(1) as f64 * 100.0, "%", 95.0)
    .at_most("memory more", megabytes(more), "MB", 64.0))
}

/// How much slower a run is while 500 pages follow it, one of which never reads.
pub async fn slowdown(studio: &Studio, plan: &Plan) -> Result<Row> {
    let training = studio.train().await?;
    let mut paces = Vec::new();
    for _ in 0..TURNS {
        let alone = training.pace(plan.seconds / TURNS).await;
        let mut deaf = TcpStream::connect(studio.address).await?;
        let request = format!("GET {EVENTS} HTTP/1.1\r\nhost: {}\r\n\r\n", studio.address);
        deaf.write_all(request.as_bytes()).await?;
        let pages = subscribe(studio.address, plan.subscribers, &Arc::default()).await?;
        paces.push((alone, training.pace(plan.seconds / TURNS).await));
        drop((pages, deaf));
    }
    let fastest = paces.iter().map(|(alone, _)| *alone).fold(0.0, f64::max);
    Ok(Row::new("R18", format!("{} pages follow a run, and one more never reads", plan.subscribers))
        .with("steps alone", fastest, "/s")
        .at_most("training slower by", slower(&paces), "%", 2.0))
}

/// Pages that read all they are told, until what is given is dropped.
async fn subscribe(address: SocketAddr, count: usize, heard: &Arc<Heard>) -> Result<JoinSet<()>> {
    let mut pages = JoinSet::new();
    for _ in 0..count {
        let mut client = Client::connect(address).await?;
        let answer = client.send(Method::GET, EVENTS, &[], Full::default()).await?;
        if !answer.status().is_success() {
            return Err(format!("{EVENTS}: {}", answer.status()).into());
        }
        let heard = heard.clone();
        pages.spawn(async move {
            let (mut body, mut rest, _client) = (answer.into_body(), Vec::new(), client);
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(bytes) = frame.into_data() else { continue };
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
                rest.extend_from_slice(&bytes);
                let end = rest.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
                let lines: Vec<u8> = rest.drain(..end).collect();
                for line in lines.split(|b| *b == b'\n') {
                    heard.line(line, now);
                }
            }
        });
    }
    Ok(pages)
}

impl Heard {
    fn line(&self, line: &[u8], now: f64) {
        // Reading every point of every page as JSON would cost more than the studio does: a sample is enough for its time.
        let Some(text) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start) else { return };
        if !text.starts_with(METRIC) {
            return;
        }
        let count = self.points.fetch_add(1, Ordering::Relaxed);
        if count.is_multiple_of(64)
            && let Ok(value) = serde_json::from_slice::<Value>(text)
            && let Some(time) = value["metric"]["time"].as_f64()
        {
            self.waits.lock().unwrap_or_else(PoisonError::into_inner).push((now - time) * 1e3);
        }
    }
}
