//! Random and weighted random.

use super::candidates::{Candidates, DRAWS};
use super::hash::scale;
use super::{PickContext, Set, Strategy};

/// Every endpoint with a weight above 0 is equally likely.
#[derive(Debug, Default)]
pub struct Random;

impl Strategy for Random {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        let places = candidates.set.weighted();
        if places.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let place = places[scale(context.rng.u64(..), places.len() as u64) as usize] as usize;
            if candidates.usable(place) {
                return Some(place);
            }
        }
        candidates.any(context.rng.u64(..))
    }
}

/// Every endpoint is as likely as its weight says.
#[derive(Debug)]
pub struct WeightedRandom(Alias);

impl WeightedRandom {
    pub(super) fn new(set: &Set) -> Self {
        Self(Alias::new(set))
    }
}

impl Strategy for WeightedRandom {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        for _ in 0..DRAWS {
            let place = self.0.draw(context.rng)?;
            if candidates.usable(place) {
                return Some(place);
            }
        }
        candidates.any_by_weight(context.rng.u64(..))
    }
}

/// Draws by weight in constant time (Vose's alias method).
#[derive(Debug)]
pub(super) struct Alias(Box<[Column]>);

/// Below `threshold` (of 2^32) the column's own place, else the other one.
#[derive(Debug, Clone, Copy)]
struct Column {
    threshold: u64,
    own: u32,
    other: u32,
}

impl Alias {
    pub fn new(set: &Set) -> Self {
        const ONE: u64 = 1 << 32;
        let places = set.weighted();
        let total = u128::from(set.total_weight().max(1));
        // Each column holds 1/n of the weight; `fill` is what a place has in units of that, times 2^32.
        let mut fill: Vec<u64> = places
            .iter()
            .map(|place| {
                let weight = u128::from(set.endpoints()[*place as usize].weight);
                ((weight * places.len() as u128 * u128::from(ONE)) / total) as u64
            })
            .collect();
        let mut columns: Vec<Column> =
            places.iter().map(|place| Column { threshold: ONE, own: *place, other: *place }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..fill.len()).partition(|i| fill[*i] < ONE);
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            columns[poor].threshold = fill[poor];
            columns[poor].other = columns[rich].own;
            fill[rich] -= ONE - fill[poor];
            if fill[rich] < ONE {
                large.pop();
                small.push(rich);
            }
        }
        Self(columns.into())
    }

    pub fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let column = self.0.get(scale(rng.u64(..), self.0.len() as u64) as usize)?;
        let own = u64::from(rng.u32(..)) < column.threshold;
        Some(if own { column.own } else { column.other } as usize)
    }
}
