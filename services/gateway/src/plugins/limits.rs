//! Counters of the local policy, shared by all workers, and the windows they count in.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
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
        Window::at(period, seconds(now))
    }

    /// The window of a second since 1970.
    fn at(period: Period, now: u64) -> Window {
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

    /// The window before this one.
    pub fn before(&self, period: Period) -> Window {
        Window::at(period, self.start.saturating_sub(1))
    }

    /// The part of the window before that still lies within one length from `now`: 1 at this window's start, 0 at its end.
    pub fn weight_of_before(&self, now: SystemTime) -> f64 {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() - self.start as f64;
        (1.0 - since / self.length as f64).clamp(0.0, 1.0)
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

impl Limit {
    /// Used < 2.5 admits three requests, so a fraction rounds up.
    pub fn new(period: Period, most: f64) -> Limit {
        Limit { period, most: most.ceil() as u64 }
    }
}

/// Requests counted before this one, in each of the plugin's periods.
pub(super) type Usage = [u64; 6];

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    window: u64,
    used: u64,
    /// Used in the window before.
    before: u64,
    end: u64,
}

impl Count {
    /// Opens the window of `now`; a clock set back a little does not open an old one again.
    fn turn(&mut self, period: Period, now: u64) -> Window {
        let window = Window::at(period, now);
        if self.window < window.start || self.window > window.start + window.length {
            let follows = self.used > 0 && self.window == window.before(period).start;
            let before = if follows { self.used } else { 0 };
            // Sliding windows look back one length.
            *self = Count { window: window.start, used: 0, before, end: window.start + 2 * window.length };
        }
        window
    }
}

/// The counters of one scope and identifier. A mutex, not atomics: a request has to be within all its limits before it counts in any, and
/// the critical section is a few additions.
type Counters = Mutex<[Count; 6]>;
type Shard = RwLock<HashMap<Key, Arc<Counters>, RandomState>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    scope: Scope,
    who: Box<str>,
}

/// A key owned or borrowed, so that looking a counter up copies nothing.
trait Named {
    fn parts(&self) -> (Scope, &str);
}

impl Named for Key {
    fn parts(&self) -> (Scope, &str) {
        (self.scope, &self.who)
    }
}

impl Named for (Scope, &str) {
    fn parts(&self) -> (Scope, &str) {
        *self
    }
}

impl Hash for dyn Named + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Named + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl<'k> Borrow<dyn Named + 'k> for Key {
    fn borrow(&self) -> &(dyn Named + 'k) {
        self
    }
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
    pub fn take(&self, scope: Scope, who: &str, limits: &[Limit], sliding: bool, now: SystemTime) -> Usage {
        let counters = self.counters(scope, who, now);
        let mut counts = counters.lock();
        let mut usage = Usage::default();
        let mut within = true;
        let second = seconds(now);
        for limit in limits {
            let at = limit.period as usize;
            let window = counts[at].turn(limit.period, second);
            usage[at] = counts[at].used;
            if sliding && counts[at].before > 0 {
                usage[at] += (counts[at].before as f64 * window.weight_of_before(now)) as u64;
            }
            within &= usage[at] < limit.most;
        }
        if within {
            for limit in limits {
                counts[limit.period as usize].used += 1;
            }
        }
        usage
    }

    /// What was used so far in each of the periods.
    pub fn used(&self, scope: Scope, who: &str, periods: &[Limit], now: SystemTime) -> Usage {
        let counters = self.counters(scope, who, now);
        let mut counts = counters.lock();
        let mut usage = Usage::default();
        for limit in periods {
            counts[limit.period as usize].turn(limit.period, seconds(now));
            usage[limit.period as usize] = counts[limit.period as usize].used;
        }
        usage
    }

    /// Counts `amount` in each of the periods, whatever their limits.
    pub fn add(&self, scope: Scope, who: &str, periods: &[Limit], amount: u64, now: SystemTime) {
        let counters = self.counters(scope, who, now);
        let mut counts = counters.lock();
        for limit in periods {
            let count = &mut counts[limit.period as usize];
            count.turn(limit.period, seconds(now));
            count.used = count.used.saturating_add(amount);
        }
    }

    fn counters(&self, scope: Scope, who: &str, now: SystemTime) -> Arc<Counters> {
        use std::hash::BuildHasher as _;
        let asked = (scope, who);
        let shard = &self.shards[(self.hasher.hash_one(asked) as usize) % SHARDS];
        if let Some(counters) = shard.read().get(&asked as &dyn Named) {
            return Arc::clone(counters);
        }
        let key = Key { scope, who: who.into() };
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
            assert_eq!(limits.take(SCOPE, "a", &both, false, at(600))[Period::Hour as usize], expected);
        }
        assert_eq!(
            limits.take(SCOPE, "a", &both, false, at(660))[Period::Minute as usize],
            0,
            "a new minute"
        );
        assert_eq!(limits.take(SCOPE, "a", &both, false, at(660))[Period::Hour as usize], 3);
        assert_eq!(
            limits.take(SCOPE, "b", &both, false, at(660))[Period::Hour as usize],
            0,
            "another identifier"
        );
    }

    #[test]
    fn sliding_windows_count_the_part_of_the_one_before_that_is_not_over() {
        let limits = Limits::default();
        let ten = [Limit { period: Period::Minute, most: 10 }];
        let used = |second| limits.take(SCOPE, "a", &ten, true, at(second))[Period::Minute as usize];
        for count in 0..10 {
            assert_eq!(used(630), count);
        }
        assert_eq!(used(659), 10, "used up");
        assert_eq!(used(660), 10, "and still at the turn of the minute");
        assert_eq!(used(666), 9, "a tenth of the last minute is over");
        assert_eq!(used(666), 10, "9 of the last and 1 of this minute");
        assert_eq!(used(690), 6, "5 and 1");
        assert_eq!(used(790), 0, "two minutes later");
    }

    #[test]
    fn amounts_are_added_whatever_the_limit() {
        let limits = Limits::default();
        let both = [Limit { period: Period::Minute, most: 2 }, Limit { period: Period::Day, most: 2 }];
        limits.add(SCOPE, "a", &both, 5, at(600));
        limits.add(SCOPE, "a", &both, 5, at(660));
        let used = limits.used(SCOPE, "a", &both, at(661));
        assert_eq!((used[Period::Minute as usize], used[Period::Day as usize]), (5, 10));
    }

    #[test]
    fn exact_under_contention() {
        let limits = Limits::default();
        let limit = [Limit { period: Period::Year, most: 1000 }];
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500).filter(|_| limits.take(SCOPE, "x", &limit, false, at(9))[5] < 1000).count()
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
            limits.take(SCOPE, &who.to_string(), &limit, false, at(9));
        }
        assert!(limits.kept.load(Relaxed) <= MOST);
    }
}
