//! The socket: bounded connections, headers and waits.

use crate::{
    error::Error,
    gate::Gate,
    observe::Counters,
    security::{Guard, Peer},
};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, Sleep, sleep},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// Connections at once. A process gets files for them and for all else when the server starts ([`room_for_files`]).
const CONNECTIONS: usize = 1024;
/// Files that all else may need: the database, run folders, pipes of workers, uploads.
const OTHER_FILES: u64 = 1024;
/// A request's headers have to come within this.
const HEADERS: Duration = Duration::from_secs(10);
/// The next piece of a request's body has to come within this.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// Whoever takes nothing of an answer for so long is cut off; a page goes on from its last event.
const WRITE_IDLE: Duration = Duration::from_secs(60);
/// Answers under way have so long to end when the server does.
const FAREWELL: Duration = Duration::from_secs(1);

/// Asks the system for as many open files as the connections and all else may need; says so where it doesn't give them.
pub fn room_for_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = CONNECTIONS as u64 + OTHER_FILES;
    let given = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let raised = wanted.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, raised, hard).map(|()| raised)
    });
    match given {
        Ok(given) if given >= wanted => {}
        Ok(given) => tracing::warn!("{given} files may be open at once, {wanted} may be needed (ulimit -n)"),
        Err(error) => tracing::warn!("the limit of open files can't be raised: {error}"),
    }
}

/// Listens on the address asked for and no other.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse { address },
        _ => Error::Listen { address, source },
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    // Starts again at once after an end; two that listen are still refused.
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    socket.listen(1024).map_err(failed)
}

/// Answers until SIGINT or SIGTERM; `ending` is cancelled then. Every request is counted.
pub async fn accept(listener: TcpListener, guard: Guard<Gate>, counters: Arc<Counters>, ending: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_header_size(64 << 10);
    let asks_who = guard.rules().asks_who();
    let mut connections = JoinSet::new();
    let end = ended();
    tokio::pin!(end);
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = &mut end => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        while connections.try_join_next().is_some() {}
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // For example no more files: the ones that are open will close.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (guard, counters, farewell) = (guard.clone(), counters.clone(), ending.clone());
        let http = http.clone();
        connections.spawn(async move {
            let own = stream.local_addr().ok().filter(|_| asks_who);
            let peer = Peer::of(address, own).await;
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let mut request: Request = request.map(impatient);
                request.extensions_mut().insert(peer);
                counters.observe(guard.clone(), request)
            });
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_IDLE));
            let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service).with_upgrades();
            tokio::pin!(connection);
            let answered = tokio::select! {
                answered = connection.as_mut() => answered,
                () = farewell.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = answered {
                tracing::debug!("connection: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    ending.cancel();
    tracing::info!("ending");
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, all).await;
}

/// A request's body that fails when nothing of it comes for [`BODY_IDLE`].
struct Impatient {
    body: Incoming,
    wait: Pin<Box<Sleep>>,
}

fn impatient(body: Incoming) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    Body::new(Impatient { body, wait: Box::pin(sleep(BODY_IDLE)) })
}

impl HttpBody for Impatient {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.wait.as_mut().reset(Instant::now() + BODY_IDLE);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.wait.as_mut().poll(context).map(|()| Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// What the sender says of its length is looked at before anything is read.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn ended() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            Err(error) => {
                tracing::error!("signals: {error}");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        _ = wait(SignalKind::interrupt()) => {}
        _ = wait(SignalKind::terminate()) => {}
    }
}
