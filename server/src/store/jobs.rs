//! Jobs.

use super::{Change, Result, Store, feed::encode};
use api::{Job, JobState, RunConfig, job::JobKind, job::Progress};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, sqlite::SqliteRow, types::Json};

/// A job with what only the supervisor needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub job: Job,
    /// The worker that last wrote `started`.
    pub worker: Option<Worker>,
    /// Bytes of `events.jsonl` that were applied.
    pub cursor: u64,
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
            created_at,
            started_at: None,
            finished_at: None,
            progress: Progress::default(),
            problem: None,
            plan: None,
            summary: Default::default(),
            artifact: None,
        };
        Self { job, worker: None, cursor: 0 }
    }

    #[cfg(test)]
    pub fn example(id: &str) -> Self {
        Self::new(id.into(), JobKind::Train, RunConfig::default(), 1.0)
    }
}

impl Store {
    pub async fn job(&self, id: &str) -> Result<Option<Record>> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = ?").bind(id).fetch_optional(&self.reader).await?;
        row.as_ref().map(record).transpose()
    }

    /// Newest first.
    pub async fn jobs(&self, limit: i64) -> Result<Vec<Job>> {
        let rows = sqlx::query("SELECT * FROM jobs ORDER BY created_at DESC, id DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(|row| Ok(record(row)?.job)).collect()
    }

    /// Queued jobs, first come first.
    pub async fn queued(&self) -> Result<Vec<Job>> {
        let rows =
            sqlx::query("SELECT * FROM jobs WHERE state = 'queued' ORDER BY place").fetch_all(&self.reader).await?;
        rows.iter().map(|row| Ok(record(row)?.job)).collect()
    }

    /// Each known job with its state and how much of its event file was applied.
    pub async fn cursors(&self) -> Result<Vec<(String, JobState, u64)>> {
        let rows = sqlx::query("SELECT id, state, cursor FROM jobs").fetch_all(&self.reader).await?;
        rows.iter()
            .map(|row| {
                Ok((row.try_get("id")?, from_word(row, "state")?, row.try_get::<i64, _>("cursor")?.unsigned_abs()))
            })
            .collect()
    }
}

impl Change {
    pub async fn job(&mut self, id: &str) -> Result<Option<Record>> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = ?").bind(id).fetch_optional(&mut *self.tx).await?;
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
        self.save_job(record).await
    }

    pub async fn save_job(&mut self, record: &Record) -> Result<()> {
        let job = &record.job;
        sqlx::query(
            "UPDATE jobs SET state = ?, started_at = ?, finished_at = ?, config = ?, progress = ?, problem = ?, plan = ?,
             summary = ?, artifact = ?, pid = ?, pid_start = ?, cursor = ? WHERE id = ?",
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
        .bind(&job.id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Puts a job at the end of the queue.
    pub async fn move_to_end(&mut self, id: &str) -> Result<()> {
        sqlx::query("UPDATE jobs SET place = (SELECT coalesce(max(place), 0) + 1 FROM jobs) WHERE id = ?")
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    pub async fn delete_job(&mut self, id: &str) -> Result<()> {
        sqlx::query("DELETE FROM jobs WHERE id = ?").bind(id).execute(&mut *self.tx).await?;
        Ok(())
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
    Ok(Record { job, worker, cursor: row.try_get::<i64, _>("cursor")?.unsigned_abs() })
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
        change.save_job(&record).await.unwrap();
        change.move_to_end("a").await.unwrap();
        change.commit().await.unwrap();
        assert_eq!(store.job("a").await.unwrap().unwrap(), record);
        let queue: Vec<String> = store.queued().await.unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(queue, ["b", "a"]);
        assert_eq!(store.job("nobody").await.unwrap(), None);
    }
}
