//! One running job: follow its events, pass on the wish to stop, say what happened when the worker is gone.

use super::{
    Supervisor,
    beats::Beats,
    ending::{Ending, interrupted},
    follower::Follower,
    restart::{Restarts, gave_up},
    states::{Cause, advance},
};
use crate::{
    home::Home,
    state::Base,
    store::{Record, Store, Worker},
    time::now,
    worker::is_locked,
};
use api::{JobState, Problem, job::Checkpoint, memory::OUT_OF_MEMORY};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{process::Child, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Where the work is done.
pub enum Life {
    /// A worker that this server started.
    Child(Child),
    /// A worker that an earlier server or a person started.
    Elsewhere,
    /// A task of this server.
    Inside(JoinHandle<()>),
}

/// The file is looked at this often.
const POLL: Duration = Duration::from_millis(200);
/// A worker that said its last word has this long to go.
const LINGER: Duration = Duration::from_secs(15);

/// Stays with a job until its worker is gone and the database says how it ended.
pub async fn watch(this: Supervisor, id: String, dir: PathBuf, mut life: Life, stop: CancellationToken) {
    let (base, limit) = (this.base.clone(), this.stop_limit);
    let mut follower = Follower::new(base.clone(), id.clone(), dir.clone());
    let mut beats = Beats::new(&dir);
    let (mut asked, mut ended, mut too_slow) = (None::<Instant>, None::<Instant>, false);
    let mut last_asked = None::<Instant>;
    loop {
        // Asked before reading: what a worker wrote before it went is then always read.
        let gone = life.gone(&base, &id, &dir).await;
        let record = match follower.catch_up().await {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => {
                // For example a full disk. The place in the file is kept; try again.
                tracing::error!("{id}: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if let Some(ending) = gone {
            let ending = if too_slow { Ending::TooSlow(limit.as_secs()) } else { ending };
            match settle(&this, &id, ending, asked.is_some()).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!("{id}: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        if record.job.state.is_active()
            && let Err(error) = tell_stalled(&base.store, &record, beats.missed()).await
        {
            tracing::error!("{id}: {error}");
        }
        if stop.is_cancelled() && record.job.state.is_active() {
            let since = *asked.get_or_insert_with(Instant::now);
            if since.elapsed() >= limit {
                too_slow = true;
                life.signal(&record, &dir, Signal::SIGKILL);
            } else if last_asked.is_none_or(|at| at.elapsed() >= Duration::from_secs(5)) {
                // Again now and then: it may not have had its handler yet when it began.
                last_asked = Some(Instant::now());
                life.signal(&record, &dir, Signal::SIGTERM);
            }
        }
        if !record.job.state.is_active() && ended.get_or_insert_with(Instant::now).elapsed() >= LINGER {
            tracing::warn!("{id}: the worker finished and didn't go; ending it");
            life.signal(&record, &dir, Signal::SIGKILL);
        }
        let wish = async { if asked.is_none() { stop.cancelled().await } else { std::future::pending().await } };
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = wish => {}
        }
    }
}

/// Notes that a worker went silent, or that it is heard again.
async fn tell_stalled(store: &Store, record: &Record, silent: Option<Duration>) -> Result<(), sqlx::Error> {
    if silent.is_some() == record.job.progress.stalled_since.is_some() {
        return Ok(());
    }
    let mut change = store.begin().await?;
    let Some(mut record) = change.job(&record.job.id).await?.filter(|r| r.job.state.is_active()) else { return Ok(()) };
    record.job.progress.stalled_since = silent.map(|silent| now() - silent.as_secs_f64());
    change.put(&record).await?;
    change.commit().await
}

/// Gives a job whose worker is gone its last state. A run that finished by itself has it already.
pub async fn settle(this: &Supervisor, id: &str, ending: Ending, asked: bool) -> Result<(), sqlx::Error> {
    let base = &this.base;
    let last = checkpoints(&base.store, &base.home, id).await?.into_iter().rfind(|c| c.name != "final");
    let mut change = base.store.begin().await?;
    let Some(mut record) = change.job(id).await? else { return Ok(()) };
    if !matches!(record.job.state, JobState::Running | JobState::Stopping) {
        return Ok(());
    }
    let problem = interrupted(&record.job, ending, last.as_ref(), base.home.run(id).as_deref());
    lose(&mut record, ending, asked, problem, &this.restarts, now());
    change.put(&record).await?;
    change.commit().await
}

/// What becomes of a job whose worker is gone without a last word: it was obeyed, or it is interrupted and perhaps starts
/// again by itself. Never one that a person stopped, nor one whose memory ran out twice in a row.
pub fn lose(record: &mut Record, ending: Ending, asked: bool, mut problem: Problem, restarts: &Restarts, now: f64) {
    // Stopped before it could listen: that is what was asked for.
    let obeyed = asked && ending == Ending::Signal(Signal::SIGTERM as i32);
    if obeyed && advance(&mut record.job, Cause::StoppedUnheard, now) {
        return;
    }
    let by_itself = record.restarts && !asked && record.job.state == JobState::Running;
    let attempts = &mut record.attempts;
    let twice = problem.code == OUT_OF_MEMORY && attempts.out_of_memory;
    attempts.out_of_memory = problem.code == OUT_OF_MEMORY;
    let restart = restarts.next(attempts, now).filter(|_| by_itself && !twice);
    if by_itself && restart.is_none() && restarts.most > 1 {
        problem = gave_up(problem, attempts, twice);
    }
    advance(&mut record.job, Cause::Lost, now);
    (record.job.problem, record.job.restart) = (Some(problem), restart);
}

/// Checkpoints of a run that still stand, by step, with their places; last `final` if the run folder holds a result.
pub async fn checkpoints(store: &Store, home: &Home, id: &str) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let Some(dir) = home.run(id) else { return Ok(Vec::new()) };
    let mut found = store.checkpoints(id).await?;
    found.retain(|checkpoint| dir.join(&checkpoint.name).is_dir());
    for checkpoint in &mut found {
        checkpoint.path = dir.join(&checkpoint.name).to_string_lossy().into_owned();
    }
    let record = store.job(id).await?;
    if let Some(job) = record.map(|r| r.job).filter(|job| job.kind == api::JobKind::Train)
        && let Some(path) = job.artifact.filter(|path| std::path::Path::new(path).exists())
    {
        found.push(Checkpoint { name: "final".into(), step: job.progress.done, bytes: job_bytes(&path), path });
    }
    Ok(found)
}

/// Whether a job that this server didn't start still runs.
pub fn runs_elsewhere(worker: Option<Worker>, dir: &std::path::Path) -> bool {
    is_locked(dir) || worker.is_some_and(Worker::is_alive)
}

impl Life {
    async fn gone(&mut self, base: &Base, id: &str, dir: &std::path::Path) -> Option<Ending> {
        match self {
            Self::Child(child) => {
                end_descendants(child);
                match child.try_wait() {
                    Ok(status) => status.map(Ending::from),
                    Err(error) => {
                        tracing::error!("{id}: {error}");
                        Some(Ending::Unknown)
                    }
                }
            }
            Self::Elsewhere => {
                let worker = base.store.job(id).await.ok()?.and_then(|record| record.worker);
                (!runs_elsewhere(worker, dir)).then_some(Ending::Unknown)
            }
            Self::Inside(task) => task.is_finished().then_some(Ending::Unknown),
        }
    }

    fn signal(&self, record: &Record, dir: &std::path::Path, signal: Signal) {
        match self {
            // Not waited for yet, so its pid can't be another's.
            Self::Child(child) => {
                if let Some(worker) = child.id().and_then(Worker::find) {
                    worker.signal(signal);
                }
            }
            Self::Elsewhere => {
                if let Some(worker) = record.worker.filter(|_| is_locked(dir)) {
                    worker.signal(signal);
                }
            }
            // It hears the same token.
            Self::Inside(task) => {
                if signal == Signal::SIGKILL {
                    task.abort();
                }
            }
        }
    }
}

/// Ends what a worker that has ended left of its process group. As long as nobody has asked how the worker ended, its
/// pid, and so the number of its group, can't be another's.
fn end_descendants(child: &Child) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else { return };
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if matches!(waitid(Id::Pid(pid), look), Ok(status) if status != WaitStatus::StillAlive) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

fn job_bytes(path: &str) -> u64 {
    std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok().filter(|m| m.is_file()))
        .map(|m| m.len())
        .sum()
}
