//! Jobs.

use super::{Change, Result, Store, feed::encode};
use crate::supervisor::Attempts;
use api::{
    Job, JobState, RunConfig,
    job::{Feed, JobKind, Progress},
    queue::Priority,
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{QueryBuilder, Row as _, Sqlite, sqlite::SqliteRow, types::Json};

/// A job with what only the supervisor needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub job: Job,
    /// The worker that last wrote `started`.
    pub worker: Option<Worker>,
    /// Bytes of `events.jsonl` that were applied.
    pub cursor: u64,
    /// Whether the queue started it and no person stopped it: then it starts again by itself.
    pub restarts: bool,
    pub attempts: Attempts,
}

/// Which jobs are listed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub limit: u32,
    /// Only those made before this time, or at it with a smaller id.
    pub before: Option<(f64, String)>,
    pub kind: Option<JobKind>,
    pub state: Option<JobState>,
    /// Words that the id or the configuration must all contain, whatever their case.
    pub words: Vec<String>,
}

/// A process, safe against a reused pid by its start time in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    pub pid: u32,
    pub start: u64,
}

impl Record {
    pub fn new(id: String, kind: JobKind, config: RunConfig, created_at: f64) -> Self {
        let job = Job {
            id,
            kind,
            state: JobState::Queued,
            config,
            after: None,
            priority: Priority::default(),
            restart: None,
            created_at,
            started_at: None,
            finished_at: None,
            progress: Progress::default(),
            problem: None,
            plan: None,
            summary: Default::default(),
            artifact: None,
        };
        Self { job, worker: None, cursor: 0, restarts: false, attempts: Attempts::default() }
    }

    #[cfg(test)]
    pub fn example(id: &str) -> Self {
        Self::new(id.into(), JobKind::Train, RunConfig::default(), 1.0)
    }
}

impl Store {
    pub async fn job(&self, id: &str) -> Result<Option<Record>> {
        let row =
            sqlx::query("SELECT * FROM jobs WHERE id = ? AND NOT doomed").bind(id).fetch_optional(&self.reader).await?;
        row.as_ref().map(record).transpose()
    }

    /// Whether a job has this id, or had it and isn't quite gone.
    pub async fn is_taken(&self, id: &str) -> Result<bool> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM jobs WHERE id = ?").bind(id).fetch_optional(&self.reader).await?;
        Ok(found.is_some())
    }

    /// Newest first.
    pub async fn jobs(&self, wanted: &Wanted) -> Result<Vec<Job>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM jobs WHERE NOT doomed");
        if let Some((time, id)) = &wanted.before {
            // Whoever read the time as JSON may have rounded its last bit: as long as the job is there, its own counts.
            query.push(" AND (created_at, id) < (coalesce((SELECT created_at FROM jobs WHERE id = ").push_bind(id);
            query.push("), ").push_bind(time).push("), ").push_bind(id).push(")");
        }
        if let Some(kind) = &wanted.kind {
            query.push(" AND kind = ").push_bind(word(kind)?);
        }
        if let Some(state) = &wanted.state {
            query.push(" AND state = ").push_bind(word(state)?);
        }
        for word in &wanted.words {
            // Not LIKE: its pattern has characters of its own.
            query.push(" AND instr(lower(id || ' ' || config), ").push_bind(word.to_lowercase()).push(") > 0");
        }
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(wanted.limit);
        let rows = query.build().fetch_all(&self.reader).await?;
        rows.iter().map(|row| Ok(record(row)?.job)).collect()
    }

    /// Queued jobs, the next one first.
    pub async fn queued(&self) -> Result<Vec<Job>> {
        let rows =
            sqlx::query("SELECT * FROM jobs WHERE state = 'queued' AND NOT doomed ORDER BY priority DESC, place")
                .fetch_all(&self.reader)
                .await?;
        rows.iter().map(|row| Ok(record(row)?.job)).collect()
    }

    /// Jobs that start again by themselves.
    pub async fn to_restart(&self) -> Result<Vec<Record>> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE state = 'interrupted' AND restart IS NOT NULL AND NOT doomed")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(record).collect()
    }

    /// Each known job, deleted ones too, with its state and how much of its event file was applied.
    pub async fn cursors(&self) -> Result<Vec<(String, JobState, u64)>> {
        let rows = sqlx::query("SELECT id, state, cursor FROM jobs").fetch_all(&self.reader).await?;
        rows.iter()
            .map(|row| {
                Ok((row.try_get("id")?, from_word(row, "state")?, row.try_get::<i64, _>("cursor")?.unsigned_abs()))
            })
            .collect()
    }

    /// How many jobs are in each state.
    pub async fn count_by_state(&self) -> Result<Vec<(String, i64)>> {
        sqlx::query_as("SELECT state, count(*) FROM jobs WHERE NOT doomed GROUP BY state").fetch_all(&self.reader).await
    }

    /// Deleted jobs that still have rows.
    pub async fn doomed(&self) -> Result<Vec<String>> {
        sqlx::query_scalar("SELECT id FROM jobs WHERE doomed").fetch_all(&self.reader).await
    }
}

