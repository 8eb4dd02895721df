//! The listening side: one acceptor, and threads that each serve their connections alone.
//!
//! A thread has a runtime and a room of its own, so that a request goes from its first byte to its answer without a lock
//! that others want or a wake-up across threads; only a write goes to the writer and comes back by the room's bell.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::duration;
use crate::error::Error;
use crate::feed::{self, Level};
use crate::heads;
use crate::http::{Answer, Server, host_header};

/// Beyond that many the one writer and the memory's speed are the limit, and each costs a stack.
const MOST: usize = 4;

/// What the acceptor keeps to.
pub(crate) struct Limits {
    pub connections_per_address: Option<usize>,
    /// How long requests that run are waited for at the end.
    pub shutdown: Duration,
}

enum Order {
    Serve(std::net::TcpStream, SocketAddr, Place),
    Drain(Duration),
}

struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    /// Shared with its connections: counts them.
    load: Arc<()>,
    /// Closed when the thread has ended.
    ended: oneshot::Receiver<()>,
}

/// The threads that serve, one for each processor. Dropping them ends them without waiting.
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    /// `head` is how long a request's head may take from its first byte on.
    pub fn start(server: &Server, head: Duration) -> Result<Workers, Error> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = (0..processors.min(MOST)).map(|number| Worker::start(number, server, head));
        workers.collect::<Result<_, _>>().map(Workers).map_err(Error::Thread)
    }

    /// Hands a connection to the thread with the fewest.
    fn serve(&self, stream: TcpStream, peer: SocketAddr, place: PeerPlace) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        if let Some(worker) = self.0.iter().min_by_key(|worker| Arc::strong_count(&worker.load)) {
            let place = Place { _of_peer: place, _of_worker: worker.load.clone() };
            // of a thread that is gone: the connection is closed here
            let _ = worker.orders.send(Order::Serve(stream, peer, place));
        }
        Ok(())
    }

    /// Lets what runs finish, for as long as `limit`.
    async fn drain(self, limit: Duration) {
        for worker in &self.0 {
            // one that is gone has nothing left to finish
            let _ = worker.orders.send(Order::Drain(limit));
        }
        for worker in self.0 {
            // comes back with an error: nothing is ever sent
            let _ = worker.ended.await;
        }
    }
}

impl Worker {
    fn start(number: usize, server: &Server, head: Duration) -> std::io::Result<Worker> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let (alive, ended) = oneshot::channel::<()>();
        let guard = server.engine.alarm().guard("a thread that serves");
        let server = server.clone();
        std::thread::Builder::new().name(format!("agent-http-{number}")).spawn(move || {
            let _held_to_the_end = (alive, guard);
            runtime.block_on(work(server, inbox, head));
            // its connections end with it
            drop(runtime);
        })?;
        Ok(Worker { orders, load: Arc::default(), ended })
    }
}

/// A worker's life.
async fn work(mut server: Server, mut orders: mpsc::UnboundedReceiver<Order>, head: Duration) {
    let (engine, room) = server.engine.for_thread();
    server.engine = Arc::new(engine);
    let server = Arc::new(server);
    tokio::spawn(async move { room.attend().await });
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    // see `heads`
    builder.header_read_timeout(None);
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve(stream, peer, place) => match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let (stream, progress) = heads::Limited::new(stream, head);
                    let requests = Requests { server: server.clone(), progress, peer };
                    serve(&builder, &graceful, requests, stream, place);
                }
                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
            },
            Order::Drain(limit) => {
                if tokio::time::timeout(limit, graceful.shutdown()).await.is_err() {
                    tracing::warn!("some connections did not finish in time");
                }
                return;
            }
        }
    }
}

/// Serves a connection in a task of its own.
fn serve(
    builder: &http1::Builder,
    graceful: &GracefulShutdown,
    requests: Requests,
    stream: heads::Limited<TcpStream>,
    place: Place,
) {
    let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), requests));
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
}

