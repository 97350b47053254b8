//! The queue and the workers. One training, export or making of data at a time on each device, in the order asked;
//! what waits for other computers runs beside them: downloads, and teachers behind servers.

mod adopt;
mod apply;
mod beats;
mod chain;
mod ending;
mod follower;
mod pull;
mod queue;
mod restart;
mod schedule;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod simulation;
mod slot;
mod states;
mod watch;

pub use restart::{Attempts, Restarts};
pub use slot::Slot;
pub use watch::checkpoints;

use crate::{
    error::{Failure, Reply},
    home::replace_file,
    state::Base,
    store::Record,
    teacher,
    time::now,
};
use api::{
    Job, JobKind, JobState, Problem, Text,
    job::{Feed, NewJob, Resume, Spec, wished_id},
    queue::Queue,
};
use serde_json::Value;
use states::{Cause, advance};
use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Notify, watch::Sender};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use watch::{Life, watch};

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
    /// The queue as pages were last told of it.
    told: Arc<Mutex<Queue>>,
    /// True once all runs that were there at the start are known.
    is_ready: Sender<bool>,
    restarts: Restarts,
    /// From SIGTERM to SIGKILL.
    stop_limit: Duration,
}

struct Active {
    /// None where none is needed.
    slot: Option<Slot>,
    stop: CancellationToken,
}

impl Supervisor {
    pub fn new(base: Base, restarts: Restarts, stop_limit: Duration) -> Self {
        Self {
            base,
            active: Arc::default(),
            wake: Arc::default(),
            gate: Arc::default(),
            told: Arc::default(),
            is_ready: Sender::new(false),
            restarts,
            stop_limit,
        }
    }

    /// Whether what an earlier server left is taken up.
    pub fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// Waits until it is.
    pub async fn ready(&self) {
        let _ = self.is_ready.subscribe().wait_for(|is_ready| *is_ready).await;
    }

    /// Jobs that run now.
    pub fn running(&self) -> usize {
        self.active().len()
    }

    /// Takes up what an earlier server left, then serves the queue for ever.
    pub async fn run(self) {
        self.erase_doomed();
        loop {
            self.adopt().await;
            self.is_ready.send_replace(true);
            let next_scan = tokio::time::Instant::now() + SCAN;
            loop {
                let again = match self.claim().await {
                    Ok(again) => again.map(|left| tokio::time::Instant::now() + left),
                    Err(error) => {
                        tracing::error!("queue: {error}");
                        None
                    }
                };
                let until = again.map_or(next_scan, |at| at.min(next_scan));
                if tokio::time::timeout_at(until, self.wake.notified()).await.is_err() && until == next_scan {
                    break;
                }
            }
        }
    }

    /// Puts a job in the queue: folder, row, spec.
    pub async fn create(&self, new: NewJob) -> Reply<Job> {
        let _gate = self.gate.lock().await;
        self.room_in_queue(1).await?;
        let record = self.fresh(new).await?;
        self.enqueue(&[&record]).await?;
        self.with_reason(record.job).await
    }

