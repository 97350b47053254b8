//! Conversations that are kept: how they begin, change and are found. The Chat tab and the WebSocket share them.

use crate::{
    error::{Failure, Reply},
    random,
    store::Store,
    time,
};
use api::{
    Problem,
    session::{Session, SessionContent},
};
use axum::http::StatusCode;

/// The largest conversation in bytes, as JSON.
const LARGEST: usize = 8 << 20;

/// Begins to keep one.
pub async fn begin(store: &Store, content: SessionContent) -> Reply<Session> {
    let id = random::hex(8).map_err(Failure::internal)?;
    let now = time::now();
    keep(store, Session { id, created_at: now, changed_at: now, content }).await
}

/// Puts one in the place of what was kept of it.
pub async fn change(store: &Store, id: &str, content: SessionContent) -> Reply<Session> {
    let kept = find(store, id).await?;
    keep(store, Session { content, changed_at: time::now(), ..kept }).await
}

pub async fn find(store: &Store, id: &str) -> Reply<Session> {
    store.session(id).await?.ok_or_else(|| missing(id))
}

pub fn missing(id: &str) -> Failure {
    Failure::missing(["conversation", "对话"], id)
}

async fn keep(store: &Store, mut session: Session) -> Reply<Session> {
    session.content.title = session.content.title();
    let bytes = serde_json::to_vec(&session.content).map_err(Failure::internal)?.len();
    if bytes > LARGEST {
        let mib = LARGEST >> 20;
        let problem = Problem::new(
            "too_large",
            format!("The conversation has {bytes} bytes, more than the {mib} MiB that are kept."),
            format!("对话共 {bytes} 字节，超过可保存的 {mib} MiB。"),
        );
        let problem = problem.hint("Begin a new one.", "请开始新的对话。").field("messages");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
    }
    store.keep_session(&session).await?;
    Ok(session)
}
