//! One client connection, from handshake to its last response.

mod gate;
mod proxy_protocol;
mod scanner;
mod tls_session;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::context::ClientConnection;
use crate::metrics::WorkerStats;
use crate::proxy;
use crate::tick::{self, Deadline, TickTimer};
use crate::worker::{Accepted, Worker};
use gate::{Gate, Ledger};

/// A draining worker closes an idle HTTP/1.1 connection only after this long: a request that is on its way to it is
/// answered still, with `Connection: close`. HTTP/2 has GOAWAY for that.
const IDLE_GRACE: Duration = Duration::from_millis(500);
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Tells a worker's connections to finish, and knows when the last one has.
#[derive(Debug, Default)]
pub struct Drain {
    draining: Cell<bool>,
    open: Cell<usize>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
    ended: tokio::sync::Notify,
}

impl Drain {
    /// From now on connections finish what they do and close.
    pub fn start(&self) {
        self.draining.set(true);
        for waker in self.wakers.borrow_mut().iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Connections are to finish.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Resolves when no connection is open.
    pub async fn empty(&self) {
        while self.open.get() > 0 {
            self.ended.notified().await;
        }
    }

    /// Counts a connection in.
    pub fn enter(self: &Rc<Self>) -> Guard {
        self.open.set(self.open.get() + 1);
        let place = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut wakers = self.wakers.borrow_mut();
            wakers.push(None);
            wakers.len() - 1
        });
        Guard { drain: self.clone(), place }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Guard {
    drain: Rc<Drain>,
    place: usize,
}

impl Guard {
    /// The connection is to finish; else the task is woken when that changes.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.draining.get() {
            return Poll::Ready(());
        }
        if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(self.place) {
            match slot {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(self.place) {
            *slot = None;
        }
        self.drain.free.borrow_mut().push(self.place);
        self.drain.open.set(self.drain.open.get() - 1);
        self.drain.ended.notify_one();
    }
}

/// Serves an accepted connection to its end.
pub async fn connection(worker: &Rc<Worker>, accepted: Accepted) {
    let guard = worker.drain.enter();
    let Accepted { socket, peer, listener } = accepted;
    let mut stream = match TcpStream::from_std(socket) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot take over a connection");
            return;
        }
    };
    let limit = worker.shared.data_plane.handshake_timeout;
    let mut client = ClientConnection {
        peer,
        peer_ip_text: HeaderValue::from_str(&peer.ip().to_canonical().to_string())
            .unwrap_or(HeaderValue::from_static("unknown")),
        trusted: worker.trusts(peer.ip()),
        local_port: listener.address.port(),
        tls: None,
        sni: None,
        proxied: None,
    };
    if listener.listen.proxy_protocol {
        match proxy_protocol::take(&mut stream, limit).await {
            Ok(proxied) => client.proxied = proxied.map(|client| client.ip().to_canonical()),
            Err(error) => {
                tracing::debug!(%peer, %error, "no header of the PROXY protocol");
                return;
            }
        }
    }
    let Some(tls) = &listener.tls else {
        let http2 = listener.listen.http2 && prior_knowledge(&stream, limit).await;
        return http(worker, client, stream, http2, guard).await;
    };
    match tick::within(limit, tokio_rustls::TlsAcceptor::from(tls.clone()).accept(stream)).await {
        None => tracing::debug!(%peer, "TLS handshake took too long"),
        Some(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Some(Ok(stream)) => {
            let session = stream.get_ref().1;
            client.tls = Some(tls_session::of(session));
            client.sni = session.server_name().map(Arc::from);
            let http2 = session.alpn_protocol() == Some(b"h2");
            http(worker, client, stream, http2, guard).await;
        }
    }
}

/// The client speaks HTTP/2 without TLS. Only asked on listeners that allow it.
async fn prior_knowledge(stream: &TcpStream, limit: Duration) -> bool {
    let mut first = [0; H2_PREFACE.len()];
    let look = async {
        loop {
            match stream.peek(&mut first).await {
                Ok(0) | Err(_) => return false,
                Ok(length) if first[..length] != H2_PREFACE[..length] => return false,
                Ok(length) if length == H2_PREFACE.len() => return true,
                // the preface in pieces: rare enough to wait a tick for more
                Ok(_) => tokio::time::sleep(tick::TICK).await,
            }
        }
    };
    tick::within(limit, look).await.unwrap_or(false)
}

