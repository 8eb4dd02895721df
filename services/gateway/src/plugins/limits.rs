//! Counters of the local policy, shared by all workers, and the windows they count in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use plinth_kong::Period;
use uuid::Uuid;

/// Counters kept at most; beyond it those whose windows are over go first.
const MOST: usize = 262_144;
const SHARDS: usize = 64;

/// Where a plugin sits: all its requests count together, whatever route they came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub route: Option<Uuid>,
    pub service: Option<Uuid>,
}

/// A fixed window on the UTC clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Seconds since 1970.
    pub start: u64,
    /// Nominal length in seconds: Kong counts 30 days for a month and 365 for a year.
    pub length: u64,
}

impl Window {
    pub fn of(period: Period, now: SystemTime) -> Window {
        let now = seconds(now);
        let length = match period {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3600,
            Period::Day => 86_400,
            Period::Month => 2_592_000,
            Period::Year => 31_536_000,
        };
        let start = match period {
            Period::Month | Period::Year => calendar_start(period, now),
            _ => now - now % length,
        };
        Window { start, length }
    }

    /// Seconds until the window ends, at least one.
    pub fn reset(&self, now: SystemTime) -> u64 {
        self.length.saturating_sub(seconds(now).saturating_sub(self.start)).max(1)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Midnight of the first day of the month or year (proleptic Gregorian calendar, from the day's number).
fn calendar_start(period: Period, now: u64) -> u64 {
    let days = now / 86_400;
    let mut year = 1970;
    let mut first = 0;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < first + length {
            break;
        }
        first += length;
        year += 1;
    }
    if period == Period::Month {
        let february = if is_leap(year) { 29 } else { 28 };
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < first + length {
                break;
            }
            first += length;
        }
    }
    first * 86_400
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// One limit of one period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub period: Period,
    pub most: u64,
}

/// Requests counted before this one, in each of the plugin's periods.
pub(super) type Usage = [u64; 6];

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    window: u64,
    used: u64,
    end: u64,
}

/// The counters of one scope and identifier. A mutex, not atomics: a request has to be within all its limits before it counts in any, and
/// the critical section is a few additions.
type Counters = Mutex<[Count; 6]>;
type Shard = RwLock<HashMap<Key, Arc<Counters>, RandomState>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    who: Box<str>,
}

/// Every local counter of the gateway.
#[derive(Debug)]
pub(super) struct Limits {
    shards: Box<[Shard]>,
    hasher: RandomState,
    kept: AtomicUsize,
}

impl Default for Limits {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        Limits { shards, hasher: RandomState::default(), kept: AtomicUsize::new(0) }
    }
}

impl Limits {
    /// Counts a request unless one of its limits is used up; gives what was used before it.
    pub fn take(&self, scope: Scope, who: &str, limits: &[Limit], now: SystemTime) -> Usage {
        let counters = self.counters(scope, who, now);
        let mut counts = counters.lock();
        let mut usage = Usage::default();
        let mut within = true;
        for limit in limits {
            let window = Window::of(limit.period, now);
            let at = limit.period as usize;
            // A clock set back a little must not open an old window again.
            if counts[at].window < window.start || counts[at].window > window.start + window.length {
                counts[at] = Count { window: window.start, used: 0, end: window.start + window.length };
            }
            usage[at] = counts[at].used;
            within &= counts[at].used < limit.most;
        }
        if within {
            for limit in limits {
                counts[limit.period as usize].used += 1;
            }
        }
        usage
    }

    fn counters(&self, scope: Scope, who: &str, now: SystemTime) -> Arc<Counters> {
        use std::hash::BuildHasher as _;
        let key = Key { scope, who: who.into() };
        let shard = &self.shards[(self.hasher.hash_one(&key) as usize) % SHARDS];
        if let Some(counters) = shard.read().get(&key) {
            return Arc::clone(counters);
        }
        let mut map = shard.write();
        if map.len() >= MOST / SHARDS {
            self.sweep(&mut map, seconds(now));
        }
        Arc::clone(map.entry(key).or_insert_with(|| {
            self.kept.fetch_add(1, Relaxed);
            Arc::default()
        }))
    }

    /// Makes room: first what is over, then, under a flood of new identifiers, anything.
    fn sweep(&self, map: &mut HashMap<Key, Arc<Counters>, RandomState>, now: u64) {
        let before = map.len();
        map.retain(|_, counters| counters.lock().iter().any(|count| count.end > now));
        if map.len() >= MOST / SHARDS {
            let mut keep = MOST / SHARDS / 2;
            map.retain(|_, _| {
                keep = keep.saturating_sub(1);
                keep > 0
            });
        }
        self.kept.fetch_sub(before - map.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = Scope { route: None, service: None };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn windows_are_clock_windows() {
        // 2024-02-29 12:34:56 UTC
        let now = at(1_709_210_096);
        let start = |period| Window::of(period, now).start;
        assert_eq!(start(Period::Second), 1_709_210_096);
        assert_eq!(start(Period::Minute), 1_709_210_040);
        assert_eq!(start(Period::Hour), 1_709_208_000);
        assert_eq!(start(Period::Day), 1_709_164_800);
        assert_eq!(start(Period::Month), 1_706_745_600);
        assert_eq!(start(Period::Year), 1_704_067_200);
        assert_eq!(Window::of(Period::Minute, now).reset(now), 4);
    }

    #[test]
    fn refused_requests_cost_nothing_in_any_period() {
        let limits = Limits::default();
        let both = [Limit { period: Period::Minute, most: 2 }, Limit { period: Period::Hour, most: 100 }];
        for expected in [0, 1, 2, 2] {
            assert_eq!(limits.take(SCOPE, "a", &both, at(600))[Period::Hour as usize], expected);
        }
        assert_eq!(limits.take(SCOPE, "a", &both, at(660))[Period::Minute as usize], 0, "a new minute");
        assert_eq!(limits.take(SCOPE, "a", &both, at(660))[Period::Hour as usize], 3);
        assert_eq!(limits.take(SCOPE, "b", &both, at(660))[Period::Hour as usize], 0, "another identifier");
    }

    #[test]
    fn exact_under_contention() {
        let limits = Limits::default();
        let limit = [Limit { period: Period::Year, most: 1000 }];
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500).filter(|_| limits.take(SCOPE, "x", &limit, at(9))[5] < 1000).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    #[test]
    fn memory_is_bounded() {
        let limits = Limits::default();
        let limit = [Limit { period: Period::Year, most: 1 }];
        for who in 0..MOST + 10_000 {
            limits.take(SCOPE, &who.to_string(), &limit, at(9));
        }
        assert!(limits.kept.load(Relaxed) <= MOST);
    }
}
