//! Points of the curves, and checkpoints.

use super::{Change, Result, Store, feed::encode};
use api::job::{Checkpoint, Metric};
use sqlx::{Row as _, sqlite::SqliteRow};

// Literals, since only those are safe SQL: of each pair, the second reads the index of evaluations alone. CROSS JOIN keeps
// SQLite from beginning with all points of the job.
const ALL_STEPS: &str =
    "SELECT step, epoch, time, value FROM metrics WHERE job = ? AND step > ? AND kind = 'train' ORDER BY step LIMIT ?";
const ALL_EVALUATIONS: &str =
    "SELECT step, epoch, time, value FROM metrics WHERE job = ? AND step > ? AND kind = 'eval' ORDER BY step LIMIT ?";
const LAST_STEP: &str = "SELECT step FROM metrics WHERE job = ? AND kind = 'train' ORDER BY step DESC LIMIT 1";
const LAST_EVALUATION: &str = "SELECT step FROM metrics WHERE job = ? AND kind = 'eval' ORDER BY step DESC LIMIT 1";
const SOME_STEPS: &str = "WITH RECURSIVE mark (step) AS (
         SELECT ?3 UNION ALL SELECT step - ?4 FROM mark WHERE step > ?2),
     chosen (step) AS (
         SELECT DISTINCT (SELECT m.step FROM metrics m WHERE m.job = ?1 AND m.step <= mark.step AND m.step >= ?2
                          AND m.kind = 'train' ORDER BY m.step DESC LIMIT 1) FROM mark)
     SELECT m.step, epoch, time, value FROM chosen CROSS JOIN metrics m ON m.job = ?1 AND m.step = chosen.step AND m.kind = 'train'
     ORDER BY m.step";
const SOME_EVALUATIONS: &str = "WITH RECURSIVE mark (step) AS (
         SELECT ?3 UNION ALL SELECT step - ?4 FROM mark WHERE step > ?2),
     chosen (step) AS (
         SELECT DISTINCT (SELECT m.step FROM metrics m WHERE m.job = ?1 AND m.step <= mark.step AND m.step >= ?2
                          AND m.kind = 'eval' ORDER BY m.step DESC LIMIT 1) FROM mark)
     SELECT m.step, epoch, time, value FROM chosen CROSS JOIN metrics m ON m.job = ?1 AND m.step = chosen.step AND m.kind = 'eval'
     ORDER BY m.step";

impl Store {
    /// Points after step `after`, in order, thinned evenly to about `most`; the last point always stays, and evaluations
    /// as long as they are few. Of a long run only the rows that are given are read.
    pub async fn metrics(&self, job: &str, after: i64, most: u32) -> Result<Vec<Metric>> {
        let mut points = self.thinned("train", job, after, most - most / 4).await?;
        points.extend(self.thinned("eval", job, after, most / 4).await?);
        // Stable: an evaluation comes behind the training point of its step.
        points.sort_by_key(|point| point.step);
        Ok(points)
    }

    /// Points of one kind: all if they fit, otherwise the next one after each of `most` evenly spaced steps.
    async fn thinned(&self, kind: &'static str, job: &str, after: i64, most: u32) -> Result<Vec<Metric>> {
        let all = if kind == "eval" { ALL_EVALUATIONS } else { ALL_STEPS };
        let rows = sqlx::query(all).bind(job).bind(after).bind(most + 1).fetch_all(&self.reader).await?;
        if rows.len() <= most as usize {
            return rows.iter().map(point).collect();
        }
        let (last, evenly) = if kind == "eval" { (LAST_EVALUATION, SOME_EVALUATIONS) } else { (LAST_STEP, SOME_STEPS) };
        let first: i64 = rows[0].try_get("step")?;
        let last: i64 = sqlx::query_scalar(last).bind(job).fetch_one(&self.reader).await?;
        // Counted back from the last step, so that the curve always reaches it.
        let stride = (last - first) / i64::from(most.max(1)) + 1;
        let rows = sqlx::query(evenly).bind(job).bind(first).bind(last).bind(stride).fetch_all(&self.reader).await?;
        rows.iter().map(point).collect()
    }