    /// A job with a folder of its own, known to nobody yet.
    async fn fresh(&self, new: NewJob) -> Reply<Record> {
        let id = self.make_folder(&wished_id(new.kind, &new.name, &new.config)).await?;
        let mut record = Record::new(id, new.kind, new.config, now());
        (record.job.priority, record.restarts) = (new.priority, true);
        Ok(record)
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
            self.note(record)?;
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Takes a waiting job out of the queue, or asks a running one to save and end.
    pub async fn stop(&self, id: &str) -> Reply<Job> {
        let _gate = self.gate.lock().await;
        let mut change = self.base.store.begin().await?;
        let mut record = change.job(id).await?.ok_or_else(|| missing(id))?;
        if record.job.state == JobState::Stopping {
            return Ok(record.job);
        }
        let waits = record.job.state != JobState::Interrupted || record.job.restart.is_some();
        if !waits || !advance(&mut record.job, Cause::StopAsked, now()) {
            let problem = Problem::new(
                "job_not_active",
                format!("Job {id} neither waits nor runs."),
                format!("任务 {id} 既未排队也未运行。"),
            );
            return Err(Failure::conflict(problem.hint("There is nothing to stop.", "无需停止。")));
        }
        record.restarts = false;
        if record.job.state == JobState::Stopping {
            record.job.progress.status = Some(Text::new("Stopping, saving first", "正在停止，先保存"));
        }
        change.put(&record).await?;
        change.commit().await?;
        self.note(&record)?;
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
        if self.active().contains_key(id) || !advance(&mut record.job, Cause::Resumed, now()) {
            let problem = Problem::new(
                "job_not_resumable",
                format!("Job {id} can't be resumed: it is not stopped, failed or interrupted."),
                format!("任务 {id} 无法继续：它并未停止、失败或中断。"),
            );
            let hint = ["Start a new run to train further.", "如需继续训练，请新建运行。"];
            return Err(Failure::conflict(problem.hint(hint[0], hint[1])));
        }
        if record.job.kind == JobKind::Train {
            let dir = self.dir(id).map_err(|e| Failure::io(["Finding the run folder", "查找运行文件夹"], &e))?;
            record.job.config = wish.apply(&record.job.config, &dir).ok_or_else(|| no_such_checkpoint(wish))?;
        }
        record.worker = None;
        (record.restarts, record.attempts.count) = (true, 0);
        change.put(&record).await?;
        change.move_to_end(id).await?;
        change.commit().await?;
        self.queued(record).await
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
        let trashing = move || home.trash_run(&owned).map(|trash| (home, trash));
        let trashed = tokio::task::spawn_blocking(trashing).await.map_err(Failure::internal)?;
        let (home, trash) = trashed.map_err(|e| Failure::io(["Deleting the run folder", "删除运行文件夹"], &e))?;
        // Gigabytes of checkpoints take their time; what a server leaves of it goes at the next start.
        tokio::task::spawn_blocking(move || trash.map(|trash| home.empty(&trash)));
        let mut change = self.base.store.begin().await?;
        change.doom_job(id).await?;
        change.tell(&Feed::Gone { job: id.to_owned() }).await?;
        change.tell(&Feed::Changed { what: "models".into() }).await?;
        change.commit().await?;
        self.erase_doomed();
        Ok(())
    }

    /// Takes deleted jobs out of the database, piece by piece: a long run has a million points, and others write, too.
    fn erase_doomed(&self) {
        let store = self.base.store.clone();
        tokio::spawn(async move {
            let erase = async {
                for id in store.doomed().await? {
                    let mut is_gone = false;
                    while !is_gone {
                        let mut change = store.begin().await?;
                        is_gone = change.erase(&id).await?;
                        change.commit().await?;
                    }
                }
                Ok::<_, sqlx::Error>(())
            };
            if let Err(error) = erase.await {
                tracing::warn!("deleted jobs: {error}");
            }
        });
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
            let span = tracing::info_span!("job", id);
            let inner = tokio::spawn(watch(this.clone(), id.clone(), dir, life, stop).instrument(span));
            if let Err(error) = inner.await {
                tracing::error!("{id}: {error}");
            }
            this.active().remove(&id);
            this.wake.notify_one();
        });
    }

    fn dir(&self, id: &str) -> io::Result<std::path::PathBuf> {
        self.base.home.run(id).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// A new folder under `runs/` by the wished name or that name with a number; never one that is there.
    async fn make_folder(&self, wish: &str) -> Reply<String> {
        let failed = |error| Failure::io(["Making the run folder", "创建运行文件夹"], &error);
        for number in 1..10_000 {
            let id = if number == 1 { wish.to_owned() } else { format!("{wish}-{number}") };
            // Its folder may be gone, taken away by hand.
            if self.base.store.is_taken(&id).await? {
                continue;
            }
            match std::fs::create_dir(self.dir(&id).map_err(failed)?) {
                Ok(()) => return Ok(id),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
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
