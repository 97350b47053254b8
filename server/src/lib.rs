//! HTTP, the queue, the workers and all SQL. Holds no model and links no engine: work is done by worker processes
//! (see [`Program`]), and what they say is read from files.

mod ask;
mod chat;
#[cfg(test)]
mod corpus;
mod error;
mod extract;
mod home;
pub mod hub;
mod listen;
mod openapi;
mod random;
mod router;
mod routes;
mod security;
mod state;
mod store;
mod supervisor;
pub mod teacher;
mod time;
mod ui;
mod worker;

pub use error::Error;
pub use worker::{CudaWorker, Program, allowed_environment};

use ask::Ask;
use chat::Chats;
use home::Home;
use hub::HubSettings;
use security::{Guard, Rules};
use state::{Base, Inner, State};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use store::Store;
use supervisor::Supervisor;
use tokio::task::JoinSet;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made if it isn't there.
    pub home: PathBuf,
    pub host: IpAddr,
    /// 0 for any free one.
    pub port: u16,
    /// Host names that requests may use besides localhost and `host`.
    pub names: Vec<String>,
    /// Needed if others can reach `host`: 16 or more printable ASCII characters.
    pub token: Option<String>,
    pub program: Program,
    pub catalog: api::Catalog,
    /// Instructions that the workers compute with, for people: `AVX-512`.
    pub processor: String,
    /// How far the workers are confined.
    pub confinement: api::routes::Confinement,
    pub hub: HubSettings,
    /// Largest upload in bytes.
    pub upload_limit: u64,
    /// A worker that was asked to stop is killed after this.
    pub stop_limit: Duration,
}

impl Options {
    /// Listens on `127.0.0.1:7860`, without a token; uploads up to 8 GiB; 60 seconds to stop.
    pub fn new(home: PathBuf, program: Program, catalog: api::Catalog, hub: HubSettings) -> Self {
        Self {
            home,
            host: IpAddr::from([127, 0, 0, 1]),
            port: 7860,
            names: Vec::new(),
            token: None,
            program,
            catalog,
            processor: std::env::consts::ARCH.into(),
            confinement: Default::default(),
            hub,
            upload_limit: 8 << 30,
            stop_limit: Duration::from_secs(60),
        }
    }
}

/// A runtime that is enough for the server and small: it waits nearly always.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
}

/// Serves until SIGINT or SIGTERM. `on_ready` gets the address once requests are answered. Training goes on after it
/// returns; chat ends with it.
pub async fn serve(options: Options, on_ready: impl FnOnce(SocketAddr)) -> Result<(), Error> {
    let wanted = SocketAddr::new(options.host, options.port);
    Rules::new(wanted, &options.names, options.token.as_deref(), None)?;
    let home = Home::open(&options.home)?;
    let mut lock = home.lock()?;
    listen::room_for_files();
    let listener = listen::bind(wanted).await?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: wanted, source })?;
    if let Err(error) = lock.describe(&format!("Lathe with pid {} at http://{address}", std::process::id())) {
        tracing::warn!("lock: {error}");
    }
    let rules = Rules::new(address, &options.names, options.token.as_deref(), Some(&home))?;
    let store = Store::open(&home.database()).await?;
    let program = Arc::new(options.program);
    let ask = Ask::new(program.clone());
    let base =
        Base { home: home.clone(), store: store.clone(), program: program.clone(), hub: options.hub, ask: ask.clone() };
    let supervisor = Supervisor::new(base, options.stop_limit);
    let chats = Chats::new(program, store.clone());
    let version = options.catalog.version.clone();
    let state = State::new(Inner {
        home: home.clone(),
        store: store.clone(),
        supervisor: supervisor.clone(),
        ask,
        chats: chats.clone(),
        processor: options.processor,
        confinement: options.confinement,
        has_token: options.token.is_some(),
        catalog: serde_json::to_vec(&options.catalog).unwrap_or_default().into(),
        version: if version.is_empty() { env!("CARGO_PKG_VERSION").into() } else { version },
        upload_limit: options.upload_limit,
        uploads: Default::default(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn_blocking(move || home.tidy());
    tasks.spawn(supervisor.run());
    on_ready(address);
    listen::accept(listener, Guard::new(router::router(state), rules)).await;
    chats.close();
    tasks.abort_all();
    store.close().await;
    drop(lock);
    Ok(())
}
