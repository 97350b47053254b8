//! Reads what a worker adds to `events.jsonl` into the database. Rows and the place reached in the file are written in
//! one transaction, so a crash in between neither loses nor repeats anything.

use super::apply::{Effect, Pace, apply};
use crate::{
    state::Base,
    store::{Change, Record, Worker},
};
use api::{Event, Job, JobKind, JobState, Line, Problem, job::Feed};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// Read at once, and so the longest line.
const CHUNK: usize = 1 << 20;
/// With more than this to catch up, points aren't told one by one: pages ask again.
const BACKLOG: u64 = 256 << 10;
/// Progress alone is told this often.
const TELL: Duration = Duration::from_millis(500);

pub struct Follower {
    base: Base,
    id: String,
    dir: PathBuf,
    pace: Pace,
    told: Option<Instant>,
    /// Progress that wasn't told yet.
    pending: bool,
}

impl Follower {
    pub fn new(base: Base, id: String, dir: PathBuf) -> Self {
        Self { base, id, dir, pace: Pace::default(), told: None, pending: false }
    }

    /// Applies all that the file has; gives the job as it then is, or nothing if it was deleted.
    pub async fn catch_up(&mut self) -> io::Result<Option<Record>> {
        loop {
            let Some(mut record) = self.base.store.job(&self.id).await.map_err(io::Error::other)? else {
                return Ok(None);
            };
            let (path, cursor) = (self.dir.join("events.jsonl"), record.cursor);
            let chunk = tokio::task::spawn_blocking(move || read(&path, cursor)).await??;
            match chunk {
                Chunk::Nothing => {
                    if self.pending && self.told.is_none_or(|told| told.elapsed() >= TELL) {
                        self.tell(&record).await.map_err(io::Error::other)?;
                    }
                    return Ok(Some(record));
                }
                Chunk::Shrunk => {
                    tracing::warn!("{}: events.jsonl is shorter than before, reading it again", self.id);
                    record = fresh(record);
                    let mut change = self.base.store.begin().await.map_err(io::Error::other)?;
                    change.forget_events(&self.id).await.map_err(io::Error::other)?;
                    change.save_job(&record).await.map_err(io::Error::other)?;
                    change.commit().await.map_err(io::Error::other)?;
                }
                Chunk::Lines { bytes, left } => self.add(&bytes, left).await.map_err(io::Error::other)?,
            }
        }
    }

    async fn add(&mut self, bytes: &[u8], left: u64) -> Result<(), sqlx::Error> {
        let mut change = self.base.store.begin().await?;
        let Some(mut record) = change.job(&self.id).await? else { return Ok(()) };
        let before = record.job.state;
        let quiet = left > BACKLOG;
        let (mut state, mut malformed) = (false, 0u64);
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let Ok(line) = serde_json::from_slice::<Line>(line) else {
                malformed += 1;
                continue;
            };
            if let Event::Started { pid, .. } = line.event {
                // Where the clock was set meanwhile, what was noted when the worker was started still holds.
                record.worker = Worker::find_at(pid, line.time).or(record.worker.filter(|worker| worker.pid == pid));
            }
            match apply(&mut record, &mut self.pace, line, &self.dir) {
                Effect::Progress => {}
                Effect::State => state = true,
                Effect::Metric(metric) => {
                    self.base.counters.steps.fetch_add(1, Ordering::Relaxed);
                    change.add_metric(&self.id, &metric).await?;
                    if !quiet {
                        change.tell(&Feed::Metric { job: self.id.clone(), metric }).await?;
                    }
                }
                Effect::Checkpoint(checkpoint) => {
                    change.add_checkpoint(&self.id, &checkpoint).await?;
                    change.tell(&Feed::Checkpoint { job: self.id.clone(), checkpoint }).await?;
                }
                Effect::Note(problem) => change.tell(&Feed::Note { job: self.id.clone(), problem }).await?,
            }
        }
        if malformed > 0 {
            tracing::warn!("{}: {malformed} lines of events.jsonl can't be read and were skipped", self.id);
            change.tell(&Feed::Note { job: self.id.clone(), problem: unreadable(malformed) }).await?;
        }
        record.cursor += bytes.len() as u64;
        change.save_job(&record).await?;
        let ended = before.is_active() && !record.job.state.is_active();
        if state || self.told.is_none_or(|told| told.elapsed() >= TELL) {
            change.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await?;
            (self.told, self.pending) = (Some(Instant::now()), false);
        } else {
            self.pending = true;
        }
        if quiet {
            change.tell(&Feed::Changed { what: "jobs".into() }).await?;
        }
        if ended {
            tell_ended(&mut change, &record.job).await?;
        }
        change.commit().await
    }

    async fn tell(&mut self, record: &Record) -> Result<(), sqlx::Error> {
        self.base.store.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await?;
        (self.told, self.pending) = (Some(Instant::now()), false);
        Ok(())
    }
}

