//! Doubt in oneself: when most targets turn bad at once, the fault is likelier here (network, name resolution, an
//! exhausted process) than in all of them. Then nothing is made worse before another replica has seen the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Fewer bad targets than this never raise doubt.
const LEAST_TARGETS: usize = 3;
/// How many of the bad targets a peer is asked to look at.
const SAMPLE: usize = 5;

/// What a peer said about a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Most of the sample is bad from there too.
    Agrees,
    Disagrees,
    /// No peer, or none that answered.
    Absent,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Free,
    Asking,
    /// A peer saw the same: write on until then.
    Confirmed {
        until: Instant,
    },
    Engaged {
        since: Instant,
        answer: Answer,
        ask_again: Instant,
    },
}

/// One target that was seen worse than the catalog has it.
#[derive(Debug, Clone, Copy)]
struct Bad {
    since: Instant,
    interval: Duration,
    written: Option<Instant>,
}

impl Bad {
    fn expired(&self, now: Instant) -> bool {
        self.written.is_some_and(|written| now >= written + self.interval)
    }
}

/// Whether a change for the worse may be written.
#[derive(Debug)]
pub struct Brake {
    bad: HashMap<Arc<str>, Bad>,
    state: State,
}

/// What an engaged brake tells people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engagement {
    pub since: Instant,
    pub answer: Answer,
    pub bad: usize,
}

impl Default for Brake {
    fn default() -> Self {
        Self { bad: HashMap::new(), state: State::Free }
    }
}

impl Brake {
    /// A probe found it worse than the catalog has it.
    pub fn bad(&mut self, id: &Arc<str>, interval: Duration, now: Instant) {
        match self.bad.get_mut(id) {
            Some(present) if !present.expired(now) => {}
            _ => {
                self.bad.insert(Arc::clone(id), Bad { since: now, interval, written: None });
            }
        }
    }

    /// A probe found it as good as the catalog has it, or it is not ours any more.
    pub fn clear(&mut self, id: &str) {
        self.bad.remove(id);
    }

    /// Its bad state is in the catalog now; it still counts for an interval.
    pub fn written(&mut self, id: &str, now: Instant) {
        if let Some(bad) = self.bad.get_mut(id) {
            bad.written.get_or_insert(now);
        }
    }

    /// May a change for the worse be written now? `owned`: how many targets this replica probes.
    pub fn allows(&mut self, owned: usize, now: Instant) -> bool {
        self.settle(owned, now);
        match self.state {
            State::Confirmed { .. } => true,
            State::Free if self.doubtful(owned) => {
                self.state = State::Asking;
                false
            }
            State::Free => true,
            State::Asking | State::Engaged { .. } => false,
        }
    }

    /// Targets to ask a peer about, when an answer is wanted now. After this the question counts as asked.
    pub fn question(&mut self, owned: usize, now: Instant) -> Option<Vec<Arc<str>>> {
        self.settle(owned, now);
        let window = self.window();
        let wanted = match &mut self.state {
            State::Asking => true,
            State::Engaged { ask_again, .. } if now >= *ask_again => {
                *ask_again = now + window;
                true
            }
            _ => false,
        };
        wanted.then(|| {
            let mut unwritten: Vec<_> = self.bad.iter().collect();
            // Those not written yet first: about them there is still something to decide.
            unwritten.sort_unstable_by_key(|(id, bad)| (bad.written.is_some(), Arc::clone(id)));
            unwritten.into_iter().take(SAMPLE).map(|(id, _)| Arc::clone(id)).collect()
        })
    }

    /// True when this answer engaged the brake.
    pub fn answered(&mut self, answer: Answer, now: Instant) -> bool {
        let window = self.window();
        match (&mut self.state, answer) {
            (State::Asking | State::Engaged { .. }, Answer::Agrees) => {
                self.state = State::Confirmed { until: now + 2 * window };
                false
            }
            (State::Asking, _) => {
                self.state = State::Engaged { since: now, answer, ask_again: now + window };
                true
            }
            (State::Engaged { answer: present, .. }, _) => {
                *present = answer;
                false
            }
            (State::Free | State::Confirmed { .. }, _) => false,
        }
    }

    pub fn engaged(&self) -> Option<Engagement> {
        match self.state {
            State::Engaged { since, answer, .. } => Some(Engagement { since, answer, bad: self.bad.len() }),
            _ => None,
        }
    }

