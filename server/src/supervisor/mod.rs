//! The queue and the workers. One training, export or making of data at a time on each device, in the order asked;
//! what waits for other computers runs beside them: downloads, and teachers behind servers.

mod adopt;
mod apply;
mod chain;
mod ending;
mod follower;
mod pull;
mod slot;
mod watch;

pub use slot::Slot;
pub use watch::checkpoints;

use crate::{
    error::{Failure, Reply},
    home::replace_file,
    state::Base,
    store::{Record, Worker},
    teacher,
    time::now,
};
use api::{
    Job, JobKind, JobState, Problem, Text,
    job::{Feed, NewJob, Resume, Spec, wished_id},
};
use axum::http::StatusCode;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use watch::{Life, watch};

/// Jobs at once that need no device of this computer.
const BESIDE: usize = 2;
/// Jobs that may wait.
const LONGEST_QUEUE: usize = 256;
/// From a worker's last word to the end of its process, at most.
const LAST_BREATH: Duration = Duration::from_secs(5);
/// The run folder is looked through this often for runs started elsewhere.
const SCAN: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Supervisor {
    base: Base,
    /// Jobs that run, with the way to stop them.
    active: Arc<Mutex<HashMap<String, Active>>>,
    wake: Arc<Notify>,
    /// One decision about a job at a time: make, claim, stop, resume, delete.
    gate: Arc<tokio::sync::Mutex<()>>,
    /// From SIGTERM to SIGKILL.
    stop_limit: Duration,
}

struct Active {
    /// None where none is needed.
    slot: Option<Slot>,
    stop: CancellationToken,
}

impl Supervisor {
    pub fn new(base: Base, stop_limit: Duration) -> Self {
        Self { base, active: Arc::default(), wake: Arc::default(), gate: Arc::default(), stop_limit }
    }

    /// Takes up what an earlier server left, then serves the queue for ever.
    pub async fn run(self) {
        loop {
            self.adopt().await;
            if let Err(error) = self.claim().await {
                tracing::error!("queue: {error}");
            }
            let next_scan = tokio::time::Instant::now() + SCAN;
            while tokio::time::timeout_at(next_scan, self.wake.notified()).await.is_ok() {
                if let Err(error) = self.claim().await {
                    tracing::error!("queue: {error}");
                }
            }
        }
    }

    /// Puts a job in the queue: folder, row, spec.
    pub async fn create(&self, new: NewJob) -> Reply<Job> {
        let _gate = self.gate.lock().await;
        self.room_in_queue(1).await?;
        let mut record = self.fresh(new).await?;
        record.job.progress.status = self.waits_for(&record.job);
        self.enqueue(&[&record]).await?;
        Ok(record.job)
    }