/// A run that ended well left something to load.
async fn tell_ended(change: &mut Change, job: &Job) -> Result<(), sqlx::Error> {
    match (job.kind, job.state) {
        // Also one that was stopped has made rows.
        (JobKind::Make, _) => change.tell(&Feed::Changed { what: "datasets".into() }).await,
        (JobKind::Pull, JobState::Succeeded) if job.config.text("id").is_some() => {
            change.tell(&Feed::Changed { what: "datasets".into() }).await
        }
        (JobKind::Train | JobKind::Export | JobKind::Pull, JobState::Succeeded) => {
            change.tell(&Feed::Changed { what: "models".into() }).await
        }
        _ => Ok(()),
    }
}

/// The job as before its first event.
fn fresh(record: Record) -> Record {
    let job = record.job;
    let mut fresh = Record::new(job.id, job.kind, job.config, job.created_at);
    (fresh.job.after, fresh.job.priority) = (job.after, job.priority);
    fresh.job.state = JobState::Running;
    (fresh.worker, fresh.restarts) = (record.worker, record.restarts);
    fresh
}

enum Chunk {
    Nothing,
    /// The file is shorter than what was read: it was written anew.
    Shrunk,
    /// Whole lines, and how much of the file follows from where they begin.
    Lines {
        bytes: Vec<u8>,
        left: u64,
    },
}

fn read(path: &Path, cursor: u64) -> io::Result<Chunk> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Chunk::Nothing),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length < cursor {
        return Ok(Chunk::Shrunk);
    }
    if length == cursor {
        return Ok(Chunk::Nothing);
    }
    file.seek(SeekFrom::Start(cursor))?;
    let mut bytes = Vec::new();
    file.take(CHUNK as u64).read_to_end(&mut bytes)?;
    match bytes.iter().rposition(|b| *b == b'\n') {
        Some(last) => bytes.truncate(last + 1),
        // A line without end that no worker writes: what fits is skipped, so that the next one is found.
        None if bytes.len() >= CHUNK => {}
        None => return Ok(Chunk::Nothing),
    }
    Ok(Chunk::Lines { bytes, left: length - cursor })
}

fn unreadable(lines: u64) -> Problem {
    Problem::new(
        "events_unreadable",
        format!("{lines} lines of events.jsonl can't be read and were skipped."),
        format!("events.jsonl 中有 {lines} 行无法读取，已跳过。"),
    )
    .hint("The run itself goes on; look at its log.", "运行本身不受影响；请查看其日志。")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{fs::OpenOptions, io::Write};

    #[test]
    fn only_whole_lines_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        assert!(matches!(read(&path, 0).unwrap(), Chunk::Nothing));
        std::fs::write(&path, "{\"a\":1}\n{\"b\"").unwrap();
        let Chunk::Lines { bytes, left } = read(&path, 0).unwrap() else { panic!() };
        assert_eq!((bytes.as_slice(), left), (&b"{\"a\":1}\n"[..], 12));
        assert!(matches!(read(&path, 8).unwrap(), Chunk::Nothing));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b":2}\n").unwrap();
        let Chunk::Lines { bytes, .. } = read(&path, 8).unwrap() else { panic!() };
        assert_eq!(bytes, b"{\"b\":2}\n");
        assert!(matches!(read(&path, 100).unwrap(), Chunk::Shrunk));
        std::fs::write(&path, vec![b'x'; CHUNK + 5]).unwrap();
        let Chunk::Lines { bytes, .. } = read(&path, 0).unwrap() else { panic!() };
        assert_eq!(bytes.len(), CHUNK, "an endless line can't stop the reader");
    }
}
