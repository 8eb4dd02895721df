//! Consistent hashing on a ring of points.

use super::candidates::{Candidates, DRAWS};
use super::hash::{mix, scale, stable_hash};
use super::{PickContext, Set, Strategy};

/// Points of an endpoint whose weight is the unit.
const POINTS: u64 = 160;
/// Most points on a ring (32 MB); more endpoints than fit at `POINTS` each get fewer.
const MOST_POINTS: u64 = 1 << 22;
/// A point is one word: its hash in the upper bits, its endpoint's place in the lower ones.
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// Points looked at before the index is asked: with half of the endpoints down that never happens.
const WALK: usize = 4 * DRAWS;

/// A key belongs to the first usable endpoint clockwise. An endpoint's points depend on its own id and weight only
/// (the unit moves in powers of two), so one that comes takes keys and gives none, and one that goes
/// or is down gives its keys to its neighbours and gets the same ones back.
#[derive(Debug)]
pub struct ConsistentHash {
    points: Box<[u64]>,
}

impl ConsistentHash {
    pub(super) fn new(set: &Set) -> Self {
        let unit = unit(set);
        let per_unit = (MOST_POINTS * unit / set.total_weight().max(1)).clamp(1, POINTS);
        let mut points = Vec::new();
        for place in set.weighted() {
            let endpoint = &set.endpoints()[*place as usize];
            let seed = stable_hash(endpoint.id.as_bytes());
            let count = (u64::from(endpoint.weight) * per_unit).div_ceil(unit);
            points.extend((0..count).map(|n| {
                (mix(seed ^ n.wrapping_mul(0xd134_2543_de82_ef95)) & !PLACE_MASK)
                    | (u64::from(*place) & PLACE_MASK)
            }));
        }
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// Index of the first point at or after `hash`. Hashes are spread evenly, so the search begins where the point should be and
    /// doubles its steps from there: on a large ring that touches a few cache lines where halving the whole touches twenty.
    fn first_at(&self, hash: u64) -> usize {
        let count = self.points.len();
        let guess = scale(hash, count as u64) as usize;
        let before = |index: usize| self.points[index] & !PLACE_MASK < hash;
        let (mut low, mut high, mut step) = (guess, guess, 64);
        while low > 0 && !before(low - 1) {
            low = low.saturating_sub(step);
            step *= 2;
        }
        step = 64;
        while high < count && before(high) {
            high = (high + step).min(count);
            step *= 2;
        }
        low + self.points[low..high].partition_point(|point| (point & !PLACE_MASK) < hash)
    }

    /// The place that `hash` belongs to among the candidates.
    pub(super) fn locate(&self, candidates: &Candidates<'_>, hash: u64) -> Option<usize> {
        let start = self.first_at(hash & !PLACE_MASK);
        let (before, from) = self.points.split_at(start);
        let mut last = None;
        for point in from.iter().chain(before).take(WALK) {
            let place = (point & PLACE_MASK) as usize;
            if last == Some(place) {
                continue;
            }
            if candidates.usable(place) {
                return Some(place);
            }
            last = Some(place);
        }
        // Nearly everything is down. Still the same place for the same key as long as the same ones are up.
        candidates.any_by_weight(mix(hash))
    }
}

impl Strategy for ConsistentHash {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        // No key at all is one constant key, as in Kong.
        self.locate(candidates, mix(context.hash.unwrap_or_default()))
    }
}

/// The mean weight, rounded down to a power of two: it stays as it is for nearly every change of the set.
fn unit(set: &Set) -> u64 {
    let mean = set.total_weight() / (set.weighted().len() as u64).max(1);
    1 << mean.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_search_finds_what_halving_finds(mut points in proptest::collection::vec(any::<u64>(), 0..2000), hash in any::<u64>()) {
            points.sort_unstable();
            let ring = ConsistentHash { points: points.into() };
            let hash = hash & !PLACE_MASK;
            let expected = ring.points.partition_point(|point| (point & !PLACE_MASK) < hash);
            prop_assert_eq!(ring.first_at(hash), expected);
        }

        /// Points in one corner: the worst guess.
        #[test]
        fn clustered_points_are_searched_too(points in proptest::collection::vec(0_u64..1 << 30, 1..500), hash in 0_u64..1 << 31) {
            let mut points = points;
            points.sort_unstable();
            let ring = ConsistentHash { points: points.into() };
            for hash in [hash & !PLACE_MASK, !PLACE_MASK, 0] {
                let expected = ring.points.partition_point(|point| (point & !PLACE_MASK) < hash);
                prop_assert_eq!(ring.first_at(hash), expected);
            }
        }
    }
}