    /// Ends what has run out: confirmations, and doubt about targets that are well again.
    fn settle(&mut self, owned: usize, now: Instant) {
        self.bad.retain(|_, bad| !bad.expired(now));
        match self.state {
            State::Confirmed { until } if now >= until => self.state = State::Free,
            State::Asking | State::Engaged { .. } if !self.most(owned) => self.state = State::Free,
            _ => {}
        }
    }

    fn most(&self, owned: usize) -> bool {
        self.bad.len() >= LEAST_TARGETS && self.bad.len() * 2 > owned
    }

    /// Most targets turned within one interval of each other. Slow decay over hours is no reason for doubt.
    fn doubtful(&self, owned: usize) -> bool {
        if !self.most(owned) {
            return false;
        }
        let window = self.window();
        let mut since: Vec<Instant> = self.bad.values().map(|bad| bad.since).collect();
        since.sort_unstable();
        let mut first = 0;
        since.iter().enumerate().any(|(last, at)| {
            while *at - since[first] > window {
                first += 1;
            }
            let together = last + 1 - first;
            together >= LEAST_TARGETS && together * 2 > owned
        })
    }

    fn window(&self) -> Duration {
        self.bad.values().map(|bad| bad.interval).max().unwrap_or(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn id(n: usize) -> Arc<str> {
        format!("i{n}").into()
    }

    #[test]
    fn half_is_not_enough_more_is_and_without_a_peer_it_holds() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for n in 0..5 {
            brake.bad(&id(n), INTERVAL, now);
        }
        assert!(brake.allows(10, now));
        brake.bad(&id(5), INTERVAL, now);
        assert!(!brake.allows(10, now));
        assert_eq!(brake.question(10, now).unwrap().len(), SAMPLE);
        assert!(brake.answered(Answer::Absent, now));
        assert!(!brake.allows(10, now + INTERVAL * 100), "does not give in by itself");
        assert_eq!(brake.engaged().unwrap().answer, Answer::Absent);
        brake.clear("i5");
        assert!(brake.allows(10, now + INTERVAL * 100), "over as soon as the targets are back");
        assert_eq!(brake.engaged(), None);
    }

    #[test]
    fn few_targets_never_raise_doubt() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        brake.bad(&id(0), INTERVAL, now);
        brake.bad(&id(1), INTERVAL, now);
        assert!(brake.allows(2, now));
    }

    #[test]
    fn a_peer_that_agrees_lets_it_through_for_a_while() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for n in 0..4 {
            brake.bad(&id(n), INTERVAL, now);
        }
        assert!(!brake.allows(4, now));
        assert!(!brake.answered(Answer::Agrees, now));
        assert!(brake.allows(4, now));
        for n in 0..4 {
            brake.written(&id(n), now);
        }
        assert!(brake.allows(4, now + 2 * INTERVAL), "written ones count for one interval only");
    }

    #[test]
    fn an_engaged_brake_asks_again_each_interval() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for n in 0..4 {
            brake.bad(&id(n), INTERVAL, now);
        }
        assert!(!brake.allows(4, now));
        assert!(brake.question(4, now).is_some());
        brake.answered(Answer::Disagrees, now);
        assert_eq!(brake.question(4, now + INTERVAL / 2), None);
        assert!(brake.question(4, now + INTERVAL).is_some());
        assert!(!brake.answered(Answer::Agrees, now + INTERVAL));
        assert!(brake.allows(4, now + INTERVAL));
    }

    #[test]
    fn slow_decay_is_no_doubt() {
        let mut brake = Brake::default();
        let start = Instant::now();
        for n in 0..10 {
            let now = start + INTERVAL * 2 * n as u32;
            brake.bad(&id(n), INTERVAL, now);
            assert!(brake.allows(10, now));
        }
    }

    proptest! {
        /// Whatever happens, a write for the worse passes only if half or fewer are bad, they are few, they turned far apart, or a peer agreed.
        #[test]
        fn never_passes_a_sudden_majority_unconfirmed(owned in 3_usize..40, bad in 0_usize..40, step_ms in 0_u64..20_000) {
            let bad = bad.min(owned);
            let (mut brake, start) = (Brake::default(), Instant::now());
            for n in 0..bad {
                brake.bad(&id(n), INTERVAL, start + Duration::from_millis(step_ms) * n as u32);
            }
            let now = start + Duration::from_millis(step_ms) * bad as u32;
            let sudden = Duration::from_millis(step_ms) * bad.saturating_sub(1) as u32 <= INTERVAL;
            if bad >= 3 && bad * 2 > owned && sudden {
                prop_assert!(!brake.allows(owned, now));
            }
            if bad * 2 <= owned {
                prop_assert!(brake.allows(owned, now));
            }
        }
    }
}
