//! Circuit breakers and outlier ejection: targets are judged by the requests that really went to them.
//!
//! A failure is a try without an answer or an answer of 500 and above. Only upstreams that ask for it have a guard; all
//! others pay nothing. What is learned about a target is kept while its upstream knows the target.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plinth_core::balance::{Down, Endpoint, Live};

use super::extensions::{Breaker, Extensions, Outlier};

/// How one upstream's targets have fared.
#[derive(Debug)]
pub struct Guard {
    breaker: Option<Breaker>,
    outlier: Option<Outlier>,
    targets: Mutex<HashMap<Arc<str>, Arc<Watched>>>,
    ejected: AtomicUsize,
}

/// One target.
#[derive(Debug)]
pub struct Watched {
    id: Arc<str>,
    live: Arc<Live>,
    /// Looked at by every pick without a lock.
    half_open: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    /// Two halves of the breaker's window: requests and failures.
    halves: [(u32, u32); 2],
    half_began: Instant,
    phase: Phase,
    in_a_row: u32,
    out_until: Option<Instant>,
    /// Times ejected as an outlier without a success in between.
    times: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    /// `since` is when the running trials began; after the breaker's time they are given up for lost.
    HalfOpen {
        running: u32,
        since: Instant,
        good: u32,
    },
}

impl Guard {
    /// `None` when the upstream asks for neither.
    #[must_use]
    pub fn new(extensions: &Extensions) -> Option<Self> {
        let Extensions { breaker, outlier, .. } = extensions;
        (breaker.is_some() || outlier.is_some()).then(|| Self {
            breaker: *breaker,
            outlier: *outlier,
            targets: Mutex::default(),
            ejected: AtomicUsize::new(0),
        })
    }

    /// The records of these endpoints, in their order; those of others are forgotten.
    pub fn watch(&self, endpoints: &[Endpoint]) -> Vec<Arc<Watched>> {
        let mut targets = self.targets.lock();
        let watched: Vec<Arc<Watched>> = endpoints
            .iter()
            .map(|endpoint| {
                let known =
                    targets.get(&endpoint.id).filter(|known| Arc::ptr_eq(&known.live, &endpoint.live));
                known.cloned().unwrap_or_else(|| {
                    // what another guard may have thought of it
                    endpoint.live.set_down(Down::Ejected, false);
                    Arc::new(Watched::new(endpoint))
                })
            })
            .collect();
        *targets = watched.iter().map(|one| (one.id.clone(), one.clone())).collect();
        watched
    }

    /// Whether a request may go to the target that was picked: always, but while its breaker is half open.
    #[must_use]
    pub fn admits(&self, target: &Watched, now: Instant) -> bool {
        let Some(breaker) = self.breaker.filter(|_| target.half_open.load(Relaxed)) else { return true };
        let mut record = target.record.lock();
        let Phase::HalfOpen { running, since, .. } = &mut record.phase else { return true };
        if now.saturating_duration_since(*since) > breaker.open {
            *running = 0;
        }
        if *running >= breaker.trials {
            return false;
        }
        *running += 1;
        *since = now;
        true
    }

    /// A try ended.
    pub fn observe(&self, target: &Watched, good: bool, now: Instant) {
        let mut record = target.record.lock();
        if let Some(breaker) = &self.breaker {
            record.count(breaker, good, now);
            target.half_open.store(matches!(record.phase, Phase::HalfOpen { .. }), Relaxed);
        }
        if let Some(outlier) = &self.outlier {
            self.judge(outlier, target, &mut record, good, now);
        }
        target.apply(&record);
    }

