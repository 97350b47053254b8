//! The feed: what pages are told, in order, numbered without gaps. The newest rows are also kept in memory, so that
//! many pages that follow cost no query.

use super::{Change, Result, Store};
use api::job::Feed;
use sqlx::SqlitePool;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// One message: its number and its JSON.
pub type Row = (i64, Arc<str>);

/// Rows kept in memory, and rows kept in the database.
const RECENT: usize = 512;
const KEPT: i64 = 4000;

pub struct Feeds {
    recent: Mutex<VecDeque<Row>>,
    newest: watch::Sender<i64>,
}

impl Feeds {
    pub(super) fn new(newest: i64) -> Self {
        Self { recent: Mutex::default(), newest: watch::Sender::new(newest) }
    }

    /// The number of the newest row; changes when one comes.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }

    pub fn newest(&self) -> i64 {
        *self.newest.borrow()
    }

    pub(super) fn publish(&self, rows: Vec<Row>) {
        let (Some(first), Some(last)) = (rows.first().map(|r| r.0), rows.last().map(|r| r.0)) else { return };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.back().is_some_and(|row| row.0 + 1 != first) {
            recent.clear();
        }
        recent.extend(rows);
        let surplus = recent.len().saturating_sub(RECENT);
        recent.drain(..surplus);
        drop(recent);
        self.newest.send_replace(last);
    }

    /// Rows after `seq`, if memory still holds all of them.
    fn after(&self, seq: i64) -> Option<Vec<Row>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let first = recent.front()?.0;
        let skip = usize::try_from(seq.checked_add(1)?.checked_sub(first)?).ok()?;
        Some(recent.iter().skip(skip).cloned().collect())
    }
}

impl Store {
    /// Up to 256 rows after `seq`, oldest first.
    pub async fn feed_after(&self, seq: i64) -> Result<Vec<Row>> {
        if let Some(rows) = self.feeds.after(seq) {
            return Ok(rows);
        }
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT seq, body FROM feed WHERE seq > ? ORDER BY seq LIMIT 256")
                .bind(seq)
                .fetch_all(&self.reader)
                .await?;
        Ok(rows.into_iter().map(|(seq, body)| (seq, body.into())).collect())
    }

    /// The number of the oldest row that is kept.
    pub async fn feed_oldest(&self) -> Result<i64> {
        sqlx::query_scalar("SELECT coalesce(min(seq), 0) FROM feed").fetch_one(&self.reader).await
    }

    /// Tells the pages something that stands in no other table.
    pub async fn tell(&self, feed: &Feed) -> Result<()> {
        let mut change = self.begin().await?;
        change.tell(feed).await?;
        change.commit().await
    }
}

impl Change {
    /// Tells the pages, once this change is committed.
    pub async fn tell(&mut self, feed: &Feed) -> Result<()> {
        let body = encode(feed)?;
        let seq = sqlx::query("INSERT INTO feed (body) VALUES (?)")
            .bind(&body)
            .execute(&mut *self.tx)
            .await?
            .last_insert_rowid();
        if seq % 128 == 0 {
            sqlx::query("DELETE FROM feed WHERE seq <= ?").bind(seq - KEPT).execute(&mut *self.tx).await?;
        }
        self.rows.push((seq, body.into()));
        Ok(())
    }
}

pub(super) async fn newest(reader: &SqlitePool) -> Result<i64> {
    sqlx::query_scalar("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'feed'), 0)")
        .fetch_one(reader)
        .await
}

/// JSON for a text column.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| sqlx::Error::Encode(e.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn changed(what: &str) -> Feed {
        Feed::Changed { what: what.into() }
    }

    #[tokio::test]
    async fn numbers_have_no_gaps_and_old_rows_go() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("lathe.db")).await.unwrap();
        let mut lost = store.begin().await.unwrap();
        lost.tell(&changed("lost")).await.unwrap();
        drop(lost);
        let mut change = store.begin().await.unwrap();
        for _ in 0..KEPT + 300 {
            change.tell(&changed("x")).await.unwrap();
        }
        assert_eq!(store.feeds().newest(), 0, "nothing is told before the commit");
        change.commit().await.unwrap();
        assert_eq!(store.feeds().newest(), KEPT + 300);
        assert!(store.feed_oldest().await.unwrap() > 100);
        let mut seq = store.feed_oldest().await.unwrap();
        while seq < store.feeds().newest() {
            for row in store.feed_after(seq).await.unwrap() {
                assert_eq!(row.0, seq + 1);
                seq = row.0;
            }
        }
        assert!(store.feed_after(seq).await.unwrap().is_empty());
    }
}
