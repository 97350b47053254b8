//! Download jobs: they run in the server itself and say what they do through `events.jsonl`, like a worker.

use crate::{
    hub::{Hub, Progress, pull_dataset},
    state::Base,
    time::now,
};
use api::{Event, Line, Outcome, Problem, RunConfig, Text, hub::PullDataset, question::Question};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Progress is written this often.
const TELL: Duration = Duration::from_millis(300);

/// Downloads what the configuration names; the last line in the run folder says how it ended.
pub async fn pull(base: &Base, dir: &Path, config: &RunConfig, cancel: CancellationToken) -> io::Result<()> {
    let lock = File::create(dir.join("worker.lock"))?;
    lock.try_lock()?;
    let events = Events::open(dir)?;
    events.write(Event::Started { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into() })?;
    let result = download(base, config, cancel.clone(), &events).await;
    let (outcome, problem) = match result {
        Ok((path, bytes)) => {
            events.write(Event::Artifact { path, bytes })?;
            (Outcome::Succeeded, None)
        }
        Err(_) if cancel.is_cancelled() => (Outcome::Stopped, None),
        Err(problem) => (Outcome::Failed, Some(problem)),
    };
    events.write(Event::Finished { outcome, problem, summary: Default::default() })
}

/// The result and its bytes: the folder of a model, or the name of a dataset.
async fn download(
    base: &Base,
    config: &RunConfig,
    cancel: CancellationToken,
    events: &Events,
) -> Result<(String, u64), Problem> {
    let told = Mutex::new(None::<Instant>);
    let progress = |progress: Progress| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = progress.total > 0 && progress.done >= progress.total;
        if is_last || told.is_none_or(|at| at.elapsed() >= TELL) {
            *told = Some(Instant::now());
            let text = Text::new(format!("Downloading {}", progress.file), format!("正在下载 {}", progress.file));
            let _ = events.write(Event::Status { text, done: progress.done, total: progress.total });
        }
    };
    if let Some(wanted) = dataset(config) {
        let ask = |question: Question| async move {
            let failed = |failure: crate::error::Failure| failure.problems.into_iter().next().unwrap_or_default();
            base.ask.ask(&question).await.map_err(failed)
        };
        let dir = base.home.datasets();
        let dataset = pull_dataset(base.hub.clone(), &dir, wanted?, ask, progress, cancel).await?;
        return Ok((dataset.name, dataset.bytes));
    }
    let id = config.text("model_name_or_path").ok_or_else(nothing_named)?;
    let revision = config.text("revision").unwrap_or_default();
    let path = Hub::from_settings(base.hub.clone())?.pull(id, revision, progress, cancel).await?;
    let bytes = folder_bytes(&path);
    Ok((path.to_string_lossy().into_owned(), bytes))
}

/// The dataset that is wanted, if it isn't a model.
fn dataset(config: &RunConfig) -> Option<Result<PullDataset, Problem>> {
    config.text("id")?;
    let wanted = serde_json::from_value(serde_json::Value::Object(config.0.clone()));
    Some(wanted.map_err(|e| {
        let what = e.to_string();
        Problem::new(
            "bad_value",
            format!("The download is not understood: {what}."),
            format!("无法理解下载请求：{what}。"),
        )
        .hint("Give id, and perhaps hub, subset, split and name.", "请给出 id，可选 hub、subset、split、name。")
        .field("id")
    }))
}

/// Appends numbered lines to `events.jsonl`.
struct Events(Mutex<(File, u64)>);

impl Events {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("events.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let (mut lines, mut ends_well) = (0, true);
        let mut reader = BufReader::new(File::open(&path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            lines += 1;
            ends_well = line.ends_with(b"\n");
            line.clear();
        }
        if !ends_well {
            file.write_all(b"\n")?;
        }
        Ok(Self(Mutex::new((file, lines))))
    }

    fn write(&self, event: Event) -> io::Result<()> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.1 += 1;
        let mut line = serde_json::to_vec(&Line { seq: guard.1, time: now(), event })?;
        line.push(b'\n');
        guard.0.write_all(&line)
    }
}

/// Bytes of a file, or of the files of a folder.
fn folder_bytes(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 });
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => size(path),
    }
}

fn nothing_named() -> Problem {
    Problem::new("model_missing", "No model is named.", "未指定模型。")
        .hint(
            "Give a hub id, for example HuggingFaceTB/SmolLM2-135M-Instruct.",
            "请填写模型 ID，例如 HuggingFaceTB/SmolLM2-135M-Instruct。",
        )
        .field("model_name_or_path")
}
