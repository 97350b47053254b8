//! Points of the curves, and checkpoints.

use super::{Change, Result, Store, feed::encode};
use api::job::{Checkpoint, Metric};
use sqlx::Row as _;

impl Store {
    /// Points after step `after`, in order, thinned evenly to about `most`; evaluations and the last point always stay.
    pub async fn metrics(&self, job: &str, after: i64, most: i64) -> Result<Vec<Metric>> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM metrics WHERE job = ? AND step > ? AND kind = 'train'")
                .bind(job)
                .bind(after)
                .fetch_one(&self.reader)
                .await?;
        let evaluations: i64 =
            sqlx::query_scalar("SELECT count(*) FROM metrics WHERE job = ? AND step > ? AND kind = 'eval'")
                .bind(job)
                .bind(after)
                .fetch_one(&self.reader)
                .await?;
        let stride = |count: i64, most: i64| 1.max((count + most - 1) / most.max(1));
        let rows = sqlx::query(
            "SELECT step, epoch, time, value FROM (
                 SELECT *, row_number() OVER (PARTITION BY kind ORDER BY step DESC) - 1 AS age
                 FROM metrics WHERE job = ?1 AND step > ?2)
             WHERE age % iif(kind = 'eval', ?4, ?3) = 0 ORDER BY step, kind DESC",
        )
        .bind(job)
        .bind(after)
        .bind(stride(count, most - most / 4))
        .bind(stride(evaluations, most / 4))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Metric {
                    step: row.try_get::<i64, _>("step")?.unsigned_abs(),
                    epoch: row.try_get("epoch")?,
                    time: row.try_get("time")?,
                    values: row.try_get::<sqlx::types::Json<_>, _>("value")?.0,
                })
            })
            .collect()
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
        assert!((2500..=4000).contains(&all.len()), "{}", all.len());
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
