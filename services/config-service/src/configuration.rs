//! Writing and reading the configuration: what the routes stand on.

use std::sync::Arc;
use std::time::Duration;

use plinth_kit::problem::FieldFault;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::domain::{Change, ItemId, Refusal, Revision, Snapshot};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::store::{Store, Written};
use crate::tasks::sole_writer::Permission;

/// First pause between looks at the history while a write waits for its snapshot; doubled up to the last.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(160));

/// Numbers of the request side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait of a write for its own snapshot; then it is answered as accepted. Default 2 s.
    pub publish_wait: Duration,
    /// Longest wait of a read for a minimum index. Default 5 s.
    pub index_wait: Duration,
    /// Open event streams and long polls. Default 1,000.
    pub watchers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { publish_wait: Duration::from_secs(2), index_wait: Duration::from_secs(5), watchers: 1000 }
    }
}

pub struct Configuration {
    store: Arc<dyn Store>,
    pub live: Arc<Live>,
    permission: Arc<Permission>,
    nudge: Arc<Notify>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    watchers: Arc<Semaphore>,
    /// Ends long polls and event streams, so that they do not hold up the shutdown.
    pub stop: CancellationToken,
}

/// What a write brought about.
#[derive(Debug)]
pub struct Outcome {
    pub revision: Revision,
    /// There was no live item before.
    pub created: bool,
    /// The snapshot in which it shows; `None`: it is durable, and on its way into KV.
    pub shown: Option<Arc<Snapshot>>,
}

impl Configuration {
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<Live>,
        permission: Arc<Permission>,
        nudge: Arc<Notify>,
        metrics: Arc<Metrics>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        let watchers = Arc::new(Semaphore::new(limits.watchers));
        Self { store, live, permission, nudge, metrics, limits, watchers, stop }
    }

    /// Writes one change: durable when this returns, and shown by this replica's reads unless `shown` is none.
    ///
    /// # Errors
    /// [`Error::Precondition`], [`Error::NotFound`], [`Error::WriterUnconfirmed`] and the database's: then nothing was
    /// changed, except that an error of the connection leaves open whether the commit arrived.
    pub async fn write(&self, change: &Change) -> Result<Outcome, Error> {
        self.permission.check()?;
        let (revision, created) = match self.store.write(change).await? {
            Written::Appended { revision, before } => (revision, before.is_none()),
            Written::Unchanged(revision) => {
                self.count("unchanged");
                let shown = self.shown(&revision, Duration::ZERO).await;
                return Ok(Outcome { revision, created: false, shown });
            }
            Written::Refused(refusal) => {
                self.count("refused");
                return Err(match refusal {
                    Refusal::Precondition { current } => Error::Precondition { current },
                    Refusal::NotFound | Refusal::Superseded => Error::NotFound,
                });
            }
        };
        self.nudge.notify_one();
        // While Consul is known to be away there is little hope to see it soon.
        let share = if self.live.is_connected() { 1 } else { 10 };
        let shown = self.shown(&revision, self.limits.publish_wait / share).await;
        self.count(if shown.is_some() { "live" } else { "accepted" });
        Ok(Outcome { revision, created, shown })
    }

    /// Waits until the snapshot shows the revision: it has this one or a later one, or it is younger than the index
    /// at which this one or a later one arrived in KV.
    async fn shown(&self, revision: &Revision, limit: Duration) -> Option<Arc<Snapshot>> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut changes = self.live.subscribe();
        let mut look = LOOK.0;
        let mut published = None;
        loop {
            changes.mark_unchanged();
            if !revision.is_tombstone()
                && let Some(snapshot) = self.live.shows(&revision.id, revision.revision)
            {
                return Some(snapshot);
            }
            if let Some(index) = published
                && let Some(snapshot) = self.live.current().filter(|now| has_arrived(now, revision, index))
            {
                return Some(snapshot);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(look) => {
                    look = (look * 2).min(LOOK.1);
                    if published.is_none() {
                        published = self.store.published_at(&revision.id, revision.revision).await.ok().flatten();
                    }
                }
                () = tokio::time::sleep_until(deadline) => return None,
            }
        }
    }

    /// # Errors
    /// The database's.
    pub async fn history(
        &self,
        id: &ItemId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Revision>, Error> {
        self.store.history(id, before, limit).await
    }

    /// The snapshot to answer a read from, by the rules of `index` and `wait`: `index` alone is a minimum; with `wait`
    /// it blocks until `changed` went beyond it.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::SnapshotBehind`], [`Error::TooManyWatchers`].
    pub async fn snapshot(
        &self,
        index: Option<u64>,
        wait: Option<Duration>,
        changed: impl Fn(&Snapshot) -> u64,
    ) -> Result<Arc<Snapshot>, Error> {
        match (index, wait) {
            (None | Some(0), _) => self.live.at_least(0, self.limits.index_wait).await,
            (Some(index), None) => self.live.at_least(index, self.limits.index_wait).await,
            (Some(index), Some(wait)) => {
                let _watcher = self.watcher()?;
                tokio::select! {
                    found = self.live.changed_after(index, wait, changed) => found,
                    () = self.stop.cancelled() => self.live.current().ok_or(Error::NotReady),
                }
            }
        }
    }

    /// A place among the watchers, until it is dropped.
    ///
    /// # Errors
    /// [`Error::TooManyWatchers`]
    pub fn watcher(&self) -> Result<Watcher, Error> {
        let permit = self.watchers.clone().try_acquire_owned().map_err(|_| Error::TooManyWatchers)?;
        self.metrics.watchers.inc();
        Ok(Watcher { _permit: permit, gauge: self.metrics.watchers.clone() })
    }

    fn count(&self, result: &str) {
        self.metrics.writes.with_label_values(&[result]).inc();
    }
}

fn has_arrived(now: &Snapshot, revision: &Revision, index: u64) -> bool {
    let replaced = now.get(&revision.id).is_none_or(|entry| entry.revision > revision.revision);
    now.index >= index && (replaced || !revision.is_tombstone())
}

/// One open stream or long poll.
pub struct Watcher {
    _permit: OwnedSemaphorePermit,
    gauge: prometheus::IntGauge,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// A fault of one field.
pub fn fault(field: &str, message: impl Into<String>) -> FieldFault {
    FieldFault { field: field.to_owned(), message: message.into() }
}
