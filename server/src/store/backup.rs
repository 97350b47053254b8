//! Before a database is brought up to date: one of a newer Lathe is refused, of an older one a copy is kept.

use crate::error::Error;
use sqlx::{ConnectOptions, Connection, SqliteConnection, migrate::Migrator, sqlite::SqliteConnectOptions};
use std::{collections::HashMap, fs, path::Path};

/// Looks without writing. The copy is `lathe.db.backup-VERSION` beside it, named after its last migration.
pub async fn before(path: &Path, options: &SqliteConnectOptions, known: &Migrator) -> Result<(), Error> {
    if fs::metadata(path).map_or(0, |meta| meta.len()) == 0 {
        return Ok(());
    }
    let database = |source| Error::Database { path: path.into(), source };
    let mut connection = options.clone().read_only(true).connect().await.map_err(database)?;
    let applied = applied(&mut connection).await.map_err(database)?;
    let sums: HashMap<i64, &[u8]> = known.iter().map(|m| (m.version, m.checksum.as_ref())).collect();
    let is_ours = |(version, sum): &(i64, Vec<u8>)| sums.get(version) == Some(&sum.as_slice());
    if !applied.iter().all(is_ours) {
        return Err(Error::Newer { path: path.into() });
    }
    let last = applied.iter().map(|(version, _)| *version).max();
    if let Some(last) = last.filter(|_| applied.len() < sums.len()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (backup, part) =
            (path.with_file_name(format!("{name}.backup-{last}")), path.with_file_name(format!("{name}.part")));
        // Left by one that was interrupted.
        let _ = fs::remove_file(&part);
        sqlx::query("VACUUM INTO ?").bind(part.to_string_lossy()).execute(&mut connection).await.map_err(database)?;
        let kept = fs::File::open(&part).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&part, &backup));
        kept.map_err(|source| database(source.into()))?;
        tracing::info!("the database as it was is kept as {}", backup.display());
    }
    connection.close().await.map_err(database)
}

/// The migrations that a database has seen; none if it is another program's or empty.
async fn applied(connection: &mut SqliteConnection) -> sqlx::Result<Vec<(i64, Vec<u8>)>> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_optional(&mut *connection)
        .await?;
    match found {
        None => Ok(Vec::new()),
        Some(_) => sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations").fetch_all(connection).await,
    }
}
