//! The strategies that look at load: least connections and peak-EWMA.

use super::candidates::{Candidates, DRAWS};
use super::random::Alias;
use super::{Endpoint, PickContext, Set, Strategy};

/// Up to this many endpoints least connections compares all of them.
const COMPARE_ALL: usize = 128;
/// Above, the best of this many draws: the pick's cost stays flat, and the chance to miss the least loaded tenth
/// of the endpoints is one in five.
const SAMPLES: usize = 16;

/// Lowest (requests in flight + 1) / weight; equals are drawn by lot.
#[derive(Debug)]
pub struct LeastConnections {
    /// Only for sets above `COMPARE_ALL`.
    sample: Option<Alias>,
}

impl LeastConnections {
    pub(super) fn new(set: &Set) -> Self {
        Self { sample: (set.len() > COMPARE_ALL).then(|| Alias::new(set)) }
    }
}

impl Strategy for LeastConnections {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        let mut best = Best { load: None, ties: 0 };
        let endpoints = candidates.set.endpoints();
        match &self.sample {
            None => candidates.each(|place| best.offer(place, &endpoints[place], context.rng)),
            Some(alias) => {
                for _ in 0..SAMPLES {
                    let place = alias.draw(context.rng)?;
                    if candidates.usable(place) {
                        best.offer(place, &endpoints[place], context.rng);
                    }
                }
            }
        }
        match best.load {
            Some((place, ..)) => Some(place),
            None => candidates.any_by_weight(context.rng.u64(..)),
        }
    }
}

/// The least loaded place so far.
struct Best {
    /// Place, requests in flight with this one, weight.
    load: Option<(usize, u64, u64)>,
    ties: u32,
}

impl Best {
    fn offer(&mut self, place: usize, endpoint: &Endpoint, rng: &mut fastrand::Rng) {
        let (active, weight) = (u64::from(endpoint.live.in_flight()) + 1, u64::from(endpoint.weight));
        let order = match self.load {
            None => std::cmp::Ordering::Less,
            Some((_, best_active, best_weight)) => (active * best_weight).cmp(&(best_active * weight)),
        };
        if order.is_lt() {
            self.ties = 1;
        } else if order.is_eq() {
            self.ties += 1;
        }
        // The n-th equal one replaces with chance 1/n, which makes all equally likely.
        if order.is_lt() || (order.is_eq() && rng.u32(..self.ties) == 0) {
            self.load = Some((place, active, weight));
        }
    }
}

/// Two drawn by weight; the one with the lower (latency average x requests in flight) wins.
#[derive(Debug)]
pub struct PeakEwmaChoice(Alias);

impl PeakEwmaChoice {
    pub(super) fn new(set: &Set) -> Self {
        Self(Alias::new(set))
    }
}

impl Strategy for PeakEwmaChoice {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        if let [only] = candidates.set.weighted() {
            return Some(*only as usize).filter(|place| candidates.usable(*place));
        }
        let mut first = None;
        for _ in 0..DRAWS {
            let place = self.0.draw(context.rng)?;
            if !candidates.usable(place) {
                continue;
            }
            match first {
                None => first = Some(place),
                Some(other) if other != place => {
                    return Some(self.cheaper(candidates.set, other, place, context.now_micros));
                }
                Some(_) => {}
            }
        }
        // Fewer than two distinct ones came up: one is heavy, alone, or nearly all are down.
        let Some(first) = first else { return candidates.any_by_weight(context.rng.u64(..)) };
        match candidates.any(context.rng.u64(..)) {
            Some(second) if second != first => {
                Some(self.cheaper(candidates.set, first, second, context.now_micros))
            }
            _ => Some(first),
        }
    }
}

impl PeakEwmaChoice {
    fn cheaper(&self, set: &Set, first: usize, second: usize, now_micros: u64) -> usize {
        let cost = |place: usize| set.endpoints()[place].live.cost(now_micros);
        if cost(second) < cost(first) { second } else { first }
    }
}
