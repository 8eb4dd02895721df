//! Accepts connections and serves them until told to stop.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use plinth_core::identity::Caller;

use super::tls::TlsSource;
use super::{BoundListener, Peer, ServerSettings};
use crate::mtls::{Mtls, Rejection, handshake_reason};

/// Pauses after a failed accept, for example for want of descriptors: from the first to the last.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How a server is told to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Close the listener and idle connections, finish what runs.
    pub graceful: CancellationToken,
    /// Cut off what still runs.
    pub hard: CancellationToken,
}

/// Serves `router` on `listener` until `stop.graceful`, then finishes running requests until `stop.hard`.
/// Resolves when the last connection has ended.
///
/// Not generic over the service: hyper's server would be compiled again in every crate that serves something.
pub async fn serve(listener: BoundListener, router: Router, settings: ServerSettings, stop: Stop) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(settings.max_connections));
    let shared = Arc::new(Connection { builder: builder(&settings), settings, stop: stop.clone() });
    let BoundListener { socket, tls, .. } = listener;
    let mut pause = ACCEPT_PAUSES.0;
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, socket.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.graceful.cancelled() => break,
            () = stop.hard.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = ACCEPT_PAUSES.0;
                let (shared, router, tls) = (shared.clone(), router.clone(), tls.clone());
                connections.spawn(async move {
                    shared.run(stream, address, tls, router).await;
                    drop(place);
                });
            }
            // The client gave up while waiting in the queue; nothing is wrong here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.graceful.cancelled() => {}
                }
                pause = (pause * 2).min(ACCEPT_PAUSES.1);
            }
        }
    }
    drop(socket);
    connections.close();
    connections.wait().await;
}

fn builder(settings: &ServerSettings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

struct Connection {
    builder: Builder<TokioExecutor>,
    settings: ServerSettings,
    stop: Stop,
}

impl Connection {
    async fn run(&self, stream: TcpStream, address: SocketAddr, tls: Option<TlsSource>, router: Router) {
        // Answers are written whole; waiting for more to send only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "the connection ended before it began");
            return;
        }
        let peer = Peer { address, tls: tls.is_some(), caller: None };
        let Some(tls) = tls else { return self.http(stream, peer, None, router).await };
        let handshake = tokio::time::timeout(self.settings.handshake_timeout, tls.acceptor().accept(stream));
        let handshake = tokio::select! {
            handshake = handshake => handshake,
            () = self.stop.graceful.cancelled() => return,
        };
        let failed = |reason: &str| {
            if let Some(mtls) = tls.mtls() {
                mtls.count_handshake(reason);
            }
        };
        match handshake {
            Ok(Ok(stream)) => match tls.mtls() {
                None => self.http(stream, peer, None, router).await,
                Some(mtls) => self.admitted(stream, peer, mtls, router).await,
            },
            Ok(Err(error)) => {
                failed(handshake_reason(&error));
                tracing::debug!(%error, %address, "TLS handshake failed");
            }
            Err(_) => {
                failed("timeout");
                tracing::debug!(%address, "TLS handshake took too long");
            }
        }
    }

    /// Serves a caller who may call; the connection of another one is closed before it is read from.
    async fn admitted(
        &self,
        mut stream: tokio_rustls::server::TlsStream<TcpStream>,
        peer: Peer,
        mtls: &Mtls,
        router: Router,
    ) {
        let deciding = mtls.admit(stream.get_ref().1.peer_certificates());
        let decided = tokio::select! {
            decided = deciding => decided,
            () = self.stop.graceful.cancelled() => return,
        };
        match decided {
            Ok(caller) => {
                let caller = caller.map(Arc::new);
                let peer = Peer { caller: caller.clone(), ..peer };
                let watched = caller.map(|caller| (mtls.clone(), caller));
                self.http(stream, peer, watched, router).await;
            }
            Err(rejection) => {
                refused(&rejection, peer.address);
                // With TLS 1.3 the caller's handshake is over by now: it is told that this is the end.
                let _gone = stream.shutdown().await;
            }
        }
    }

    async fn http<I>(&self, stream: I, peer: Peer, watched: Option<(Mtls, Arc<Caller>)>, router: Router)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let address = peer.address;
        let handler = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            let mut router = router.clone();
            async move {
                std::future::poll_fn(|cx| Service::<Request>::poll_ready(&mut router, cx)).await?;
                router.call(request).await
            }
        });
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(TokioIo::new(stream), handler));
        let mut stopping = pin!(self.stop.graceful.cancelled());
        let mut revoked = pin!(async {
            match &watched {
                Some((mtls, caller)) => mtls.revoked(caller).await,
                None => std::future::pending().await,
            }
        });
        let mut told = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = stopping.as_mut(), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                rejection = revoked.as_mut(), if !told => {
                    told = true;
                    refused(&rejection, address);
                    connection.as_mut().graceful_shutdown();
                }
                () = self.stop.hard.cancelled() => return,
            }
        };
        if let Err(error) = ended {
            // Clients come and go; their broken connections are no event of this service.
            tracing::debug!(error = crate::problem::chain(&*error), %address, "connection ended");
        }
    }
}

fn refused(rejection: &Rejection, address: SocketAddr) {
    tracing::warn!(%address, "connection refused: {}", crate::problem::chain(rejection));
}
