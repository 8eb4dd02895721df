//! The body of an answer to a client. Unboxed in the common cases; it carries what must happen when the last byte has
//! left: the endpoint's in-flight count, the log phase.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use plinth_core::balance::InFlight;

use crate::client::http2::Download;
use crate::client::{Fault, Streamed};
use crate::context::{RequestContext, Source, Tap};
use crate::metrics::WorkerStats;

/// Where the bytes come from.
#[derive(Debug)]
pub enum Content {
    /// None.
    Empty,
    /// All here.
    Whole(Bytes),
    /// Read from the upstream.
    Upstream(Streamed),
    /// Read from an HTTP/2 upstream.
    Http2(Box<Download>),
}

/// What happens at the end.
#[derive(Debug, Default)]
pub struct Ending {
    /// The endpoint has one request less when this goes.
    pub in_flight: Option<InFlight>,
    /// For the log phase.
    pub log: Option<Box<RequestContext>>,
    /// A plugin that watches the body.
    pub tap: Option<Box<dyn Tap>>,
    /// One request less in the worker's count.
    pub active: Option<ActiveRequest>,
}

/// One request in a worker's count of running requests.
#[derive(Debug)]
pub struct ActiveRequest {
    stats: Arc<WorkerStats>,
    /// None: its time says nothing.
    began: Option<Instant>,
}

impl ActiveRequest {
    /// Counts it in.
    #[must_use]
    pub fn start(stats: &Arc<WorkerStats>, began: Instant) -> Self {
        stats.in_flight.add(1);
        Self { stats: stats.clone(), began: Some(began) }
    }

    /// Counts its answer.
    pub fn answered(&self, source: Source, status: StatusCode) {
        self.stats.answered(source, status);
    }

    /// It becomes a tunnel, which lasts as long as its ends like.
    pub fn tunnels(&mut self) {
        self.began = None;
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.stats.in_flight.sub(1);
        if let Some(began) = self.began {
            self.stats.took(began.elapsed());
        }
    }
}

/// A body on its way to a client.
#[derive(Debug)]
pub struct ProxyBody {
    content: Content,
    sent: u64,
    complete: bool,
    ending: Ending,
}

impl ProxyBody {
    /// A body and what happens at its end.
    #[must_use]
    pub fn new(content: Content, ending: Ending) -> Self {
        let complete = match &content {
            Content::Empty => true,
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Upstream(_) => false,
            Content::Http2(body) => body.is_end_stream(),
        };
        Self { content, sent: 0, complete, ending }
    }

    /// What happens at the end, to be moved elsewhere.
    pub fn ending_mut(&mut self) -> &mut Ending {
        &mut self.ending
    }

    /// Notes what passes on its way from the upstream.
    fn passed(
        &mut self,
        polled: Option<Result<Frame<Bytes>, Fault>>,
        ended: bool,
    ) -> Option<Result<Frame<Bytes>, Fault>> {
        match &polled {
            Some(Ok(frame)) => {
                self.complete = ended;
                self.count(frame);
            }
            None => self.complete = true,
            Some(Err(fault)) => tracing::debug!(error = %fault, "response body broke off"),
        }
        polled
    }

    fn count(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.sent += data.len() as u64;
            if let Some(tap) = &mut self.ending.tap {
                tap.data(data);
            }
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let body = &mut *self;
        match &mut body.content {
            Content::Empty => Poll::Ready(None),
            Content::Whole(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                body.content = Content::Empty;
                body.complete = true;
                body.count(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Content::Upstream(upstream) => {
                let polled = std::task::ready!(Pin::new(&mut *upstream).poll_frame(cx));
                let ended = upstream.is_end_stream();
                Poll::Ready(body.passed(polled, ended))
            }
            Content::Http2(upstream) => {
                let polled = std::task::ready!(Pin::new(&mut **upstream).poll_frame(cx));
                let ended = upstream.is_end_stream();
                Poll::Ready(body.passed(polled, ended))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Upstream(upstream) => upstream.is_end_stream(),
            Content::Http2(upstream) => upstream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Upstream(upstream) => upstream.size_hint(),
            Content::Http2(upstream) => upstream.size_hint(),
        }
    }
}

impl Drop for ProxyBody {
    fn drop(&mut self) {
        if let Some(tap) = self.ending.tap.take() {
            tap.end(self.complete);
        }
        if let Some(mut context) = self.ending.log.take() {
            context.timing.end = Some(Instant::now());
            context.outcome.response_body_bytes = self.sent;
            context.outcome.aborted = !self.complete;
            log(&context);
        }
    }
}

/// Runs the log phase of the request's chain.
pub fn log(context: &RequestContext) {
    let snapshot = context.snapshot.clone();
    let chain = context
        .route
        .and_then(|route| snapshot.routes.get(route))
        .map_or(&snapshot.unmatched, |entry| &entry.chain);
    chain.log(context);
}
