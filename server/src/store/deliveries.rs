//! What the webhook still has to be told.

use super::{Change, Result, Store, feed::encode};
use crate::{time::now, webhook::Delivery};
use api::{Job, JobKind, JobState, Problem};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Notify;

/// Messages that are sent in one go.
const AT_ONCE: i64 = 32;

/// The body of a message.
#[derive(Serialize)]
struct Message<'a> {
    event: &'static str,
    /// Seconds since 1970.
    time: f64,
    job: &'a str,
    kind: JobKind,
    state: JobState,
    summary: &'a BTreeMap<String, f64>,
    problem: &'a Option<Problem>,
}

impl Store {
    /// From now on, changes of state are noted for a webhook.
    pub fn with_deliveries(mut self) -> Self {
        self.deliveries = Some(Arc::default());
        self
    }

    /// Wakes when there is something to send.
    pub fn delivery_news(&self) -> Arc<Notify> {
        self.deliveries.clone().unwrap_or_default()
    }

    pub async fn due_deliveries(&self, now: f64) -> Result<Vec<Delivery>> {
        let rows: Vec<(i64, String, u32, f64)> =
            sqlx::query_as("SELECT id, body, tries, made_at FROM deliveries WHERE next_at <= ? ORDER BY id LIMIT ?")
                .bind(now)
                .bind(AT_ONCE)
                .fetch_all(&self.reader)
                .await?;
        Ok(rows.into_iter().map(|(id, body, tries, made_at)| Delivery { id, body, tries, made_at }).collect())
    }

    /// When the next message is due.
    pub async fn next_delivery(&self) -> Result<Option<f64>> {
        sqlx::query_scalar("SELECT min(next_at) FROM deliveries").fetch_one(&self.reader).await
    }

    pub async fn pending_deliveries(&self) -> Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM deliveries").fetch_one(&self.reader).await
    }
}

impl Change {
    /// Whether changes of state are noted.
    pub(super) fn has_listener(&self) -> bool {
        self.deliveries.is_some()
    }

    /// Notes that a job came into a state, if somebody wants to know.
    pub(super) async fn note_state(&mut self, job: &Job) -> Result<()> {
        if !self.has_listener() {
            return Ok(());
        }
        let now = now();
        let Job { id, kind, state, summary, problem, .. } = job;
        let message = Message { event: "job", time: now, job: id, kind: *kind, state: *state, summary, problem };
        sqlx::query("INSERT INTO deliveries (body, next_at, made_at) VALUES (?, ?, ?)")
            .bind(encode(&message)?)
            .bind(now)
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        self.delivers = true;
        Ok(())
    }

    pub async fn forget_delivery(&mut self, id: i64) -> Result<()> {
        sqlx::query("DELETE FROM deliveries WHERE id = ?").bind(id).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// One more try was in vain.
    pub async fn delay_delivery(&mut self, id: i64, until: f64) -> Result<()> {
        sqlx::query("UPDATE deliveries SET tries = tries + 1, next_at = ? WHERE id = ?")
            .bind(until)
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}