impl Change {
    pub async fn job(&mut self, id: &str) -> Result<Option<Record>> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = ? AND NOT doomed")
            .bind(id)
            .fetch_optional(&mut *self.tx)
            .await?;
        row.as_ref().map(record).transpose()
    }

    pub async fn insert_job(&mut self, record: &Record) -> Result<()> {
        sqlx::query(
            "INSERT INTO jobs (id, kind, state, place, after, created_at, config, progress, summary)
             VALUES (?, ?, ?, (SELECT coalesce(max(place), 0) + 1 FROM jobs), ?, ?, '{}', '{}', '{}')",
        )
        .bind(&record.job.id)
        .bind(word(&record.job.kind)?)
        .bind(word(&record.job.state)?)
        .bind(&record.job.after)
        .bind(record.job.created_at)
        .execute(&mut *self.tx)
        .await?;
        self.note_state(&record.job).await?;
        self.save_job(record).await
    }

    /// Saves a job, and tells the pages of it.
    pub async fn put(&mut self, record: &Record) -> Result<()> {
        self.save_job(record).await?;
        self.tell(&Feed::Job { job: Box::new(record.job.clone()) }).await
    }

    pub async fn save_job(&mut self, record: &Record) -> Result<()> {
        let job = &record.job;
        if self.has_listener() {
            let before: Option<String> = sqlx::query_scalar("SELECT state FROM jobs WHERE id = ?")
                .bind(&job.id)
                .fetch_optional(&mut *self.tx)
                .await?;
            if before.is_some_and(|before| word(&job.state).is_ok_and(|now| now != before)) {
                self.note_state(job).await?;
            }
        }
        sqlx::query(
            "UPDATE jobs SET state = ?, started_at = ?, finished_at = ?, config = ?, progress = ?, problem = ?, plan = ?,
             summary = ?, artifact = ?, pid = ?, pid_start = ?, cursor = ?, priority = ?, restarts = ?, restart = ?,
             attempts = ? WHERE id = ?",
        )
        .bind(word(&job.state)?)
        .bind(job.started_at)
        .bind(job.finished_at)
        .bind(encode(&job.config)?)
        .bind(encode(&job.progress)?)
        .bind(job.problem.as_ref().map(encode).transpose()?)
        .bind(job.plan.as_ref().map(encode).transpose()?)
        .bind(encode(&job.summary)?)
        .bind(&job.artifact)
        .bind(record.worker.map(|w| i64::from(w.pid)))
        .bind(record.worker.map(|w| w.start.cast_signed()))
        .bind(i64::try_from(record.cursor).unwrap_or(i64::MAX))
        .bind(rank(job.priority))
        .bind(record.restarts)
        .bind(job.restart.as_ref().map(encode).transpose()?)
        .bind(encode(&record.attempts)?)
        .bind(&job.id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Puts a job at the end of the queue, behind those of its priority.
    pub async fn move_to_end(&mut self, id: &str) -> Result<()> {
        sqlx::query("UPDATE jobs SET place = (SELECT coalesce(max(place), 0) + 1 FROM jobs) WHERE id = ?")
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Hides a job; [`erase`](Self::erase) then takes it out.
    pub async fn doom_job(&mut self, id: &str) -> Result<()> {
        sqlx::query("UPDATE jobs SET doomed = 1 WHERE id = ?").bind(id).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Takes out a hidden job, points first, some thousands at once; true when it is gone.
    pub async fn erase(&mut self, id: &str) -> Result<bool> {
        const PIECE: i64 = 5000;
        let last: Option<i64> =
            sqlx::query_scalar("SELECT step FROM metrics WHERE job = ? ORDER BY step LIMIT 1 OFFSET ?")
                .bind(id)
                .bind(PIECE)
                .fetch_optional(&mut *self.tx)
                .await?;
        if let Some(last) = last {
            sqlx::query("DELETE FROM metrics WHERE job = ? AND step <= ?")
                .bind(id)
                .bind(last)
                .execute(&mut *self.tx)
                .await?;
            return Ok(false);
        }
        sqlx::query("DELETE FROM jobs WHERE id = ? AND doomed").bind(id).execute(&mut *self.tx).await?;
        Ok(true)
    }
}

/// A priority as a number: the higher, the sooner.
fn rank(priority: Priority) -> i64 {
    match priority {
        Priority::Low => -1,
        Priority::Normal => 0,
        Priority::High => 1,
    }
}

fn of_rank(rank: i64) -> Priority {
    match rank {
        ..=-1 => Priority::Low,
        0 => Priority::Normal,
        1.. => Priority::High,
    }
}

fn record(row: &SqliteRow) -> Result<Record> {
    fn json<T: DeserializeOwned + Send + Unpin + 'static>(row: &SqliteRow, column: &str) -> Result<Option<T>> {
        Ok(row.try_get::<Option<Json<T>>, _>(column)?.map(|json| json.0))
    }
    let job = Job {
        id: row.try_get("id")?,
        kind: from_word(row, "kind")?,
        state: from_word(row, "state")?,
        config: json(row, "config")?.unwrap_or_default(),
        after: row.try_get("after")?,
        priority: of_rank(row.try_get("priority")?),
        restart: json(row, "restart")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        progress: json(row, "progress")?.unwrap_or_default(),
        problem: json(row, "problem")?,
        plan: json(row, "plan")?,
        summary: json(row, "summary")?.unwrap_or_default(),
        artifact: row.try_get("artifact")?,
    };
    let pid: Option<i64> = row.try_get("pid")?;
    let start: Option<i64> = row.try_get("pid_start")?;
    let worker = pid
        .zip(start)
        .and_then(|(pid, start)| Some(Worker { pid: u32::try_from(pid).ok()?, start: start.cast_unsigned() }));
    Ok(Record {
        job,
        worker,
        cursor: row.try_get::<i64, _>("cursor")?.unsigned_abs(),
        restarts: row.try_get("restarts")?,
        attempts: json(row, "attempts")?.unwrap_or_default(),
    })
}

/// The word that stands for a kind or state in JSON, and so in SQL.
fn word<T: Serialize>(value: &T) -> Result<String> {
    Ok(encode(value)?.trim_matches('"').to_owned())
}

fn from_word<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T> {
    let text: String = row.try_get(column)?;
    serde_json::from_value(text.into()).map_err(|e| sqlx::Error::Decode(e.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use api::Problem;

    #[tokio::test]
    async fn a_job_comes_back_as_it_was_saved() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("lathe.db")).await.unwrap();
        let mut record = Record::example("a");
        record.job.after = Some("b".into());
        let mut change = store.begin().await.unwrap();
        change.insert_job(&record).await.unwrap();
        change.insert_job(&Record::example("b")).await.unwrap();
        record.job.config.set("learning_rate", 1e-4);
        record.job.progress.latest.insert("loss".into(), 0.1 + 0.2);
        record.job.problem = Some(Problem::new("x", "x", "叉").hint("y", "歪"));
        record.worker = Some(Worker { pid: 7, start: u64::MAX });
        record.cursor = 12;
        record.restarts = true;
        record.attempts = Attempts { count: 2, furthest: 9, from: 7, out_of_memory: true };
        record.job.priority = Priority::Low;
        record.job.restart = Some(api::queue::Restart { attempt: 3, of: 5, at: 0.1 });
        change.save_job(&record).await.unwrap();
        change.move_to_end("a").await.unwrap();
        change.commit().await.unwrap();
        assert_eq!(store.job("a").await.unwrap().unwrap(), record);
        let queue: Vec<String> = store.queued().await.unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(queue, ["b", "a"]);
        let mut change = store.begin().await.unwrap();
        record.job.priority = Priority::High;
        change.save_job(&record).await.unwrap();
        change.commit().await.unwrap();
        let queue: Vec<String> = store.queued().await.unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(queue, ["a", "b"]);
        assert_eq!(store.job("nobody").await.unwrap(), None);
    }
}