    fn judge(&self, outlier: &Outlier, target: &Watched, record: &mut Record, good: bool, now: Instant) {
        if good {
            (record.in_a_row, record.times) = (0, 0);
            return;
        }
        record.in_a_row += 1;
        if record.in_a_row < outlier.failures || record.out_until.is_some() {
            return;
        }
        let out = self.ejected.load(Relaxed) as u64 + 1;
        let known = self.targets.lock().len() as u64;
        if out > 1 && out * 100 > known * u64::from(outlier.most) {
            return;
        }
        record.times += 1;
        record.in_a_row = 0;
        record.out_until = Some(now + outlier.time.saturating_mul(record.times));
        self.ejected.fetch_add(1, Relaxed);
        tracing::warn!(endpoint = %target.id, times = record.times, "outlier: out of the rotation for a while");
    }

    /// Half-opens breakers and lets outliers back whose time has come.
    pub fn sweep(&self, now: Instant) {
        let targets: Vec<Arc<Watched>> = self.targets.lock().values().cloned().collect();
        let mut ejected = 0;
        for target in targets {
            let mut record = target.record.lock();
            if matches!(record.phase, Phase::Open { until } if until <= now) {
                record.phase = Phase::HalfOpen { running: 0, since: now, good: 0 };
                target.half_open.store(true, Relaxed);
                tracing::info!(endpoint = %target.id, "circuit breaker half open");
            }
            if record.out_until.is_some_and(|until| until <= now) {
                record.out_until = None;
            }
            ejected += usize::from(record.out_until.is_some());
            target.apply(&record);
        }
        self.ejected.store(ejected, Relaxed);
    }

    /// Targets out of the rotation now, for either reason.
    #[must_use]
    pub fn out(&self) -> usize {
        self.targets.lock().values().filter(|target| target.record.lock().out()).count()
    }
}

impl Watched {
    fn new(endpoint: &Endpoint) -> Self {
        let record = Record {
            halves: [(0, 0); 2],
            half_began: Instant::now(),
            phase: Phase::Closed,
            in_a_row: 0,
            out_until: None,
            times: 0,
        };
        Self {
            id: endpoint.id.clone(),
            live: endpoint.live.clone(),
            half_open: AtomicBool::new(false),
            record: Mutex::new(record),
        }
    }

    fn apply(&self, record: &Record) {
        if self.live.is_down_for(Down::Ejected) != record.out() {
            self.live.set_down(Down::Ejected, record.out());
        }
    }
}

impl Record {
    fn out(&self) -> bool {
        self.out_until.is_some() || matches!(self.phase, Phase::Open { .. })
    }

    fn count(&mut self, breaker: &Breaker, good: bool, now: Instant) {
        match &mut self.phase {
            // what was sent before it opened
            Phase::Open { .. } => {}
            Phase::HalfOpen { .. } if !good => self.open(breaker, now),
            Phase::HalfOpen { running, good: so_far, .. } => {
                *running = running.saturating_sub(1);
                *so_far += 1;
                if *so_far >= breaker.trials {
                    self.phase = Phase::Closed;
                    (self.halves, self.half_began) = ([(0, 0); 2], now);
                }
            }
            Phase::Closed => {
                self.turn(breaker.window, now);
                let [(requests, failures), before] = &mut self.halves;
                *requests += 1;
                *failures += u32::from(!good);
                let (all, bad) =
                    (u64::from(*requests) + u64::from(before.0), u64::from(*failures) + u64::from(before.1));
                if !good && all >= u64::from(breaker.volume) && bad * 100 >= all * u64::from(breaker.ratio) {
                    self.open(breaker, now);
                }
            }
        }
    }

    /// Moves the window on.
    fn turn(&mut self, window: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.half_began);
        if passed >= window {
            self.halves = [(0, 0); 2];
        } else if passed >= window / 2 {
            self.halves = [(0, 0), self.halves[0]];
        } else {
            return;
        }
        self.half_began = now;
    }

    fn open(&mut self, breaker: &Breaker, now: Instant) {
        self.phase = Phase::Open { until: now + breaker.open };
        self.halves = [(0, 0); 2];
        tracing::warn!(open_ms = breaker.open.as_millis(), "circuit breaker open");
    }
}