    /// Checkpoints that the run told of, by step; `path` is empty, only the folder knows whether they still stand.
    pub async fn checkpoints(&self, job: &str) -> Result<Vec<Checkpoint>> {
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT name, step, bytes FROM checkpoints WHERE job = ? ORDER BY step, name")
                .bind(job)
                .fetch_all(&self.reader)
                .await?;
        Ok(rows
            .into_iter()
            .map(|(name, step, bytes)| Checkpoint {
                name,
                step: step.unsigned_abs(),
                bytes: bytes.unsigned_abs(),
                path: String::new(),
            })
            .collect())
    }
}

impl Change {
    /// Adds a point. A run that went back to a checkpoint makes its steps again: what lay after the point goes.
    pub async fn add_metric(&mut self, job: &str, metric: &Metric) -> Result<()> {
        let kind = if metric.is_validation() { "eval" } else { "train" };
        sqlx::query("DELETE FROM metrics WHERE job = ? AND step > ? AND kind = ?")
            .bind(job)
            .bind(signed(metric.step))
            .bind(kind)
            .execute(&mut *self.tx)
            .await?;
        sqlx::query(
            "INSERT INTO metrics (job, step, kind, epoch, time, value) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET epoch = excluded.epoch, time = excluded.time, value = excluded.value",
        )
        .bind(job)
        .bind(signed(metric.step))
        .bind(kind)
        .bind(metric.epoch)
        .bind(metric.time)
        .bind(encode(&metric.values)?)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    pub async fn add_checkpoint(&mut self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        sqlx::query(
            "INSERT INTO checkpoints (job, name, step, bytes) VALUES (?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET step = excluded.step, bytes = excluded.bytes",
        )
        .bind(job)
        .bind(&checkpoint.name)
        .bind(signed(checkpoint.step))
        .bind(signed(checkpoint.bytes))
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Takes out what the event file said, to read it again from its first line.
    pub async fn forget_events(&mut self, job: &str) -> Result<()> {
        sqlx::query("DELETE FROM metrics WHERE job = ?").bind(job).execute(&mut *self.tx).await?;
        sqlx::query("DELETE FROM checkpoints WHERE job = ?").bind(job).execute(&mut *self.tx).await?;
        Ok(())
    }
}

fn point(row: &SqliteRow) -> Result<Metric> {
    Ok(Metric {
        step: row.try_get::<i64, _>("step")?.unsigned_abs(),
        epoch: row.try_get("epoch")?,
        time: row.try_get("time")?,
        values: row.try_get::<sqlx::types::Json<_>, _>("value")?.0,
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Record;

    fn point(step: u64, name: &str, value: f64) -> Metric {
        Metric { step, epoch: 0.0, time: 0.0, values: [(name.to_owned(), value)].into() }
    }

    #[tokio::test]
    async fn steps_made_again_replace_and_curves_are_thinned() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("lathe.db")).await.unwrap();
        let mut change = store.begin().await.unwrap();
        change.insert_job(&Record::example("a")).await.unwrap();
        for step in 1..=9000 {
            change.add_metric("a", &point(step, "loss", 1.0)).await.unwrap();
        }
        change.add_metric("a", &point(50, "eval_loss", 2.0)).await.unwrap();
        change.commit().await.unwrap();
        let all = store.metrics("a", 0, 4000).await.unwrap();
        assert!((2500..=4001).contains(&all.len()), "{}", all.len());
        assert_eq!(all.last().unwrap().step, 9000);
        assert_eq!(all.iter().filter(|m| m.values.contains_key("eval_loss")).count(), 1);
        let mut change = store.begin().await.unwrap();
        change.add_metric("a", &point(40, "loss", 3.0)).await.unwrap();
        change.add_metric("a", &point(40, "loss", 3.0)).await.unwrap();
        change.commit().await.unwrap();
        let all = store.metrics("a", 38, 4000).await.unwrap();
        assert_eq!(all.iter().map(|m| m.step).collect::<Vec<_>>(), [39, 40, 50]);
        assert_eq!(all[1].values["loss"], 3.0);
    }
}