    async fn room_in_queue(&self, more: usize) -> Reply<()> {
        if self.base.store.queued().await?.len() + more <= LONGEST_QUEUE {
            return Ok(());
        }
        let problem = Problem::new(
            "queue_full",
            format!("At most {LONGEST_QUEUE} jobs may wait."),
            format!("队列最多容纳 {LONGEST_QUEUE} 个任务。"),
        );
        let problem = problem.hint("Wait for some to finish, or stop some.", "请等待或停止部分任务。");
        Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, problem))
    }

    /// A job with a folder of its own, known to nobody yet.
    async fn fresh(&self, new: NewJob) -> Reply<Record> {
        let known: HashSet<_> = self.base.store.cursors().await?.into_iter().map(|(id, ..)| id).collect();
        let id = self
            .make_folder(&wished_id(new.kind, &new.name, &new.config), &known)
            .map_err(|e| Failure::io(["Making the run folder", "创建运行文件夹"], &e))?;
        Ok(Record::new(id, new.kind, new.config, now()))
    }

    /// Puts fresh jobs in the queue, all or none.
    async fn enqueue(&self, records: &[&Record]) -> Reply<()> {
        let mut change = self.base.store.begin().await?;
        for record in records {
            change.insert_job(record).await?;
            change.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await?;
        }
        change.commit().await?;
        for record in records {
            self.write_spec(record).map_err(|e| Failure::io(["Writing the run folder", "写入运行文件夹"], &e))?;
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Takes a waiting job out of the queue, or asks a running one to save and end.
    pub async fn stop(&self, id: &str) -> Reply<Job> {
        let _gate = self.gate.lock().await;
        let mut change = self.base.store.begin().await?;
        let mut record = change.job(id).await?.ok_or_else(|| missing(id))?;
        match record.job.state {
            JobState::Queued => {
                record.job.state = JobState::Stopped;
                record.job.finished_at = Some(now());
                record.job.progress.status = None;
            }
            JobState::Running => {
                record.job.state = JobState::Stopping;
                record.job.progress.status = Some(Text::new("Stopping, saving first", "正在停止，先保存"));
            }
            JobState::Stopping => return Ok(record.job),
            _ => {
                let problem = Problem::new(
                    "job_not_active",
                    format!("Job {id} neither waits nor runs."),
                    format!("任务 {id} 既未排队也未运行。"),
                );
                return Err(Failure::conflict(problem.hint("There is nothing to stop.", "无需停止。")));
            }
        }
        change.save_job(&record).await?;
        change.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await?;
        change.commit().await?;
        if let Some(active) = self.active().get(id) {
            active.stop.cancel();
        }
        self.wake.notify_one();
        Ok(record.job)
    }

    /// Puts an ended job in the queue again; a training run goes on from the checkpoint and with the settings of the wish.
    pub async fn resume(&self, id: &str, wish: &Resume) -> Reply<Job> {
        self.let_go(id).await?;
        let _gate = self.gate.lock().await;
        let mut change = self.base.store.begin().await?;
        let mut record = change.job(id).await?.ok_or_else(|| missing(id))?;
        let job = &mut record.job;
        if !matches!(job.state, JobState::Stopped | JobState::Failed | JobState::Interrupted)
            || self.active().contains_key(id)
        {
            let problem = Problem::new(
                "job_not_resumable",
                format!("Job {id} can't be resumed: it is not stopped, failed or interrupted."),
                format!("任务 {id} 无法继续：它并未停止、失败或中断。"),
            );
            let hint = ["Start a new run to train further.", "如需继续训练，请新建运行。"];
            return Err(Failure::conflict(problem.hint(hint[0], hint[1])));
        }
        if job.kind == JobKind::Train {
            let dir = self.dir(id).map_err(|e| Failure::io(["Finding the run folder", "查找运行文件夹"], &e))?;
            job.config = wish.apply(&job.config, &dir).ok_or_else(|| no_such_checkpoint(wish))?;
        }
        job.state = JobState::Queued;
        job.finished_at = None;
        job.problem = None;
        job.progress.status = self.waits_for(job);
        record.worker = None;
        change.save_job(&record).await?;
        change.move_to_end(id).await?;
        change.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await?;
        change.commit().await?;
        self.wake.notify_one();
        Ok(record.job)
    }

    /// Waits a moment for the process of a job that has said its last word to be gone.
    async fn let_go(&self, id: &str) -> Reply<()> {
        let ended = self.base.store.job(id).await?.is_some_and(|record| !record.job.state.is_active());
        let end = tokio::time::Instant::now() + LAST_BREATH;
        while ended && self.active().contains_key(id) && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether a job comes after another one or names its folder.
    fn needs(&self, job: &Job, id: &str) -> bool {
        let Ok(dir) = self.dir(id) else { return false };
        let names = |value: &Value| {
            let texts =
                value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str));
            texts.flat_map(|text| text.split(',')).any(|path| Path::new(path.trim()).starts_with(&dir))
        };
        job.after.as_deref() == Some(id) || job.config.0.values().any(names)
    }

    /// Deletes an ended job and its folder.
    pub async fn delete(&self, id: &str) -> Reply<()> {
        self.let_go(id).await?;
        let _gate = self.gate.lock().await;
        let record = self.base.store.job(id).await?.ok_or_else(|| missing(id))?;
        if record.job.state.is_active() || self.active().contains_key(id) {
            let problem = Problem::new(
                "job_active",
                format!("Job {id} still waits or runs."),
                format!("任务 {id} 仍在排队或运行。"),
            );
            return Err(Failure::conflict(problem.hint("Stop it first.", "请先停止它。")));
        }
        let waiting = self.base.store.queued().await?;
        if let Some(other) = waiting.iter().find(|other| self.needs(other, id)) {
            let problem = Problem::new(
                "job_needed",
                format!("Job {} waits, and works with the result of {id}.", other.id),
                format!("任务 {} 正在排队，并且要用到 {id} 的结果。", other.id),
            );
            return Err(Failure::conflict(problem.hint("Stop or delete that job first.", "请先停止或删除那个任务。")));
        }
        let (home, owned) = (self.base.home.clone(), id.to_owned());
        let deleted = tokio::task::spawn_blocking(move || home.delete_run(&owned)).await.map_err(Failure::internal)?;
        deleted.map_err(|e| Failure::io(["Deleting the run folder", "删除运行文件夹"], &e))?;
        let mut change = self.base.store.begin().await?;
        change.delete_job(id).await?;
        change.tell(&Feed::Gone { job: id.to_owned() }).await?;
        change.tell(&Feed::Changed { what: "models".into() }).await?;
        Ok(change.commit().await?)
    }

    /// Starts what may start now.
    async fn claim(&self) -> Result<(), sqlx::Error> {
        let _gate = self.gate.lock().await;
        for job in self.base.store.queued().await? {
            if self.is_held_up(&job).await? {
                continue;
            }
            if let Some(room) = self.room(&job) {
                self.start(&job.id, room).await?;
            }
        }
        Ok(())
    }

    async fn start(&self, id: &str, slot: Option<Slot>) -> Result<(), sqlx::Error> {
        let mut change = self.base.store.begin().await?;
        let Some(mut record) = change.job(id).await? else { return Ok(()) };
        record.job.state = JobState::Running;
        record.job.started_at = Some(now());
        record.job.progress.status = Some(Text::new("Starting", "正在启动"));
        record.worker = None;
        change.save_job(&record).await?;
        change.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await?;
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
                record.job.state = JobState::Failed;
                record.job.finished_at = Some(now());
                record.job.progress.status = None;
                record.job.problem = Some(
                    Problem::new(
                        "worker_start",
                        format!("The worker can't be started: {error}."),
                        format!("无法启动工作进程：{error}。"),
                    )
                    .hint(
                        "Check the free disk space and the rights of the data folder, then resume.",
                        "请检查磁盘空间和数据文件夹权限，然后继续。",
                    ),
                );
                let mut change = self.base.store.begin().await?;
                change.save_job(&record).await?;
                change.tell(&Feed::Job { job: Box::new(record.job) }).await?;
                change.commit().await?;
            }
        }
        Ok(())
    }

    fn launch(&self, record: &Record, slot: Option<Slot>, stop: &CancellationToken) -> io::Result<Life> {
        self.write_spec(record)?;
        let dir = self.dir(&record.job.id)?;
        if record.job.kind != JobKind::Pull {
            let asks = record.job.kind == JobKind::Make || teacher::is_asked(&record.job.config);
            let secrets: &[&str] = if asks { &teacher::VARIABLES } else { &[] };
            return Ok(Life::Child(self.base.program.start_job(&dir, slot.unwrap_or(Slot::Cpu), secrets)?));
        }
        let (base, config, stop) = (self.base.clone(), record.job.config.clone(), stop.clone());
        Ok(Life::Inside(tokio::spawn(async move {
            if let Err(error) = pull::pull(&base, &dir, &config, stop).await {
                tracing::error!("{}: {error}", dir.display());
            }
        })))
    }

    /// Stays with a running job in a task of its own.
    fn keep(&self, job: &Job, slot: Option<Slot>, life: Life, stop: CancellationToken) {
        let Ok(dir) = self.dir(&job.id) else { return };
        let id = job.id.clone();
        self.active().insert(id.clone(), Active { slot, stop: stop.clone() });
        let this = self.clone();
        tokio::spawn(async move {
            // In a task of its own again: should it panic, the queue still goes on.
            let inner = tokio::spawn(watch(this.base.clone(), id.clone(), dir, life, stop, this.stop_limit));
            if let Err(error) = inner.await {
                tracing::error!("{id}: {error}");
            }
            this.active().remove(&id);
            this.wake.notify_one();
        });
    }

    fn active(&self) -> std::sync::MutexGuard<'_, HashMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot that a job could begin in now, `Some(None)` for one that needs none; `None`: it has to wait.
    #[allow(clippy::option_option)]
    fn room(&self, job: &Job) -> Option<Option<Slot>> {
        let active = self.active();
        let fitting = slot::fitting(job.kind, &job.config, self.base.program.gpus());
        if fitting.is_empty() {
            let beside = active.values().filter(|a| a.slot.is_none()).count();
            return (beside < BESIDE).then_some(None);
        }
        let is_free = |slot: &Slot| active.values().all(|a| a.slot != Some(*slot));
        fitting.into_iter().find(is_free).map(Some)
    }

    /// The slot that a job runs in which this server didn't start.
    fn slot_of(&self, job: &Job) -> Option<Slot> {
        let said = job.plan.as_ref().and_then(|plan| slot::named(&plan.device));
        let fitting = slot::fitting(job.kind, &job.config, self.base.program.gpus());
        said.filter(|slot| fitting.contains(slot)).or(self.room(job).flatten()).or(fitting.first().copied())
    }

    fn waits_for(&self, job: &Job) -> Option<Text> {
        if self.room(job).is_some() {
            return None;
        }
        let fitting = slot::fitting(job.kind, &job.config, self.base.program.gpus());
        let active = self.active();
        let is_before = |a: &Active| a.slot.map_or(fitting.is_empty(), |slot| fitting.contains(&slot));
        let (other, _) = active.iter().find(|(_, a)| is_before(a))?;
        Some(Text::new(format!("Waiting for {other}"), format!("等待 {other} 完成")))
    }

    fn dir(&self, id: &str) -> io::Result<std::path::PathBuf> {
        self.base.home.run(id).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// A new folder under `runs/` by the wished name or that name with a number; never one that is there.
    fn make_folder(&self, wish: &str, known: &HashSet<String>) -> io::Result<String> {
        for number in 1..10_000 {
            let id = if number == 1 { wish.to_owned() } else { format!("{wish}-{number}") };
            // Its folder may be gone, taken away by hand.
            if known.contains(&id) {
                continue;
            }
            match std::fs::create_dir(self.dir(&id)?) {
                Ok(()) => return Ok(id),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn write_spec(&self, record: &Record) -> io::Result<()> {
        let job = &record.job;
        let (config, after) = (job.config.clone(), job.after.clone());
        let spec = Spec { id: job.id.clone(), kind: job.kind, config, after, created_at: job.created_at };
        let dir = self.dir(&job.id)?;
        if !dir.exists() {
            std::fs::create_dir(&dir)?;
        }
        replace_file(&dir.join("spec.json"), &serde_json::to_vec_pretty(&spec)?)
    }
}

fn no_such_checkpoint(wish: &Resume) -> Failure {
    let name = wish.checkpoint.as_deref().unwrap_or_default();
    let problem = Problem::new(
        "no_checkpoint",
        format!("The run has no checkpoint {name}."),
        format!("此运行没有检查点 {name}。"),
    );
    let hint =
        ["Choose one of its list, best, or none for the newest.", "请从列表中选择，或用 best，或留空使用最新的。"];
    Failure::bad(problem.hint(hint[0], hint[1]).field("checkpoint"))
}

fn missing(id: &str) -> Failure {
    Failure::missing(["job", "任务"], id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::home::is_name;
    use api::RunConfig;

    fn wish(name: &str, kind: JobKind, model: &str) -> String {
        let mut config = RunConfig::default();
        config.set("model_name_or_path", model);
        wished_id(kind, name, &config)
    }

    #[test]
    fn ids_are_made_of_names() {
        assert_eq!(wish("My run #1", JobKind::Train, "starter"), "My-run-1");
        assert_eq!(wish("", JobKind::Train, "starter"), "starter-sft");
        assert_eq!(wish("我的模型", JobKind::Train, "/models/SmolLM2.gguf"), "SmolLM2-sft");
        assert_eq!(wish("../../etc", JobKind::Export, "Org/Model-1"), "etc");
        assert_eq!(wish("", JobKind::Pull, "Org/Model-1"), "pull-Model-1");
        assert_eq!(wish("", JobKind::Train, "模型/.."), "sft");
        assert!(is_name(&wish(&"x".repeat(500), JobKind::Train, "")));
    }
}
