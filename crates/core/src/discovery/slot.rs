//! One service that somebody asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Discovery, ServiceSnapshot};

/// Uses within this time are noted once: a hot path must not write to a shared cache line per request.
const TOUCH_MS: u64 = 1000;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    current: ArcSwapOption<ServiceSnapshot>,
    version: watch::Sender<u64>,
    holders: AtomicUsize,
    used_ms: AtomicU64,
    watched: AtomicBool,
    /// Asks for a fresh read at once; only a swept slot listens.
    pub(super) nudge: Notify,
}

impl Slot {
    pub(super) fn new(name: &str, now_ms: u64) -> Self {
        Self {
            name: name.into(),
            current: ArcSwapOption::empty(),
            version: watch::Sender::new(0),
            holders: AtomicUsize::new(0),
            used_ms: AtomicU64::new(now_ms),
            watched: AtomicBool::new(false),
            nudge: Notify::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Option<Arc<ServiceSnapshot>> {
        self.current.load_full()
    }

    /// Swaps the snapshot in; subscribers wake only when something but its age has changed.
    pub(super) fn publish(&self, snapshot: ServiceSnapshot) {
        let same = self.current.load().as_ref().is_some_and(|current| {
            current.index == snapshot.index && current.instances == snapshot.instances
        });
        self.current.store(Some(Arc::new(snapshot)));
        if !same {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// A snapshot of at least this index, if one comes before the deadline.
    pub(super) async fn wait_for(&self, min_index: u64, deadline: Instant) -> Option<Arc<ServiceSnapshot>> {
        let mut version = self.version.subscribe();
        loop {
            if let Some(snapshot) = self.snapshot().filter(|snapshot| snapshot.index >= min_index) {
                return Some(snapshot);
            }
            self.nudge.notify_one();
            tokio::time::timeout_at(deadline, version.changed()).await.ok()?.ok()?;
        }
    }

    pub(super) fn touch(&self, now_ms: u64) {
        if now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed)) >= TOUCH_MS {
            self.used_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub(super) fn is_idle(&self, now_ms: u64, idle_ms: u64) -> bool {
        self.holders.load(Ordering::Acquire) == 0
            && now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed)) > idle_ms.saturating_add(TOUCH_MS)
    }

    pub(super) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::AcqRel);
    }

    fn release(&self) {
        self.holders.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub(super) fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Relaxed);
    }
}

/// Keeps one service watched and tells of its changes.
#[derive(Debug)]
pub struct Subscription {
    discovery: Discovery,
    slot: Arc<Slot>,
    version: watch::Receiver<u64>,
}

impl Subscription {
    /// The slot is held already.
    pub(super) fn new(discovery: Discovery, slot: Arc<Slot>) -> Self {
        let mut version = slot.version.subscribe();
        // What is there before the first `changed` counts as a change, so that nobody has to look first.
        if slot.snapshot().is_some() {
            version.mark_changed();
        }
        Self { discovery, slot, version }
    }

    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// The last good snapshot; `None` before the first.
    pub fn borrow(&self) -> Option<Arc<ServiceSnapshot>> {
        self.slot.snapshot()
    }

    /// Waits for a snapshot this subscription has not returned from `changed` before; changes in between are skipped.
    pub async fn changed(&mut self) -> Arc<ServiceSnapshot> {
        loop {
            // The sender lives in the slot, which we hold.
            let _alive = self.version.changed().await;
            if let Some(snapshot) = self.slot.snapshot() {
                return snapshot;
            }
        }
    }
}

impl Clone for Subscription {
    fn clone(&self) -> Self {
        self.slot.hold();
        Self::new(self.discovery.clone(), Arc::clone(&self.slot))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.slot.touch(self.discovery.inner.now_ms());
        self.slot.release();
    }
}
