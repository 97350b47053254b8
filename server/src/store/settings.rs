//! What the studio is told once and keeps.

use super::{Change, Result, Store};

const PAUSED: &str = "queue_paused";

impl Store {
    /// Whether the queue is paused.
    pub async fn is_paused(&self) -> Result<bool> {
        let value: Option<String> = sqlx::query_scalar("SELECT value FROM settings WHERE name = ?")
            .bind(PAUSED)
            .fetch_optional(&self.reader)
            .await?;
        Ok(value.is_some())
    }
}

impl Change {
    pub async fn set_paused(&mut self, paused: bool) -> Result<()> {
        let query = match paused {
            true => sqlx::query("INSERT INTO settings (name, value) VALUES (?, 'yes') ON CONFLICT DO NOTHING"),
            false => sqlx::query("DELETE FROM settings WHERE name = ?"),
        };
        query.bind(PAUSED).execute(&mut *self.tx).await?;
        Ok(())
    }
}
