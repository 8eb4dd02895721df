//! Answers are read ahead of slow clients, so that these do not hold connections to upstreams.
//!
//! Nothing happens while a client keeps up. Each worker looks at its streamed answers once per [`tick::TICK`]; one that
//! nobody has asked for a piece since then, though the upstream is not what it waits for, belongs to a slow client, and
//! what has come from the upstream is read: up to a limit for each answer and one for all of a worker. An answer that ends
//! within its limit gives its connection back to the pool.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use plinth_core::balance::InFlight;
use tokio::sync::Notify;

use super::body::UpstreamBody;
use super::error::Fault;
use crate::metrics::WorkerStats;
use crate::tick;

/// Bytes read for all answers together before other work of the worker gets a turn.
const AT_ONCE: usize = 256 * 1024;

/// How much is read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAheadSettings {
    /// Bytes of one answer; 0 = none.
    pub response: usize,
    /// Bytes of all answers of a worker.
    pub worker: usize,
}

impl Default for ReadAheadSettings {
    fn default() -> Self {
        // nginx's eight buffers of eight kilobytes
        Self { response: 64 * 1024, worker: 32 * 1024 * 1024 }
    }
}

/// A body on its way to a client, which a worker may read ahead of it.
#[derive(Clone, Debug)]
pub struct Streamed(Rc<RefCell<UpstreamBody>>);

impl Streamed {
    pub(super) fn new(body: UpstreamBody) -> Self {
        Self(Rc::new(RefCell::new(body)))
    }

    /// The endpoint's count of requests goes down when it has sent its last byte, whatever the client does.
    pub fn counts(&self, in_flight: InFlight) {
        self.0.borrow_mut().in_flight = Some(in_flight);
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().size_hint()
    }
}

/// The answers of one worker that may be read ahead of their clients.
#[derive(Debug)]
pub struct ReadAhead {
    settings: ReadAheadSettings,
    watched: RefCell<Vec<Weak<RefCell<UpstreamBody>>>>,
    asleep: Cell<bool>,
    wake: Notify,
}

impl ReadAhead {
    /// Nothing watched yet.
    #[must_use]
    pub fn new(settings: ReadAheadSettings) -> Self {
        Self { settings, watched: RefCell::default(), asleep: Cell::new(false), wake: Notify::new() }
    }

    /// From now on this answer is read ahead when its client is slow.
    pub fn watch(&self, body: &Streamed) {
        if self.settings.response == 0 {
            return;
        }
        self.watched.borrow_mut().push(Rc::downgrade(&body.0));
        if self.asleep.replace(false) {
            self.wake.notify_one();
        }
    }

    /// Looks after the watched answers; spawned once per worker, never ends.
    pub async fn run(self: Rc<Self>, stats: std::sync::Arc<WorkerStats>) {
        loop {
            if self.watched.borrow().is_empty() {
                self.asleep.set(true);
                self.wake.notified().await;
            }
            tokio::time::sleep(tick::TICK).await;
            self.round(&stats).await;
        }
    }

    async fn round(&self, stats: &WorkerStats) {
        let all = std::mem::take(&mut *self.watched.borrow_mut());
        let mut held: usize =
            all.iter().filter_map(Weak::upgrade).map(|body| body.borrow().ahead_bytes).sum();
        let mut read = 0;
        for watched in all {
            let Some(body) = watched.upgrade() else { continue };
            let room = self.settings.worker.saturating_sub(held);
            let new = body.borrow_mut().read_ahead(self.settings.response, room);
            held += new;
            read += new;
            if body.borrow().connection.is_some() || !body.borrow().ahead.is_empty() {
                self.watched.borrow_mut().push(watched);
            }
            drop(body);
            if read >= AT_ONCE {
                read = 0;
                tokio::task::yield_now().await;
            }
        }
        stats.read_ahead.set(held as u64);
    }
}