/// What a connection's requests are answered by.
struct Requests {
    server: Arc<Server>,
    progress: heads::Progress,
    peer: SocketAddr,
}

/// An answer that is there, or the way to it.
enum Answering {
    Now(Option<Response<Answer>>),
    Later(Pin<Box<dyn Future<Output = Response<Answer>> + Send>>),
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Answering::Now(response) => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Answering::Later(response) => response.as_mut().poll(cx).map(Ok),
        }
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        if let Some(refused) = host_header::refused(request.method(), request.version(), request.headers()) {
            self.progress.answered();
            return Answering::Now(Some(refused));
        }
        if self.server.engine.feed().wanted() {
            return self.told(request);
        }
        if let Some(response) = self.server.at_once(&request) {
            self.progress.answered();
            return Answering::Now(Some(response));
        }
        let (server, running) = (self.server.clone(), self.progress.request());
        Answering::Later(Box::pin(async move {
            let _running = running;
            respond(server, request).await
        }))
    }
}

impl Requests {
    /// For who reads the agent's log: every request is a line in it.
    fn told(&self, request: Request<Incoming>) -> Answering {
        let (server, running) = (self.server.clone(), self.progress.request());
        let (method, url) = (request.method().clone(), feed::shown_url(request.uri()));
        let (from, start) = (self.peer, Instant::now());
        Answering::Later(Box::pin(async move {
            let _running = running;
            let engine = server.engine.clone();
            let response = respond(server, request).await;
            let fields = || {
                let latency = duration::format(start.elapsed());
                let fields = [("method", method.to_string()), ("url", url), ("from", from.to_string())];
                fields.into_iter().chain([("latency", latency)]).collect()
            };
            match response.status().is_server_error() {
                true => engine.feed().tell(Level::Error, "agent.http", "Request error", fields),
                false => engine.feed().tell(Level::Debug, "agent.http", "Request finished", fields),
            }
            response
        }))
    }
}

/// A change is carried to its end in a task of its own, although its client may have gone: what follows the write (the time
/// of a TTL or a session, the task that probes) must not be lost with the connection. KV writes have nothing after them.
async fn respond(server: Arc<Server>, request: Request<Incoming>) -> Response<Answer> {
    if request.method() == Method::GET || request.uri().path().starts_with("/v1/kv/") {
        return server.handle(request).await;
    }
    match tokio::spawn(async move { server.handle(request).await }).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "a request's task ended badly");
            let mut response = Response::new(Answer::default());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Accepts until it is told to stop, then lets the workers finish.
pub(crate) async fn accept(
    listener: TcpListener,
    workers: Workers,
    mut stopped: watch::Receiver<bool>,
    limits: Limits,
) {
    let peers = Arc::new(Peers::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|s| *s) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // out of descriptors: give those that close a moment
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(place) = peers.enter(peer.ip(), limits.connections_per_address) else { continue };
        if let Err(error) = workers.serve(stream, peer, place) {
            // the client was faster in leaving
            tracing::debug!(%error, "cannot serve a connection");
        }
    }
    drop(listener);
    workers.drain(limits.shutdown).await;
}

/// Held by a connection: its address has one more, and so has its worker.
struct Place {
    _of_peer: PeerPlace,
    _of_worker: Arc<()>,
}

/// Connections per client address.
#[derive(Default)]
struct Peers(parking_lot::Mutex<std::collections::HashMap<IpAddr, usize>>);

struct PeerPlace {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    fn enter(self: &Arc<Self>, address: IpAddr, most: Option<usize>) -> Option<PeerPlace> {
        let mut open = self.0.lock();
        let count = open.entry(address).or_insert(0);
        if most.is_some_and(|most| *count >= most) {
            return None;
        }
        *count += 1;
        Some(PeerPlace { peers: self.clone(), address })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut open = self.peers.0.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}
