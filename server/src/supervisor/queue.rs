//! The queue: who starts now, who waits for what, and what a person changes of that order.

use super::{
    Active, Supervisor, missing,
    schedule::{Busy, Candidate, Link, Verdict, decide},
    slot,
    states::{Cause, advance},
    watch::Life,
};
use crate::{
    error::{Failure, Reply},
    home::replace_file,
    store::{Record, Worker},
    time::now,
};
use api::{
    Job, JobState, Problem, Text,
    job::Feed,
    queue::{Place, Priority, Queue, Waiting},
};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// Jobs at once that need no device of this computer.
const BESIDE: usize = 2;
/// Jobs that may wait.
const LONGEST: usize = 256;
/// In a run folder: what the queue knows of a job beside its spec.
const NOTES: &str = "queue.json";

/// What [`NOTES`] holds, so that the database can be made again.
#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(super) struct Notes {
    pub priority: Priority,
    pub restarts: bool,
}

impl Notes {
    pub fn read(dir: &Path) -> Self {
        let mut text = String::new();
        let read = File::open(dir.join(NOTES)).and_then(|file| file.take(1 << 16).read_to_string(&mut text));
        read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    pub fn write(record: &Record, dir: &Path) -> io::Result<()> {
        let notes = Self { priority: record.job.priority, restarts: record.restarts };
        replace_file(&dir.join(NOTES), &serde_json::to_vec(&notes)?)
    }
}

impl Supervisor {
    pub(super) async fn room_in_queue(&self, more: usize) -> Reply<()> {
        if self.base.store.queued().await?.len() + more <= LONGEST {
            return Ok(());
        }
        let problem = Problem::new(
            "queue_full",
            format!("At most {LONGEST} jobs may wait."),
            format!("队列最多容纳 {LONGEST} 个任务。"),
        );
        let problem = problem.hint("Wait for some to finish, or stop some.", "请等待或停止部分任务。");
        Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, problem))
    }

    /// The queue as it stands.
    pub async fn queue(&self) -> Result<Queue, sqlx::Error> {
        Ok(self.survey().await?.queue())
    }

    /// What queued jobs wait for, as their status.
    pub async fn tell_reasons(&self, jobs: &mut [Job]) -> Result<(), sqlx::Error> {
        if jobs.iter().all(|job| job.state != JobState::Queued) {
            return Ok(());
        }
        let queue = self.queue().await?;
        let mut reasons: HashMap<String, Option<Text>> = queue.waiting.into_iter().map(|w| (w.job, w.reason)).collect();
        for job in jobs.iter_mut().filter(|job| job.state == JobState::Queued) {
            job.progress.status = reasons.remove(&job.id).flatten();
        }
        Ok(())
    }

    /// Starts nothing more until told otherwise, or goes on.
    pub async fn pause(&self, paused: bool) -> Reply<Queue> {
        let mut change = self.base.store.begin().await?;
        change.set_paused(paused).await?;
        change.commit().await?;
        self.wake.notify_one();
        Ok(self.queue().await?)
    }

    /// Gives a waiting job another priority or another place.
    pub async fn place(&self, id: &str, place: &Place) -> Reply<Job> {
        let _gate = self.gate.lock().await;
        let waiting = self.base.store.queued().await?;
        let mut order: Vec<&str> = waiting.iter().map(|job| job.id.as_str()).filter(|other| *other != id).collect();
        let mut change = self.base.store.begin().await?;
        let mut record = change.job(id).await?.ok_or_else(|| missing(id))?;
        if record.job.state != JobState::Queued {
            return Err(not_waiting(id));
        }
        if let Some(priority) = place.priority {
            record.job.priority = priority;
        }
        let beside = place.before.as_ref().map(|other| (other, 0)).or(place.behind.as_ref().map(|other| (other, 1)));
        if let Some((other, offset)) = beside {
            let at = order.iter().position(|known| known == other).ok_or_else(|| not_waiting(other))?;
            order.insert(at + offset, id);
            record.job.priority =
                waiting.iter().find(|job| job.id == *other).map_or(record.job.priority, |job| job.priority);
            for id in order {
                change.move_to_end(id).await?;
            }
        }
        change.put(&record).await?;
        change.commit().await?;
        self.queued(record).await
    }

    /// A job whose place in the queue has just changed, with what it waits for.
    pub(super) async fn queued(&self, record: Record) -> Reply<Job> {
        self.note(&record)?;
        self.wake.notify_one();
        self.with_reason(record.job).await
    }

    pub(super) async fn with_reason(&self, job: Job) -> Reply<Job> {
        let mut job = [job];
        self.tell_reasons(&mut job).await?;
        let [job] = job;
        Ok(job)
    }

    /// Writes what only the queue knows beside the spec of a job.
    pub(super) fn note(&self, record: &Record) -> Reply<()> {
        let written = self.dir(&record.job.id).and_then(|dir| Notes::write(record, &dir));
        written.map_err(|e| Failure::io(["Writing the run folder", "写入运行文件夹"], &e))
    }

    /// Starts what may start now, tells the order of the rest, and says when to look again at the latest.
    pub(super) async fn claim(&self) -> Result<Option<Duration>, sqlx::Error> {
        let _gate = self.gate.lock().await;
        let next = self.queue_again().await?;
        let mut survey = self.survey().await?;
        let starts = survey.waiting.iter().zip(&survey.verdicts).filter_map(|(job, verdict)| match verdict {
            Verdict::Start(slot) => Some((job.id.clone(), *slot)),
            Verdict::Wait(_) => None,
        });
        let starts: Vec<_> = starts.collect();
        for (id, slot) in &starts {
            self.start(id, *slot).await?;
        }
        if !starts.is_empty() {
            survey = self.survey().await?;
        }
        let queue = survey.queue();
        if *self.told() != queue {
            self.base.store.tell(&Feed::Queue { queue: queue.clone() }).await?;
            *self.told() = queue;
        }
        Ok(next)
    }

    /// Puts interrupted jobs back in the queue whose time has come; the time until the next one.
    async fn queue_again(&self) -> Result<Option<Duration>, sqlx::Error> {
        let mut next = None::<f64>;
        for mut record in self.base.store.to_restart().await? {
            let left = record.job.restart.as_ref().map_or(0.0, |restart| self.restarts.left(restart, now()));
            if left > 0.0 || self.active().contains_key(&record.job.id) {
                next = Some(next.map_or(left, |next| next.min(left)));
                continue;
            }
            let mut change = self.base.store.begin().await?;
            let saved = self.has_saved(&record.job);
            go_on(&mut record, saved);
            if advance(&mut record.job, Cause::Restarted, now()) {
                change.put(&record).await?;
            }
            change.commit().await?;
        }
        Ok(next.map(|seconds| Duration::from_secs_f64(seconds.max(0.01))))
    }

    async fn survey(&self) -> Result<Survey, sqlx::Error> {
        let paused = self.base.store.is_paused().await?;
        let waiting = self.base.store.queued().await?;
        let mut candidates = Vec::with_capacity(waiting.len());
        for job in &waiting {
            let link = match &job.after {
                None => None,
                Some(before) => {
                    let before_it = self.base.store.job(before).await?.map(|record| record.job);
                    let restarts = before_it.as_ref().is_some_and(|job| job.restart.is_some());
                    Some(Link { before: before.clone(), state: before_it.map(|job| job.state), restarts })
                }
            };
            let fitting = slot::fitting(job.kind, &job.config, self.base.program.gpus());
            candidates.push(Candidate { id: job.id.clone(), fitting, link });
        }
        let verdicts = decide(&candidates, &self.busy(), BESIDE, paused);
        Ok(Survey { paused, waiting, verdicts })
    }

    fn busy(&self) -> Vec<Busy> {
        let mut busy: Vec<Busy> =
            self.active().iter().map(|(id, active)| Busy { id: id.clone(), slot: active.slot }).collect();
        busy.sort_by(|a, b| a.id.cmp(&b.id));
        busy
    }

    /// The slot that a job runs in which this server didn't start.
    pub(super) fn slot_of(&self, job: &Job) -> Option<slot::Slot> {
        let said = job.plan.as_ref().and_then(|plan| slot::named(&plan.device));
        let fitting = slot::fitting(job.kind, &job.config, self.base.program.gpus());
        let busy = self.busy();
        let free = || fitting.iter().copied().find(|slot| busy.iter().all(|b| b.slot != Some(*slot)));
        said.filter(|slot| fitting.contains(slot)).or_else(free).or(fitting.first().copied())
    }

    async fn start(&self, id: &str, slot: Option<slot::Slot>) -> Result<(), sqlx::Error> {
        let mut change = self.base.store.begin().await?;
        let Some(mut record) = change.job(id).await? else { return Ok(()) };
        if !advance(&mut record.job, Cause::Claimed, now()) {
            return Ok(());
        }
        record.job.started_at = Some(now());
        record.job.progress.status = Some(Text::new("Starting", "正在启动"));
        (record.worker, record.restarts) = (None, true);
        change.put(&record).await?;
        change.commit().await?;
        let stop = CancellationToken::new();
        match self.launch(&record, slot, &stop) {
            Ok(life) => {
                if let Life::Child(child) = &life {
                    // For a server that starts again before the worker has said anything.
                    record.worker = child.id().and_then(Worker::find);
                    let mut change = self.base.store.begin().await?;
                    change.save_job(&record).await?;
                    change.commit().await?;
                }
                self.keep(&record.job, slot, life, stop);
            }
            Err(error) => {
                advance(&mut record.job, Cause::NotStarted, now());
                record.job.problem = Some(not_started(&error));
                let mut change = self.base.store.begin().await?;
                change.put(&record).await?;
                change.commit().await?;
                self.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Whether a training has saved a checkpoint since it was last started.
    fn has_saved(&self, job: &Job) -> bool {
        let began = job.started_at.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds.max(0.0)));
        let entries = self.dir(&job.id).and_then(std::fs::read_dir).into_iter().flatten().flatten();
        let checkpoints = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"));
        let written =
            checkpoints.filter_map(|entry| entry.path().join("manifest.json").metadata().ok()?.modified().ok());
        written.max() > began
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn active(&self) -> std::sync::MutexGuard<'_, HashMap<String, Active>> {
        self.active.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A job that starts once more goes on where it was. What a person chose of an earlier checkpoint counts until it has
/// `saved` one since.
pub(super) fn go_on(record: &mut Record, saved: bool) {
    let config = &mut record.job.config;
    let chosen = config.get("resume_from_checkpoint").is_some();
    if record.job.kind == api::JobKind::Train && (saved || !chosen) {
        config.set("resume_from_checkpoint", true);
        config.remove("resume_mode");
    }
    record.worker = None;
}

/// The waiting jobs in the order of their turn, with what happens to each.
struct Survey {
    paused: bool,
    waiting: Vec<Job>,
    verdicts: Vec<Verdict>,
}

impl Survey {
    fn queue(self) -> Queue {
        let waiting = self.waiting.into_iter().zip(self.verdicts).map(|(job, verdict)| Waiting {
            job: job.id,
            reason: match verdict {
                Verdict::Start(_) => None,
                Verdict::Wait(reason) => Some(reason.text()),
            },
        });
        Queue { paused: self.paused, waiting: waiting.collect() }
    }
}

fn not_waiting(id: &str) -> Failure {
    let id: String = id.chars().take(100).collect();
    let problem = Problem::new(
        "job_not_waiting",
        format!("Job {id} doesn't wait in the queue."),
        format!("任务 {id} 不在队列中等待。"),
    );
    Failure::conflict(
        problem.hint("Only waiting jobs have a place; reload the page.", "只有等待中的任务才有位置；请刷新页面。"),
    )
}

fn not_started(error: &io::Error) -> Problem {
    Problem::new(
        "worker_start",
        format!("The worker can't be started: {error}."),
        format!("无法启动工作进程：{error}。"),
    )
    .hint(
        "Check the free disk space and the rights of the data folder, then resume.",
        "请检查磁盘空间和数据文件夹权限，然后继续。",
    )
}
