//! HTTP/2 towards upstreams (gRPC services), through hyper: many requests share a connection, bodies stream both ways at
//! once, trailers pass. Each worker has its own connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;

use super::connection::Limits;
use super::pool::PoolKey;
use super::request::{BoxError, Coding, Piece, RequestBody};
use super::{Endpoint, Failure, Fault, Pools, Reply, ReplyBody};
use crate::tick::{Deadline, TickTimer};

/// Streams on one connection before another one is opened; an upstream that allows fewer is asked to wait by HTTP/2 itself.
const STREAMS: usize = 100;

type Sender = http2::SendRequest<Upload>;

/// One worker's HTTP/2 connections to upstreams.
#[derive(Debug, Default)]
pub struct Connections(RefCell<HashMap<PoolKey, Vec<Open>, foldhash::fast::RandomState>>);

#[derive(Debug)]
struct Open {
    sender: Sender,
    streams: Rc<Cell<usize>>,
    idle_rounds: u32,
}

/// One request on a connection.
#[derive(Debug)]
struct Stream(Rc<Cell<usize>>);

impl Stream {
    fn begin(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Connections {
    fn take(&self, key: PoolKey) -> Option<(Sender, Stream)> {
        let mut all = self.0.borrow_mut();
        let open = all.get_mut(&key)?;
        open.retain(|one| !one.sender.is_closed());
        let one = open.iter_mut().find(|one| one.streams.get() < STREAMS)?;
        one.idle_rounds = 0;
        Some((one.sender.clone(), Stream::begin(&one.streams)))
    }

    fn add(&self, key: PoolKey, sender: Sender) -> (Sender, Stream) {
        let streams = Rc::new(Cell::new(0));
        let stream = Stream::begin(&streams);
        let open = Open { sender: sender.clone(), streams, idle_rounds: 0 };
        self.0.borrow_mut().entry(key).or_default().push(open);
        (sender, stream)
    }

    /// Closes connections without a request for more than `rounds` calls of this.
    pub(super) fn reap(&self, rounds: u32) {
        self.0.borrow_mut().retain(|_, open| {
            open.retain_mut(|one| {
                one.idle_rounds = if one.streams.get() > 0 { 0 } else { one.idle_rounds + 1 };
                !one.sender.is_closed() && one.idle_rounds <= rounds
            });
            !open.is_empty()
        });
    }
}

/// Sends a request (its target absolute) and gives back the response as soon as its head is here. What a closed connection
/// has not taken is sent over a fresh one.
///
/// # Errors
/// [`Failure`]; `body` then holds the body, to be rewound by the caller for another try.
pub async fn send(
    pools: &Rc<Pools>,
    endpoint: &Endpoint<'_>,
    head: Request<()>,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    let key = PoolKey { address: endpoint.address, tls: endpoint.tls.map_or(0, |tls| tls.id) };
    let lent = Rc::new(Lent::new(std::mem::replace(body, RequestBody::empty(false))));
    let outcome = exchange(pools, key, endpoint, head, &lent).await;
    if let Err(failure) = &outcome {
        tracing::debug!(error = %failure.fault, "no HTTP/2 answer");
        *body = lent.take_back();
    }
    outcome
}

async fn exchange(
    pools: &Rc<Pools>,
    key: PoolKey,
    endpoint: &Endpoint<'_>,
    head: Request<()>,
    lent: &Rc<Lent>,
) -> Result<Reply, Failure> {
    let mut request = head.map(|()| Upload(lent.clone()));
    loop {
        let (mut sender, stream, kept) = match pools.http2.take(key) {
            Some((sender, stream)) => (sender, stream, true),
            None => {
                let opened = connect(endpoint).await.map_err(|fault| Failure { fault, sent: false })?;
                let (sender, stream) = pools.http2.add(key, opened);
                (sender, stream, false)
            }
        };
        match answered(sender.try_send_request(request), lent, &endpoint.limits).await {
            Ok(Ok(response)) => {
                let (head, incoming) = response.into_parts();
                let download = Download {
                    incoming,
                    _stream: stream,
                    deadline: Deadline::new(),
                    read_timeout: endpoint.limits.read_timeout,
                    waiting: false,
                };
                let body = ReplyBody::Http2(Box::new(download));
                return Ok(Reply { status: head.status, headers: head.headers, body });
            }
            Ok(Err(mut error)) => match error.take_message() {
                Some(unsent) if kept => request = unsent,
                unsent => {
                    let sent = unsent.is_none();
                    let fault = match lent.broken.borrow_mut().take() {
                        Some(error) => Fault::RequestBody(error),
                        None => Fault::Http2(error.into_error()),
                    };
                    return Err(Failure { fault, sent });
                }
            },
            Err(fault) => return Err(Failure { fault, sent: true }),
        }
    }
}

/// Waits for the head, as long as the request moves on or `read_timeout` after it did.
async fn answered<F: Future>(answer: F, lent: &Lent, limits: &Limits) -> Result<F::Output, Fault> {
    let mut answer = pin!(answer);
    let deadline = Deadline::new();
    deadline.set(limits.read_timeout);
    let mut seen = 0;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        // the body is sent by hyper's own task, which does not wake this one: a deadline that passes looks again
        let moved = lent.moved.get();
        if moved != seen {
            seen = moved;
            deadline.set(limits.read_timeout);
        }
        deadline.poll(cx).map(|()| Err(Fault::ReadTimeout))
    })
    .await
}