#[cfg(test)]
mod tests {
    use plinth_core::balance::{Address, Endpoint};

    use super::*;

    fn guard(tag: &str) -> Guard {
        Guard::new(&Extensions::read(&[tag.to_owned()]).unwrap()).unwrap()
    }

    fn endpoints(count: u16) -> Vec<Endpoint> {
        (0..count)
            .map(|port| Endpoint::new(port.to_string(), Address::new("127.0.0.1", port), 1, Live::new()))
            .collect()
    }

    #[test]
    fn a_breaker_opens_by_ratio_and_volume_tries_and_closes() {
        let guard = guard("plinth.breaker:ratio=50;volume=4;window=10s;open=5s;trials=2");
        let targets = guard.watch(&endpoints(1));
        let (target, start) = (&targets[0], Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for good in [false, false, true] {
            guard.observe(target, good, start);
        }
        assert!(target.live.is_available(), "too few to judge");
        guard.observe(target, false, start);
        assert!(target.live.is_down_for(Down::Ejected));
        guard.sweep(at(4));
        assert_eq!(guard.out(), 1);
        guard.sweep(at(5));
        assert!(target.live.is_available());
        assert_eq!([0; 3].map(|_| guard.admits(target, at(5))), [true, true, false], "two trials at once");
        guard.observe(target, true, at(5));
        assert!(guard.admits(target, at(5)), "one of them is back");
        guard.observe(target, false, at(6));
        assert!(!target.live.is_available(), "a failed trial opens it again");
        guard.sweep(at(11));
        for _ in 0..2 {
            assert!(guard.admits(target, at(11)));
            guard.observe(target, true, at(11));
        }
        assert!(guard.admits(target, at(11)));
        guard.observe(target, false, at(11));
        assert!(target.live.is_available(), "closed: one failure is not half of four");
    }

    #[test]
    fn trials_that_never_end_are_given_up() {
        let guard = guard("plinth.breaker:volume=1;open=1s");
        let targets = guard.watch(&endpoints(1));
        let start = Instant::now();
        guard.observe(&targets[0], false, start);
        guard.sweep(start + Duration::from_secs(1));
        assert!(guard.admits(&targets[0], start + Duration::from_secs(1)));
        assert!(!guard.admits(&targets[0], start + Duration::from_secs(2)));
        assert!(guard.admits(&targets[0], start + Duration::from_secs(3)));
    }

    #[test]
    fn failures_outside_of_the_window_do_not_count() {
        let guard = guard("plinth.breaker:ratio=50;volume=4;window=10s");
        let targets = guard.watch(&endpoints(1));
        let start = Instant::now();
        for second in [0_u64, 0, 20, 20, 40, 40] {
            guard.observe(&targets[0], false, start + Duration::from_secs(second));
        }
        assert!(targets[0].live.is_available());
    }

    #[test]
    fn outliers_leave_for_longer_each_time_but_never_too_many() {
        let guard = guard("plinth.outlier:failures=2;time=10s;most=50");
        let (all, start) = (endpoints(4), Instant::now());
        let targets = guard.watch(&all);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for target in &targets {
            guard.observe(target, false, start);
            guard.observe(target, false, start);
        }
        assert_eq!(guard.out(), 2, "half of them");
        guard.sweep(at(10));
        assert_eq!(guard.out(), 0);
        for _ in 0..2 {
            guard.observe(&targets[0], false, at(10));
        }
        guard.sweep(at(29));
        assert_eq!(guard.out(), 1, "the second time lasts twice as long");
        guard.sweep(at(30));
        guard.observe(&targets[0], true, at(30));
        for _ in 0..2 {
            guard.observe(&targets[0], false, at(30));
        }
        guard.sweep(at(40));
        assert_eq!(guard.out(), 0, "a success in between starts over");
        assert!(Arc::ptr_eq(&guard.watch(&all)[0], &targets[0]), "records survive new endpoints");
    }
}
