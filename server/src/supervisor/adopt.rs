//! Runs that this server didn't start: those of an earlier server, `lathe train` in a terminal, folders copied here.

use super::{
    Supervisor,
    ending::Ending,
    follower::Follower,
    queue::Notes,
    watch::{Life, runs_elsewhere, settle},
};
use crate::{home::is_name, store::Record};
use api::{JobState, job::Spec};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The largest spec.json that is read.
const LARGEST_SPEC: u64 = 4 << 20;
/// A folder without any event counts as abandoned after this.
const SILENT: Duration = Duration::from_secs(60);

/// A run folder with a spec.
struct Found {
    id: String,
    dir: PathBuf,
    /// Length of events.jsonl.
    events: u64,
    silent: Duration,
}

impl Supervisor {
    /// Looks through `runs/` once.
    pub(super) async fn adopt(&self) {
        let runs = self.base.home.runs();
        let found = tokio::task::spawn_blocking(move || look(&runs)).await.unwrap_or_default();
        let known: HashMap<_, _> = match self.base.store.cursors().await {
            Ok(known) => known.into_iter().map(|(id, state, cursor)| (id, (state, cursor))).collect(),
            Err(error) => return tracing::error!("runs: {error}"),
        };
        let folders: std::collections::HashSet<_> = found.iter().map(|f| f.id.clone()).collect();
        for found in found {
            let id = found.id.clone();
            if let Err(error) = self.adopt_one(found, known.get(&id).copied()).await {
                tracing::error!("{id}: {error}");
            }
        }
        // A running job whose folder was taken away.
        for (id, (state, _)) in known {
            let is_lost = matches!(state, JobState::Running | JobState::Stopping) && !folders.contains(&id);
            if is_lost && !self.active().contains_key(&id) {
                let _gate = self.gate.lock().await;
                if let Err(error) = settle(self, &id, Ending::Unknown, false).await {
                    tracing::error!("{id}: {error}");
                }
            }
        }
    }

    async fn adopt_one(&self, found: Found, known: Option<(JobState, u64)>) -> io::Result<()> {
        let Found { id, dir, events, silent } = found;
        match known {
            Some((JobState::Queued, _)) => return Ok(()),
            // Ended, and nothing was written since.
            Some((state, cursor)) if !state.is_active() && events == cursor => return Ok(()),
            // Not started yet: its server or its person is about to.
            None if events == 0 && silent < SILENT && !Notes::read(&dir).restarts => return Ok(()),
            _ => {}
        }
        if self.active().contains_key(&id) {
            return Ok(());
        }
        if known.is_none() {
            self.insert(&id, &dir).await?;
        }
        let mut follower = Follower::new(self.base.clone(), id.clone(), dir.clone());
        // A long file takes a while; nobody waits for that at the gate.
        follower.catch_up().await?;
        let _gate = self.gate.lock().await;
        let Some(record) = follower.catch_up().await? else { return Ok(()) };
        if !matches!(record.job.state, JobState::Running | JobState::Stopping) {
            return Ok(());
        }
        if runs_elsewhere(record.worker, &dir) {
            let stop = CancellationToken::new();
            if record.job.state == JobState::Stopping {
                stop.cancel();
            }
            self.keep(&record.job, self.slot_of(&record.job), Life::Elsewhere, stop);
            return Ok(());
        }
        // What it wrote between the last look and its end.
        follower.catch_up().await?;
        settle(self, &id, Ending::Unknown, false).await.map_err(io::Error::other)
    }

    async fn insert(&self, id: &str, dir: &Path) -> io::Result<()> {
        let Some(spec) = read_spec(dir)? else { return Ok(()) };
        let mut record = Record::new(id.to_owned(), spec.kind, spec.config, spec.created_at);
        let notes = Notes::read(dir);
        (record.job.after, record.job.priority, record.restarts) = (spec.after, notes.priority, notes.restarts);
        // Until its events say otherwise; one that waited when the database was lost goes on waiting.
        let waits = record.restarts && !dir.join("events.jsonl").exists();
        record.job.state = if waits { JobState::Queued } else { JobState::Running };
        let _gate = self.gate.lock().await;
        let store = async {
            let mut change = self.base.store.begin().await?;
            if change.job(id).await?.is_none() {
                change.insert_job(&record).await?;
            }
            change.commit().await
        };
        store.await.map_err(io::Error::other)
    }
}

/// Folders, and links to folders, that hold a spec.
fn look(runs: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        let dir = entry.path();
        let Ok(spec) = fs::metadata(dir.join("spec.json")) else { continue };
        if !is_name(&id) || !spec.is_file() {
            continue;
        }
        let events = fs::metadata(dir.join("events.jsonl")).map_or(0, |m| m.len());
        let silent = spec.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        found.push(Found { id, dir, events, silent });
    }
    // The oldest first: so they get their places in a queue whose database was lost.
    found.sort_by_key(|found| std::cmp::Reverse(found.silent));
    found
}

fn read_spec(dir: &Path) -> io::Result<Option<Spec>> {
    let mut text = String::new();
    File::open(dir.join("spec.json"))?.take(LARGEST_SPEC).read_to_string(&mut text)?;
    match serde_json::from_str(&text) {
        Ok(spec) => Ok(Some(spec)),
        Err(error) => {
            tracing::debug!("{}: {error}", dir.display());
            Ok(None)
        }
    }
}
