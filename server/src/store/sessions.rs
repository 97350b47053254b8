//! Conversations that are kept.

use super::{Change, Result, Store};
use api::session::{Session, SessionContent, SessionInfo};
use sqlx::{Row, sqlite::SqliteRow, types::Json};

/// So many are listed, the last changed first.
const LISTED: i64 = 500;

impl Store {
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let query =
            "SELECT id, title, created_at, changed_at, messages FROM sessions ORDER BY changed_at DESC, id LIMIT ?";
        let info = |row: SqliteRow| {
            Ok(SessionInfo {
                id: row.try_get("id")?,
                title: row.try_get("title")?,
                created_at: row.try_get("created_at")?,
                changed_at: row.try_get("changed_at")?,
                messages: row.try_get::<i64, _>("messages")?.unsigned_abs(),
            })
        };
        sqlx::query(query).bind(LISTED).try_map(info).fetch_all(&self.reader).await
    }

    pub async fn session(&self, id: &str) -> Result<Option<Session>> {
        let session = |row: SqliteRow| {
            let Json(content) = row.try_get::<Json<SessionContent>, _>("body")?;
            Ok(Session {
                id: row.try_get("id")?,
                created_at: row.try_get("created_at")?,
                changed_at: row.try_get("changed_at")?,
                content,
            })
        };
        let query = "SELECT id, created_at, changed_at, body FROM sessions WHERE id = ?";
        sqlx::query(query).bind(id).try_map(session).fetch_optional(&self.reader).await
    }

    /// Keeps a conversation, in the place of what was kept of it.
    pub async fn keep_session(&self, session: &Session) -> Result<()> {
        let mut change = self.begin().await?;
        change.keep_session(session).await?;
        change.commit().await
    }

    /// Whether there was one.
    pub async fn forget_session(&self, id: &str) -> Result<bool> {
        let mut change = self.begin().await?;
        let deleted = sqlx::query("DELETE FROM sessions WHERE id = ?").bind(id).execute(&mut *change.tx).await?;
        change.commit().await?;
        Ok(deleted.rows_affected() > 0)
    }
}

impl Change {
    async fn keep_session(&mut self, session: &Session) -> Result<()> {
        let query = "INSERT INTO sessions (id, title, created_at, changed_at, messages, body) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET title = excluded.title, changed_at = excluded.changed_at,
            messages = excluded.messages, body = excluded.body";
        sqlx::query(query)
            .bind(&session.id)
            .bind(&session.content.title)
            .bind(session.created_at)
            .bind(session.changed_at)
            .bind(i64::try_from(session.content.messages.len()).unwrap_or(i64::MAX))
            .bind(Json(&session.content))
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}
