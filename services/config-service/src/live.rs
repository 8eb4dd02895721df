//! The snapshot that reads are served from, and waiting on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Error;
use crate::domain::{ItemId, Snapshot};

/// Holds the last good snapshot and wakes who waits for the next. Never goes back to "none".
pub struct Live {
    current: watch::Sender<Option<Arc<Snapshot>>>,
    confirmed: Mutex<Option<Instant>>,
    connected: AtomicBool,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            current: watch::Sender::new(None),
            confirmed: Mutex::new(None),
            connected: AtomicBool::new(false),
        }
    }
}

impl Live {
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.current.subscribe()
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.current.send_replace(Some(Arc::new(snapshot)));
    }

    /// Consul answered just now: the snapshot is what it has.
    pub fn confirm(&self, now: Instant) {
        *self.confirmed.lock() = Some(now);
        self.connected.store(true, Ordering::Relaxed);
    }

    /// Consul did not answer: the snapshot ages.
    pub fn disconnect(&self) {
        self.connected.store(false, Ordering::Relaxed);
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Time since Consul last confirmed the snapshot; zero while a query is open, for Consul would tell a change.
    pub fn age(&self) -> Option<Duration> {
        let confirmed = (*self.confirmed.lock())?;
        Some(if self.is_connected() { Duration::ZERO } else { confirmed.elapsed() })
    }

    /// A snapshot of at least `index`.
    ///
    /// # Errors
    /// [`Error::NotReady`] or [`Error::SnapshotBehind`] after `limit`.
    pub async fn at_least(&self, index: u64, limit: Duration) -> Result<Arc<Snapshot>, Error> {
        let found = self.wait(limit, |snapshot| snapshot.index >= index).await;
        match found {
            Ok(snapshot) => Ok(snapshot),
            Err(Some(snapshot)) => Err(Error::SnapshotBehind { wanted: index, current: snapshot.index }),
            Err(None) => Err(Error::NotReady),
        }
    }

    /// The first snapshot in which what `changed` looks at changed after `index`, or the last one when `limit` is over.
    ///
    /// # Errors
    /// [`Error::NotReady`] when there was no snapshot at all.
    pub async fn changed_after(
        &self,
        index: u64,
        limit: Duration,
        changed: impl Fn(&Snapshot) -> u64,
    ) -> Result<Arc<Snapshot>, Error> {
        match self.wait(limit, |snapshot| changed(snapshot) > index).await {
            Ok(snapshot) | Err(Some(snapshot)) => Ok(snapshot),
            Err(None) => Err(Error::NotReady),
        }
    }

    async fn wait(
        &self,
        limit: Duration,
        fits: impl Fn(&Snapshot) -> bool,
    ) -> Result<Arc<Snapshot>, Option<Arc<Snapshot>>> {
        let mut receiver = self.subscribe();
        let found = tokio::time::timeout(limit, async {
            let found = receiver.wait_for(|slot| slot.as_deref().is_some_and(&fits)).await;
            found.ok().and_then(|slot| slot.clone())
        })
        .await;
        found.ok().flatten().ok_or_else(|| self.current())
    }

    /// Whether the snapshot shows this revision of the item or a later one.
    pub fn shows(&self, id: &ItemId, revision: u64) -> Option<Arc<Snapshot>> {
        self.current().filter(|now| now.get(id).is_some_and(|entry| entry.revision >= revision))
    }
}