async fn connect(endpoint: &Endpoint<'_>) -> Result<Sender, Fault> {
    let stream = super::open(endpoint).await?;
    let shaking = http2::Builder::new(Spawn)
        .timer(TickTimer)
        .adaptive_window(true)
        .initial_max_send_streams(STREAMS)
        .handshake(TokioIo::new(stream));
    let shaken = crate::tick::within(endpoint.connect_timeout, Box::pin(shaking)).await;
    let (sender, connection) = shaken.ok_or(Fault::ConnectTimeout)?.map_err(Fault::Http2)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection to an upstream ended badly");
        }
    });
    Ok(sender)
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct Spawn;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A request body lent to hyper, so that it can be had back for another try.
#[derive(Debug)]
struct Lent {
    body: RefCell<RequestBody>,
    /// Pieces sent.
    moved: Cell<u64>,
    back: Cell<bool>,
    broken: RefCell<Option<BoxError>>,
}

impl Lent {
    fn new(body: RequestBody) -> Self {
        Self {
            body: RefCell::new(body),
            moved: Cell::new(0),
            back: Cell::new(false),
            broken: RefCell::new(None),
        }
    }

    fn take_back(&self) -> RequestBody {
        self.back.set(true);
        self.body.replace(RequestBody::empty(false))
    }
}

/// The body as hyper takes it.
#[derive(Debug)]
struct Upload(Rc<Lent>);

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let lent = &self.0;
        if lent.back.get() {
            return Poll::Ready(Some(Err("this try was given up".into())));
        }
        loop {
            let piece = std::task::ready!(lent.body.borrow_mut().poll_piece(cx));
            lent.moved.set(lent.moved.get() + 1);
            return Poll::Ready(match piece {
                Ok(Piece::Data(data)) if data.is_empty() => continue,
                Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
                Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Ok(Piece::End) => None,
                Err(error) => {
                    *lent.broken.borrow_mut() = Some(error);
                    Some(Err("the client's request body broke off".into()))
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0.body.borrow().coding(), Coding::None | Coding::Length(0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.body.borrow().coding() {
            Coding::None => SizeHint::with_exact(0),
            Coding::Length(length) => SizeHint::with_exact(length),
            Coding::Chunked => SizeHint::default(),
        }
    }
}

/// A response body on its way to the client. Dropped before its end, the stream is reset and the connection stays.
#[derive(Debug)]
pub struct Download {
    incoming: Incoming,
    _stream: Stream,
    deadline: Deadline,
    read_timeout: Duration,
    waiting: bool,
}

impl Body for Download {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Fault::Http2)))
            }
            Poll::Pending => {
                if !self.waiting {
                    self.waiting = true;
                    self.deadline.set(self.read_timeout);
                }
                self.deadline.poll(cx).map(|()| Some(Err(Fault::ReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
