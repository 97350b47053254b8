//! HTTP, the queue, the workers and all SQL. Holds no model and links no engine: work is done by worker processes
//! (see [`Program`]), and what they say is read from files.

mod ask;
mod chat;
#[cfg(test)]
mod corpus;
mod error;
mod extract;
mod gate;
mod home;
pub mod hub;
mod kernel;
mod listen;
mod observe;
mod openai;
mod openapi;
mod random;
mod router;
mod routes;
mod security;
mod sessions;
mod state;
mod store;
mod supervisor;
pub mod teacher;
mod time;
mod ui;
mod webhook;
mod worker;

pub use error::Error;
pub use store::history;
pub use supervisor::Restarts;
pub use webhook::Webhook;
pub use worker::{CudaWorker, Program, allowed_environment};

use api::chat::LoadChat;
use ask::Ask;
use chat::Chats;
use gate::Gate;
use home::Home;
use hub::HubSettings;
use observe::Counters;
use security::{Guard, Rules};
use serde_json::{Map, Value};
use state::{Base, Inner, State};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use store::Store;
use supervisor::Supervisor;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// WebSockets that are open at once.
const SOCKETS: usize = 256;

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
    /// Each opens what is for programs (`/v1`, `/answer`, `/ws/chat`), which needs one then, or the token.
    pub api_keys: Vec<String>,
    /// A model that is served by itself, without the studio.
    pub serving: Option<Serving>,
    /// How far the workers are confined.
    pub confinement: api::routes::Confinement,
    pub hub: HubSettings,
    /// Largest upload in bytes.
    pub upload_limit: u64,
    /// A worker that was asked to stop is killed after this.
    pub stop_limit: Duration,
    /// How interrupted jobs start again by themselves.
    pub restarts: Restarts,
    /// Who is told of every change of a job's state.
    pub webhook: Option<Webhook>,
}

/// A model that is served by itself.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    pub load: LoadChat,
    /// By which programs ask for it.
    pub name: String,
    /// Parameters of a generation where a program doesn't say.
    pub defaults: Map<String, Value>,
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
            api_keys: Vec::new(),
            serving: None,
            program,
            catalog,
            processor: std::env::consts::ARCH.into(),
            confinement: Default::default(),
            hub,
            upload_limit: 8 << 30,
            stop_limit: Duration::from_secs(60),
            restarts: Restarts::default(),
            webhook: None,
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

/// Serves until SIGINT or SIGTERM. `on_ready` gets the address once everything that an earlier server left is taken up.
/// Training goes on after it returns; chat ends with it.
pub async fn serve(options: Options, on_ready: impl FnOnce(SocketAddr)) -> Result<(), Error> {
    let wanted = SocketAddr::new(options.host, options.port);
    Rules::new(wanted, &options.names, options.token.as_deref(), None)?.with_api_keys(&options.api_keys)?;
    options.webhook.as_ref().map(|webhook| webhook::parse(&webhook.url)).transpose()?;
    let home = Home::open(&options.home)?;
    let mut lock = home.lock()?;
    listen::room_for_files();
    let listener = listen::bind(wanted).await?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: wanted, source })?;
    if let Err(error) = lock.describe(&format!("Lathe with pid {} at http://{address}", std::process::id())) {
        tracing::warn!("lock: {error}");
    }
    let rules = Rules::new(address, &options.names, options.token.as_deref(), Some(&home))?;
    let rules = rules.with_api_keys(&options.api_keys)?;
    let (gate, counters, ending) = (Gate::default(), Arc::<Counters>::default(), CancellationToken::new());
    let guard = Guard::new(gate.clone(), rules);
    // From here on requests are answered, if only with the word that the studio loads.
    let serving = listen::accept(listener, guard, counters.clone(), ending.clone());
    tokio::pin!(serving);
    let studio = tokio::select! {
        studio = Studio::open(options, home, counters, ending) => studio?,
        () = &mut serving => return Ok(()),
    };
    gate.open(studio.router.clone());
    let ready = async {
        studio.supervisor.ready().await;
        if let Some(id) = &studio.served {
            studio.chats.loaded(id).await.map_err(Error::Model)?;
        }
        on_ready(address);
        std::future::pending().await
    };
    let ended = tokio::select! {
        failed = ready => failed,
        () = &mut serving => Ok(()),
    };
    studio.close().await;
    drop(lock);
    ended
}

/// What works behind the port.
struct Studio {
    router: axum::Router,
    supervisor: Supervisor,
    chats: Chats,
    /// The one model that is served.
    served: Option<String>,
    store: Store,
    tasks: JoinSet<()>,
}

impl Studio {
    async fn open(
        options: Options,
        home: Home,
        counters: Arc<Counters>,
        ending: CancellationToken,
    ) -> Result<Self, Error> {
        let mut store = Store::open(&home.database()).await?;
        if options.webhook.is_some() {
            store = store.with_deliveries();
        }
        let program = Arc::new(options.program);
        let ask = Ask::new(program.clone());
        let base = Base {
            home: home.clone(),
            store: store.clone(),
            program: program.clone(),
            hub: options.hub,
            ask: ask.clone(),
            counters: counters.clone(),
        };
        let supervisor = Supervisor::new(base, options.restarts, options.stop_limit);
        let serving = options.serving;
        let defaults = serving.as_ref().map(|serving| serving.defaults.clone()).unwrap_or_default();
        let chats = Chats::new(program, store.clone(), defaults);
        let served = serving.map(|Serving { load, name, .. }| chats.load_as(load, Some(name)).map(|model| model.id));
        let served = served
            .transpose()
            .map_err(|failure| Error::Model(failure.problems.into_iter().next().unwrap_or_default()))?;
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
            served: served.clone(),
            sockets: Arc::new(Semaphore::new(SOCKETS)),
            votes: Default::default(),
            counters,
            ending,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn_blocking(move || home.tidy());
        tasks.spawn(supervisor.clone().run());
        if let Some(webhook) = &options.webhook {
            tasks.spawn(webhook::Sender::new(webhook, store.clone())?.run());
        }
        Ok(Self { router: router::router(state), supervisor, chats, served, store, tasks })
    }

    async fn close(mut self) {
        self.chats.close();
        self.tasks.abort_all();
        self.store.close().await;
    }
}
