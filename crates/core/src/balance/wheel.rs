//! Smooth weighted round robin: a wheel made in advance and one shared counter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::candidates::{Candidates, DRAWS};
use super::hash::mix;
use super::{PickContext, Set, Strategy};

/// Longest wheel (4 MB). Weights whose reduced sum is above are scaled down: shares are then near, not exact.
const LONGEST: u64 = 1 << 20;

/// Turns of an upstream, shared by all workers and by successive snapshots.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Turns {
    /// Whose turn it is.
    next: AtomicU64,
    /// Who takes over the turn of one that is down or was tried. Its own round over the same wheel, because the
    /// neighbour on the wheel would otherwise get the whole share of the one that is down.
    substitute: AtomicU64,
}

impl Turns {
    /// Starts anywhere, so that several replicas do not walk in step.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(fastrand::u64(..) >> 1), substitute: AtomicU64::new(0) })
    }
}

/// Over one turn of the wheel every endpoint gets exactly its share, evenly spread.
#[derive(Debug)]
pub struct RoundRobin {
    wheel: Box<[u32]>,
    turns: Arc<Turns>,
}

impl RoundRobin {
    pub(super) fn new(set: &Set, turns: Arc<Turns>) -> Self {
        Self { wheel: wheel(set), turns }
    }

    pub(super) fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    fn at(&self, turn: u64) -> usize {
        self.wheel[(turn % self.wheel.len() as u64) as usize] as usize
    }
}

impl Strategy for RoundRobin {
    fn pick(&self, candidates: &Candidates<'_>, _context: &mut PickContext<'_>) -> Option<usize> {
        if self.wheel.is_empty() {
            return None;
        }
        let place = self.at(self.turns.next.fetch_add(1, Relaxed));
        if candidates.usable(place) {
            return Some(place);
        }
        let mut turn = 0;
        for _ in 0..DRAWS {
            turn = self.turns.substitute.fetch_add(1, Relaxed);
            let place = self.at(turn);
            if candidates.usable(place) {
                return Some(place);
            }
        }
        candidates.any_by_weight(mix(turn))
    }
}

/// An endpoint with share w of a turn of W gets its k-th place between k W / w and (k + 1) W / w: earliest deadline first keeps
/// all of these at once. Midpoints of those spans would be simpler, but light endpoints then crowd in the middle.
fn wheel(set: &Set) -> Box<[u32]> {
    let divisor = set.weighted().iter().fold(0, |d, place| gcd(d, weight_of(set, *place)));
    if divisor == 0 {
        return Box::default();
    }
    let reduced = set.total_weight() / divisor;
    // At least one place each, whatever the scale.
    let shares: Vec<(u32, u64)> = set
        .weighted()
        .iter()
        .map(|place| {
            let weight = weight_of(set, *place) / divisor;
            (*place, if reduced > LONGEST { (weight * LONGEST / reduced).max(1) } else { weight })
        })
        .collect();
    if shares.iter().all(|(_, share)| *share == 1) {
        return shares.into_iter().map(|(place, _)| place).collect();
    }
    let length: u64 = shares.iter().map(|(_, share)| *share).sum();
    let mut wheel = Vec::with_capacity(length as usize);
    // By the slot from which on they may come, and by the slot before which they must.
    let mut waiting: BinaryHeap<Reverse<(u64, Due)>> =
        shares.into_iter().map(|(place, share)| Reverse((0, Due::new(place, share, 0, length)))).collect();
    let mut ready: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    for slot in 0..length {
        while let Some(Reverse((from, _))) = waiting.peek()
            && *from <= slot
            && let Some(Reverse((_, due))) = waiting.pop()
        {
            ready.push(Reverse(due));
        }
        // Up to any slot at least one more place has been released than slots have passed, so there is always one.
        let Some(Reverse(due)) = ready.pop() else { continue };
        wheel.push(due.place);
        if due.turn + 1 < due.share {
            let next = Due::new(due.place, due.share, due.turn + 1, length);
            waiting.push(Reverse((next.turn * length / next.share, next)));
        }
    }
    wheel.into()
}

fn weight_of(set: &Set, place: u32) -> u64 {
    u64::from(set.endpoints()[place as usize].weight)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The next place of an endpoint on the wheel. Ordered by deadline, then by place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    before: u64,
    place: u32,
    share: u64,
    turn: u64,
}

impl Due {
    fn new(place: u32, share: u64, turn: u64, length: u64) -> Self {
        Self { before: ((turn + 1) * length).div_ceil(share), place, share, turn }
    }
}
