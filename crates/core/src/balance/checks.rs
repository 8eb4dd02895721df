//! Failure and success counters of one endpoint's health checks, in one atomic word.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many observations of a kind in a row turn the endpoint; 0 = that kind does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckLimits {
    pub successes: u8,
    pub http_failures: u8,
    pub tcp_failures: u8,
    pub timeouts: u8,
}

/// What a proxied answer (passive) or a probe (active) said about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    Success,
    HttpFailure,
    TcpFailure,
    Timeout,
}

/// Four saturating counters of 8 bits. A counted success clears the failures and the other way round.
#[derive(Debug, Default)]
pub(super) struct CheckCounters(AtomicU32);

impl CheckCounters {
    /// `Some(healthy)` when a limit is reached; the caller decides whether that is a change.
    pub fn observe(&self, observation: Observation, limits: &CheckLimits) -> Option<bool> {
        let (lane, limit) = match observation {
            Observation::Success => (0, limits.successes),
            Observation::HttpFailure => (1, limits.http_failures),
            Observation::TcpFailure => (2, limits.tcp_failures),
            Observation::Timeout => (3, limits.timeouts),
        };
        if limit == 0 {
            return None;
        }
        let next = |word: u32| {
            let mut counters = word.to_le_bytes();
            counters[lane] = counters[lane].saturating_add(1);
            if lane == 0 {
                counters[1..].fill(0);
            } else {
                counters[0] = 0;
            }
            u32::from_le_bytes(counters)
        };
        // The common case (a healthy endpoint's further success) writes nothing, so that the word stays shared.
        let before = self.0.load(Relaxed);
        if lane == 0 && before.to_le_bytes()[0] >= limit && before.to_le_bytes()[1..] == [0; 3] {
            return Some(true);
        }
        let before = self.0.fetch_update(Relaxed, Relaxed, |word| Some(next(word))).unwrap_or(before);
        (next(before).to_le_bytes()[lane] >= limit).then_some(lane == 0)
    }

    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CheckLimits = CheckLimits { successes: 2, http_failures: 3, tcp_failures: 1, timeouts: 0 };

    #[test]
    fn limits_turn_and_the_other_kind_clears() {
        let counters = CheckCounters::default();
        assert_eq!(counters.observe(Observation::HttpFailure, &LIMITS), None);
        assert_eq!(counters.observe(Observation::HttpFailure, &LIMITS), None);
        assert_eq!(counters.observe(Observation::Success, &LIMITS), None);
        assert_eq!(
            counters.observe(Observation::HttpFailure, &LIMITS),
            None,
            "the success cleared the failures"
        );
        assert_eq!(counters.observe(Observation::TcpFailure, &LIMITS), Some(false));
        assert_eq!(counters.observe(Observation::Success, &LIMITS), None);
        assert_eq!(counters.observe(Observation::Success, &LIMITS), Some(true));
        assert_eq!(counters.observe(Observation::Success, &LIMITS), Some(true), "stays said");
    }

    #[test]
    fn a_limit_of_zero_neither_counts_nor_clears() {
        let limits = CheckLimits { successes: 0, http_failures: 2, ..CheckLimits::default() };
        let counters = CheckCounters::default();
        assert_eq!(counters.observe(Observation::Timeout, &limits), None);
        assert_eq!(counters.observe(Observation::HttpFailure, &limits), None);
        assert_eq!(counters.observe(Observation::Success, &limits), None);
        assert_eq!(
            counters.observe(Observation::HttpFailure, &limits),
            Some(false),
            "failures add up for ever"
        );
    }
}
