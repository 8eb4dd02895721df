//! The part of an endpoint that changes: shared by Arc, so that it survives every snapshot swap.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::checks::{CheckCounters, CheckLimits, Observation};
use super::ewma::PeakEwma;
use super::set::Availability;

/// A failed request is charged at least this much by the latency average: an endpoint that refuses within
/// microseconds must not look like the fastest one.
const FAILURE_MICROS: u64 = 1_000_000;

/// Why an endpoint takes no traffic. Several may hold at once; it is available when none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Down {
    /// The catalog says so (checks of its own, maintenance).
    Catalog = 1,
    /// This process's active or passive checks say so.
    Checks = 2,
    /// Leaves soon: sticky sessions stay, no new ones.
    Draining = 4,
    /// An operator took it out. The only one that a panic policy does not override.
    Operator = 8,
    /// Taken out for a while for what happened on it: unreachable, an open circuit breaker, an outlier.
    Ejected = 16,
}

/// Live state of one endpoint. The fields of the request path share one cache line with no other endpoint's.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Live {
    in_flight: AtomicU32,
    down: AtomicU32,
    ewma: PeakEwma,
    counters: CheckCounters,
    /// The sets this endpoint is in, with its place: a flip is written through to their indexes. Locked for flips
    /// and when a set is built, never by a pick.
    places: Mutex<Vec<(Weak<Availability>, u32)>>,
}

impl Live {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Requests running on it now, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub fn is_available(&self) -> bool {
        self.down.load(Relaxed) == 0
    }

    pub fn is_down_for(&self, reason: Down) -> bool {
        self.down.load(Relaxed) & reason as u32 != 0
    }

    /// Available but for `Draining`: good enough for a session that lives there already.
    pub(super) fn keeps_sessions(&self) -> bool {
        self.down.load(Relaxed) & !(Down::Draining as u32) == 0
    }

    /// What the panic policy may still use.
    pub(super) fn usable_in_panic(&self) -> bool {
        self.down.load(Relaxed) & (Down::Operator as u32) == 0
    }

    /// Sets or clears one reason; true when that changed the availability. Every set that holds the endpoint
    /// knows before this returns.
    pub fn set_down(&self, reason: Down, down: bool) -> bool {
        let mut places = self.places.lock();
        let bit = reason as u32;
        let before = if down { self.down.fetch_or(bit, Relaxed) } else { self.down.fetch_and(!bit, Relaxed) };
        let after = if down { before | bit } else { before & !bit };
        if (before == 0) == (after == 0) {
            return false;
        }
        places.retain(|(set, place)| match set.upgrade() {
            Some(set) => {
                set.mark(*place, after == 0);
                true
            }
            None => false,
        });
        true
    }

    /// Counts a check's observation; `Some(healthy)` when it turned the endpoint.
    pub fn observe(&self, observation: Observation, limits: &CheckLimits) -> Option<bool> {
        let healthy = self.counters.observe(observation, limits)?;
        if self.is_down_for(Down::Checks) != healthy {
            return None;
        }
        self.set_down(Down::Checks, !healthy);
        Some(healthy)
    }

    /// Forgets what checks counted and takes their verdict back (or gives it), as an operator's "healthy" does.
    pub fn reset_checks(&self, healthy: bool) {
        self.counters.reset();
        self.set_down(Down::Checks, !healthy);
    }

    /// Moving average of the latency, microseconds; `None` before the first answer.
    pub fn latency_micros(&self, now_micros: u64) -> Option<f32> {
        self.ewma.value(now_micros)
    }

    pub(super) fn cost(&self, now_micros: u64) -> f32 {
        self.ewma.cost(self.in_flight(), now_micros)
    }

    /// Counts a request in. `now_micros` is the process's monotonic clock (`Clock::micros`).
    pub fn start(self: &Arc<Self>, now_micros: u64) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { live: Arc::clone(self), started: now_micros }
    }

    /// Registers a set's place and tells the set the present state, without a gap for a flip between both.
    pub(super) fn join(&self, set: &Arc<Availability>, place: u32) {
        let mut places = self.places.lock();
        places.retain(|(set, _)| set.strong_count() > 0);
        places.push((Arc::downgrade(set), place));
        set.mark(place, self.is_available());
    }
}

/// A running request. Dropping it counts it out; `finish` or `fail` before that feeds the latency average
/// (a request given up by its client says nothing about the endpoint: just drop).
#[derive(Debug)]
#[must_use = "dropping it counts the request out"]
pub struct InFlight {
    live: Arc<Live>,
    started: u64,
}

impl InFlight {
    /// The answer's head came: its latency is a sample. The request stays in flight until this is dropped.
    pub fn responded(&self, now_micros: u64) {
        self.live.ewma.observe(now_micros.saturating_sub(self.started), now_micros);
    }

    /// The try failed (refused, reset, timed out): charged its time, at least one second.
    pub fn failed(&self, now_micros: u64) {
        self.live.ewma.observe(now_micros.saturating_sub(self.started).max(FAILURE_MICROS), now_micros);
    }

    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.live.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Hands the same `Live` to every snapshot's endpoint of one id. One per upstream: ids are only unique there.
#[derive(Debug, Default)]
pub struct LiveTable(Mutex<HashMap<Arc<str>, Weak<Live>>>);

impl LiveTable {
    pub fn new() -> Self {
        Self::default()
    }

    /// The live state of `id`, as long as some snapshot or request still holds it; else a fresh one.
    pub fn get(&self, id: &str) -> Arc<Live> {
        let mut table = self.0.lock();
        if let Some(live) = table.get(id).and_then(Weak::upgrade) {
            return live;
        }
        // Swept when it would grow: the table stays within twice the endpoints in use.
        if table.len() == table.capacity() {
            table.retain(|_, live| live.strong_count() > 0);
        }
        let live = Live::new();
        table.insert(id.into(), Arc::downgrade(&live));
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_counts_in_and_out() {
        let live = Live::new();
        let first = live.start(0);
        let second = live.start(0);
        assert_eq!(live.in_flight(), 2);
        first.responded(5_000);
        drop(first);
        assert_eq!(live.in_flight(), 1);
        assert_eq!(live.latency_micros(5_000), Some(5_000.0));
        second.failed(6_000);
        assert_eq!(live.latency_micros(6_000), Some(1_000_000.0));
        drop(second);
        assert_eq!(live.in_flight(), 0);
    }

    #[test]
    fn reasons_add_up() {
        let live = Live::new();
        assert!(live.set_down(Down::Catalog, true));
        assert!(!live.set_down(Down::Checks, true), "was down already");
        assert!(!live.set_down(Down::Catalog, false), "still down for the checks");
        assert!(!live.is_available());
        assert!(live.set_down(Down::Checks, false));
        assert!(live.is_available());
    }

    #[test]
    fn observations_turn_it_once() {
        let live = Live::new();
        let limits = CheckLimits { successes: 1, http_failures: 2, ..CheckLimits::default() };
        assert_eq!(live.observe(Observation::HttpFailure, &limits), None);
        assert_eq!(live.observe(Observation::HttpFailure, &limits), Some(false));
        assert_eq!(live.observe(Observation::HttpFailure, &limits), None);
        assert_eq!(live.observe(Observation::Success, &limits), Some(true));
        assert!(live.is_available());
    }

    #[test]
    fn the_table_keeps_what_is_held() {
        let table = LiveTable::new();
        let a = table.get("a");
        assert!(Arc::ptr_eq(&a, &table.get("a")));
        drop(a);
        for i in 0..1000 {
            drop(table.get(&i.to_string()));
        }
        assert!(table.0.lock().len() < 64);
    }
}
