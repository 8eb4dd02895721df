//! An immutable list of endpoints with an index of those that may be picked now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Endpoint;
use super::hash::scale;

/// Bits in one word of the index, and endpoints in one weight sum.
const BLOCK: usize = 64;

/// The endpoints of one upstream in one snapshot.
#[derive(Debug)]
pub struct Set {
    endpoints: Box<[Endpoint]>,
    /// Places with a weight above 0, ascending.
    weighted: Box<[u32]>,
    total_weight: u64,
    available: Arc<Availability>,
}

impl Set {
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        let weighted: Box<[u32]> =
            (0_u32..).zip(&endpoints).filter(|(_, e)| e.weight > 0).map(|(place, _)| place).collect();
        let total_weight = endpoints.iter().map(|e| u64::from(e.weight)).sum();
        let available = Arc::new(Availability::new(&endpoints));
        for (place, endpoint) in (0_u32..).zip(&endpoints) {
            endpoint.live.join(&available, place);
        }
        Self { endpoints: endpoints.into(), weighted, total_weight, available }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// How many may be picked now: available, with a weight above 0.
    pub fn available(&self) -> u32 {
        self.available.count.load(Relaxed)
    }

    /// Their weight; Kong's health threshold compares it with `total_weight`.
    pub fn available_weight(&self) -> u64 {
        self.available.weight()
    }

    pub fn total_weight(&self) -> u64 {
        self.total_weight
    }

    /// Places of all endpoints with a weight above 0, available or not.
    pub(super) fn weighted(&self) -> &[u32] {
        &self.weighted
    }

    pub(super) fn availability(&self) -> &Availability {
        &self.available
    }
}

/// Which places are available, kept up to date by the endpoints' flips (see `Live::set_down`), so that a pick
/// finds one in time that depends on neither the number of endpoints (but for one word per 64) nor on how many are down.
#[derive(Debug)]
pub(super) struct Availability {
    weights: Box<[u32]>,
    bits: Box<[AtomicU64]>,
    /// Available weight per word of `bits`.
    sums: Box<[AtomicU64]>,
    count: AtomicU32,
}

impl Availability {
    fn new(endpoints: &[Endpoint]) -> Self {
        let words = endpoints.len().div_ceil(BLOCK);
        Self {
            weights: endpoints.iter().map(|e| e.weight).collect(),
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
            sums: (0..words).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU32::new(0),
        }
    }

    /// Called under the endpoint's own lock, so no two calls for one place run at once.
    pub fn mark(&self, place: u32, available: bool) {
        let place = place as usize;
        let weight = self.weights[place];
        if weight == 0 {
            return;
        }
        let (word, bit) = (place / BLOCK, 1_u64 << (place % BLOCK));
        let was = if available {
            self.bits[word].fetch_or(bit, Relaxed)
        } else {
            self.bits[word].fetch_and(!bit, Relaxed)
        } & bit
            != 0;
        if was == available {
            return;
        }
        if available {
            self.sums[word].fetch_add(u64::from(weight), Relaxed);
            self.count.fetch_add(1, Relaxed);
        } else {
            self.sums[word].fetch_sub(u64::from(weight), Relaxed);
            self.count.fetch_sub(1, Relaxed);
        }
    }

    fn weight(&self) -> u64 {
        self.sums.iter().map(|sum| sum.load(Relaxed)).sum()
    }

    /// The available place at rank `random` of all available ones, each equally likely.
    pub fn nth(&self, random: u64) -> Option<usize> {
        let mut rank = scale(random, u64::from(self.count.load(Relaxed)));
        for (word, bits) in self.bits.iter().enumerate() {
            let bits = bits.load(Relaxed);
            let ones = u64::from(bits.count_ones());
            if rank < ones {
                return ones_of(bits).nth(rank as usize).map(|bit| word * BLOCK + bit);
            }
            rank -= ones;
        }
        // A flip in between took the last one: any other will do.
        self.next_from(0)
    }

    /// An available place, each as likely as its weight says.
    pub fn by_weight(&self, random: u64) -> Option<usize> {
        let mut rank = scale(random, self.weight());
        for (word, sum) in self.sums.iter().enumerate() {
            let sum = sum.load(Relaxed);
            if rank >= sum {
                rank -= sum;
                continue;
            }
            for bit in ones_of(self.bits[word].load(Relaxed)) {
                let weight = u64::from(self.weights[word * BLOCK + bit]);
                if rank < weight {
                    return Some(word * BLOCK + bit);
                }
                rank -= weight;
            }
            break;
        }
        self.next_from(0)
    }

    /// The first available place at or after `start`, going round.
    pub fn next_from(&self, start: usize) -> Option<usize> {
        let words = self.bits.len();
        if words == 0 {
            return None;
        }
        let (first, low) = ((start / BLOCK) % words, u64::MAX << (start % BLOCK));
        // The first word is looked at twice: its upper part at the start, its lower part at the end.
        (0..=words).find_map(|step| {
            let word = (first + step) % words;
            let mask = if step == 0 { low } else { u64::MAX };
            let bits = self.bits[word].load(Relaxed) & mask;
            (bits != 0).then(|| word * BLOCK + bits.trailing_zeros() as usize)
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits
            .iter()
            .enumerate()
            .flat_map(|(word, bits)| ones_of(bits.load(Relaxed)).map(move |bit| word * BLOCK + bit))
    }
}

fn ones_of(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(bit)
    })
}