async fn http<S>(worker: &Rc<Worker>, client: ClientConnection, stream: S, http2: bool, guard: Guard)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = client.peer;
    let client = Rc::new(client);
    let outcome = if http2 {
        over_http2(worker, client, stream, &guard).await
    } else {
        over_http1(worker, client, stream, &guard).await
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection ended badly");
    }
}

async fn over_http1<S>(
    worker: &Rc<Worker>,
    client: Rc<ClientConnection>,
    stream: S,
    guard: &Guard,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.shared.data_plane;
    let ledger = Arc::new(Ledger::default());
    let gate = Gate::new(stream, ledger.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, client, ledger) = (worker.clone(), client.clone(), ledger.clone());
        async move {
            let doubtful = ledger.serve();
            let mut response = proxy::handle(&worker, client, request, doubtful).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                ledger.hand_over();
            } else if worker.drain.draining() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let largest = limits.request_head_bytes.max(8 * 1024);
    let connection = http1::Builder::new()
        .timer(TickTimer)
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(largest)
        // the buffer alone may hold more than its limit when much comes at once
        .max_header_size(largest)
        .serve_connection(TokioIo::new(gate), service)
        .with_upgrades();
    let finish = http1::UpgradeableConnection::graceful_shutdown;
    drive(worker, connection, finish, guard, IDLE_GRACE, |_| false).await
}

async fn over_http2<S>(
    worker: &Rc<Worker>,
    client: Rc<ClientConnection>,
    stream: S,
    guard: &Guard,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.shared.data_plane;
    let served = Cell::new(0_u64);
    let service = service_fn(|request: Request<Incoming>| {
        served.set(served.get() + 1);
        let (worker, client) = (worker.clone(), client.clone());
        async move { Ok::<_, Infallible>(proxy::handle(&worker, client, request, false).await) }
    });
    let mut builder = http2::Builder::new(LocalExecutor { stats: worker.stats.clone() });
    builder
        .timer(TickTimer)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.request_head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.header_timeout)
        .adaptive_window(true);
    // jitter, so that what connected together does not reconnect together
    let jitter = worker.rng.borrow_mut().f64().mul_add(0.2, 0.9);
    let most = (limits.h2_max_requests as f64 * jitter) as u64;
    let old = Deadline::new();
    old.set(limits.h2_max_age.mul_f64(jitter));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let worn = || served.get() >= most.max(1);
    let aged = |cx: &mut Context<'_>| worn() || old.poll(cx).is_ready();
    drive(worker, connection, http2::Connection::graceful_shutdown, guard, Duration::ZERO, aged).await
}

/// Polls a connection to its end; tells it to finish `grace` after the worker began to drain, or when it has lasted long
/// enough.
async fn drive<C>(
    worker: &Rc<Worker>,
    connection: C,
    finish: impl Fn(Pin<&mut C>),
    guard: &Guard,
    grace: Duration,
    lasted: impl Fn(&mut Context<'_>) -> bool,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut grace_over: Option<Deadline> = None;
    let mut finishing = false;
    std::future::poll_fn(|cx| {
        let mut drained = |cx: &mut Context<'_>| {
            if guard.poll(cx).is_pending() {
                return false;
            }
            let over = grace_over.get_or_insert_with(|| {
                let deadline = Deadline::new();
                deadline.set(grace);
                deadline
            });
            grace.is_zero() || over.poll(cx).is_ready()
        };
        if !finishing && (drained(cx) || lasted(cx)) {
            finishing = true;
            finish(connection.as_mut());
        }
        worker.stats.timed(|| connection.as_mut().poll(cx))
    })
    .await
}

/// Runs hyper's HTTP/2 tasks on the worker's own thread, timed like everything else there.
#[derive(Clone, Debug)]
struct LocalExecutor {
    stats: Arc<WorkerStats>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        let stats = self.stats.clone();
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| stats.timed(|| future.as_mut().poll(cx))).await;
        });
    }
}
