//! Unreachable catalog instances leave the rotation for a while, before the catalog's own checks notice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plinth_core::balance::{Down, Endpoint, Live};

use crate::client::Fault;

/// How often [`Ejections::sweep`] is to be called.
pub const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// First time out of the rotation; doubled for each further one, up to the longest.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// Refused connections in a row that eject. One connect timeout ejects at once: it already cost a client seconds.
const REFUSALS: u32 = 2;

#[derive(Debug)]
struct Record {
    live: Arc<Live>,
    refusals: u32,
    /// Times ejected in a row.
    times: u32,
    back_at: Option<Instant>,
}

/// Which endpoints of one upstream failed to connect lately.
#[derive(Debug, Default)]
pub struct Ejections {
    /// Endpoints with a record; looked at by every answer without a lock.
    suspects: AtomicUsize,
    records: Mutex<HashMap<Arc<str>, Record>>,
}

impl Ejections {
    /// A try failed.
    pub fn failed(&self, endpoint: &Endpoint, fault: &Fault, now: Instant) {
        if !fault.is_connect() {
            return;
        }
        let mut records = self.records.lock();
        let record = records.entry(endpoint.id.clone()).or_insert_with(|| Record {
            live: endpoint.live.clone(),
            refusals: 0,
            times: 0,
            back_at: None,
        });
        record.refusals += 1;
        let enough = record.refusals >= REFUSALS || fault.is_timeout();
        if enough && record.back_at.is_none() {
            let wait = FIRST.saturating_mul(1 << record.times.min(8)).min(LONGEST);
            record.back_at = Some(now + wait);
            record.times += 1;
            record.live.set_down(Down::Ejected, true);
            tracing::warn!(endpoint = %endpoint.id, wait_s = wait.as_secs(), "instance cannot be reached: out of the rotation");
        }
        self.suspects.store(records.len(), Relaxed);
    }

    /// The endpoint answered: whatever was held against it is forgotten.
    pub fn succeeded(&self, endpoint: &Endpoint) {
        if self.suspects.load(Relaxed) == 0 {
            return;
        }
        let mut records = self.records.lock();
        if let Some(record) = records.remove(&endpoint.id) {
            record.live.set_down(Down::Ejected, false);
        }
        self.suspects.store(records.len(), Relaxed);
    }

    /// Lets those back whose time is over; their next failure ejects them at once, for longer.
    pub fn sweep(&self, now: Instant) {
        if self.suspects.load(Relaxed) == 0 {
            return;
        }
        let mut records = self.records.lock();
        // the catalog forgot it and no request runs on it: nobody else holds its live state
        records.retain(|_, record| Arc::strong_count(&record.live) > 1);
        for record in records.values_mut() {
            if record.back_at.is_some_and(|at| at <= now) {
                record.back_at = None;
                record.refusals = REFUSALS - 1;
                record.live.set_down(Down::Ejected, false);
            }
        }
        self.suspects.store(records.len(), Relaxed);
    }

    /// Endpoints out of the rotation now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.lock().values().filter(|record| record.back_at.is_some()).count()
    }

    /// None is out of the rotation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
