//! The socket: bounded connections, headers and waits.

use crate::{error::Error, gate::Gate, observe::Counters, security::Guard};
use axum::{body::Body, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Connections at once; most systems give a process 1024 files.
const CONNECTIONS: usize = 800;
/// A request's headers have to come within this.
const HEADERS: Duration = Duration::from_secs(10);
/// Answers under way have so long to end when the server does.
const FAREWELL: Duration = Duration::from_secs(1);

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
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For example no more files: the ones that are open will close.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (guard, counters, farewell) = (guard.clone(), counters.clone(), ending.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let request: Request = request.map(Body::new);
            counters.observe(guard.clone(), request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
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
