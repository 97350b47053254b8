//! All SQL of Lathe. SQLite in WAL mode: one connection writes, a few read. Every write is one `BEGIN IMMEDIATE`
//! transaction, a [`Change`], and what it tells the pages is sent on only after it is committed.

mod backup;
mod deliveries;
#[cfg(test)]
mod faults;
mod feed;
pub mod history;
mod jobs;
mod metrics;
mod sessions;
mod settings;

pub use feed::{Feeds, Row};
pub use jobs::{Record, Wanted, Worker};

use crate::error::Error;
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The oldest SQLite without the WAL-reset fault (sqlite.org, release 3.51.3).
const OLDEST_SQLITE: [u64; 3] = [3, 51, 3];

pub type Result<T> = std::result::Result<T, sqlx::Error>;

#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    turn: Arc<Mutex<()>>,
    feeds: Arc<Feeds>,
    /// Wakes the webhook; nothing if there is none.
    deliveries: Option<Arc<Notify>>,
}

/// A transaction that writes. Dropped without [`commit`](Self::commit), nothing of it happened.
pub struct Change {
    tx: Transaction<'static, Sqlite>,
    feeds: Arc<Feeds>,
    rows: Vec<Row>,
    deliveries: Option<Arc<Notify>>,
    /// Whether something for the webhook is among it.
    delivers: bool,
    // Last: the next writer begins only after the rows of this one were sent on.
    _turn: OwnedMutexGuard<()>,
}

impl Store {
    /// Opens or makes the database and brings it up to date; a copy of it as it was is kept before. One that a newer Lathe
    /// wrote is refused unchanged.
    pub async fn open(path: &Path) -> std::result::Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true)
            .statement_cache_capacity(64);
        let database = |source| Error::Database { path: path.into(), source };
        backup::before(path, &options, &MIGRATIONS).await?;
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone().create_if_missing(true))
            .await
            .map_err(database)?;
        let version: String =
            sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&writer).await.map_err(database)?;
        if !is_new_enough(&version) {
            return Err(Error::Sqlite { version });
        }
        MIGRATIONS.run(&writer).await.map_err(|error| match error {
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => Error::Newer { path: path.into() },
            MigrateError::Execute(source) => database(source),
            other => database(sqlx::Error::Migrate(Box::new(other))),
        })?;
        let reader = SqlitePoolOptions::new()
            .max_connections(3)
            .min_connections(0)
            .idle_timeout(Duration::from_secs(60))
            .connect_with(options.read_only(true))
            .await
            .map_err(database)?;
        let newest = feed::newest(&reader).await.map_err(database)?;
        let feeds = Arc::new(Feeds::new(newest));
        Ok(Self { writer, reader, turn: Arc::default(), feeds, deliveries: None })
    }

    /// Begins to write; waits for the writer before.
    pub async fn begin(&self) -> Result<Change> {
        let turn = self.turn.clone().lock_owned().await;
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let (feeds, deliveries) = (self.feeds.clone(), self.deliveries.clone());
        Ok(Change { tx, feeds, rows: Vec::new(), deliveries, delivers: false, _turn: turn })
    }

    pub fn feeds(&self) -> &Arc<Feeds> {
        &self.feeds
    }

    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

impl Change {
    pub async fn commit(self) -> Result<()> {
        self.tx.commit().await?;
        self.feeds.publish(self.rows);
        if let Some(news) = self.deliveries.filter(|_| self.delivers) {
            news.notify_one();
        }
        Ok(())
    }
}

fn is_new_enough(version: &str) -> bool {
    let numbers: Vec<u64> = version.split('.').map_while(|part| part.parse().ok()).collect();
    numbers.as_slice() >= OLDEST_SQLITE.as_slice()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sqlite_is_one_without_the_wal_reset_fault() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("lathe.db")).await.unwrap();
        let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&store.reader).await.unwrap();
        assert!(is_new_enough(&version), "{version}");
        for (version, good) in
            [("3.51.3", true), ("3.52.0", true), ("4.0.0", true), ("3.51.2", false), ("3.9.9", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), good, "{version}");
        }
    }

    #[tokio::test]
    async fn a_database_of_a_newer_lathe_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lathe.db");
        let store = Store::open(&path).await.unwrap();
        sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99999999999999, 'x', 1, x'00', 0)")
            .execute(&store.writer)
            .await
            .unwrap();
        store.close().await;
        assert!(matches!(Store::open(&path).await, Err(Error::Newer { .. })));
    }
}
