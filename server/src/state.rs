//! What every handler can reach.

use crate::{
    ask::Ask, chat::Chats, home::Home, hub::HubSettings, observe::Counters, routes::uploads::Holds, store::Store,
    supervisor::Supervisor, worker::Program,
};
use axum::body::Bytes;
use std::{ops::Deref, sync::Arc};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct State(Arc<Inner>);

pub struct Inner {
    pub home: Home,
    pub store: Store,
    pub supervisor: Supervisor,
    pub ask: Ask,
    pub chats: Chats,
    /// JSON of the catalog: it never changes while the server lives.
    pub catalog: Bytes,
    pub version: String,
    /// Instructions that the workers compute with.
    pub processor: String,
    /// How far they are confined.
    pub confinement: api::routes::Confinement,
    pub has_token: bool,
    /// Largest upload in bytes.
    pub upload_limit: u64,
    /// Resumable uploads that requests work on now.
    pub uploads: Holds,
    pub counters: Arc<Counters>,
    /// The one model that is served by itself, by its id; then there is no studio.
    pub served: Option<String>,
    /// Places for WebSockets.
    pub sockets: Arc<Semaphore>,
    /// Held while a vote is written.
    pub votes: Mutex<()>,
    /// Cancelled when the server ends: streams end then.
    pub ending: CancellationToken,
}

/// What background tasks need; a part of [`Inner`], cheap to clone.
#[derive(Clone)]
pub struct Base {
    pub home: Home,
    pub store: Store,
    pub program: Arc<Program>,
    pub hub: HubSettings,
    pub ask: Ask,
    pub counters: Arc<Counters>,
}

impl State {
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl Deref for State {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
