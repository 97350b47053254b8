//! L03 and L04: large uploads, and reading them.

use super::{
    Plan, Result, Row,
    client::whole,
    megabytes,
    studio::{Studio, forget_peak, memory},
};
use api::routes::UPLOADS;
use http_body_util::{Full, StreamBody};
use hyper::{
    Method,
    body::{Bytes, Frame},
};
use serde_json::Value;
use std::{
    convert::Infallible,
    fs::File,
    io::{BufWriter, Write},
    process::Command,
    time::Instant,
};

/// A row that makes files large; as many bytes as it has.
const LINE: &str = "{\"instruction\":\"Say something about the weather of tomorrow, please.\",\"input\":\"\",\"output\":\"It will be fair with a light wind from the west, and a little rain in the evening.\"}\n";
const PIECE: usize = 64 << 10;

/// How much the studio takes while files come in, and how fast they do.
pub async fn large(studio: &Studio, plan: &Plan) -> Result<Row> {
    let bytes = (plan.gigabytes * 1e9) as u64;
    let before = memory(studio.pid(), "VmRSS");
    forget_peak(studio.pid());
    let begun = Instant::now();
    upload(studio, bytes).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let one = memory(studio.pid(), "VmHWM").saturating_sub(before);
    forget_peak(studio.pid());
    let (a, b, c, d) = tokio::join!(
        upload(studio, bytes / 4),
        upload(studio, bytes / 4),
        upload(studio, bytes / 4),
        upload(studio, bytes / 4)
    );
    [a, b, c, d].into_iter().collect::<Result<Vec<_>>>()?;
    let four = memory(studio.pid(), "VmHWM").saturating_sub(before);
    let left = std::fs::read_dir(studio.home.path().join("uploads"))?.count();
    Ok(Row::new("L03", format!("{} GB uploaded, and four at once that are given up", plan.gigabytes))
        .at_least("speed", megabytes(bytes) / seconds, "MB/s", 100.0)
        .at_most("memory more", megabytes(one), "MB", 64.0)
        .at_most("memory more, four at once", megabytes(four), "MB", 64.0)
        .at_most("files left", left as f64, "", 0.0))
}

/// Sends all but the last byte of a file, and gives it up: what came is deleted.
async fn upload(studio: &Studio, bytes: u64) -> Result<()> {
    let mut client = studio.client().await?;
    let (length, spoken) = (bytes.to_string(), ("tus-resumable", "1.0.0"));
    // filename load.jsonl, in base64 as the protocol wants.
    let headers = [spoken, ("upload-length", length.as_str()), ("upload-metadata", "filename bG9hZC5qc29ubA==")];
    let answer = client.send(Method::POST, UPLOADS, &headers, Full::default()).await?;
    let place = answer.headers().get("location").and_then(|place| place.to_str().ok()).map(str::to_owned);
    let (status, text) = whole(answer).await?;
    let place = place.ok_or_else(|| format!("{status}: {}", String::from_utf8_lossy(&text)))?;
    let lines = Bytes::from(LINE.repeat(PIECE.div_ceil(LINE.len())).into_bytes()).slice(..PIECE);
    let pieces = (0..(bytes - 1) / PIECE as u64).map(move |_| Ok::<_, Infallible>(Frame::data(lines.clone())));
    let headers = [spoken, ("upload-offset", "0"), ("content-type", "application/offset+octet-stream")];
    let body = StreamBody::new(futures::stream::iter(pieces));
    let (status, text) = whole(client.send(Method::PATCH, &place, &headers, body).await?).await?;
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&text)).into());
    }
    whole(client.send(Method::DELETE, &place, &[spoken], Full::default()).await?).await?;
    Ok(())
}

/// How fast a large file is read and every row of it looked at; a bad row near its end is found.
pub async fn parsed(plan: &Plan) -> Result<Row> {
    let home = tempfile::TempDir::new()?;
    let path = home.path().join("load.jsonl");
    let mut out = BufWriter::new(File::create(&path)?);
    let rows = (plan.gigabytes * 1e9) as usize / LINE.len();
    for _ in 0..rows {
        out.write_all(LINE.as_bytes())?;
    }
    out.flush()?;
    drop(out);
    let output = Command::new(&plan.program)
        .arg("--home")
        .arg(home.path())
        .args(["--json", "bench", "data", "--model", "starter", "--register-only", "--data"])
        .arg(&path)
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let figure = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    Ok(Row::new("L04", format!("{} GB of JSON lines read, every row looked at", plan.gigabytes))
        .at_least("speed", figure("register_mb_per_s"), "MB/s", 50.0)
        .at_most("memory", megabytes(figure("register_memory") as u64), "MB", 128.0)
        .at_least("rows", figure("rows"), "", rows as f64))
}
