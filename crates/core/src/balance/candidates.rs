//! Which endpoints of a set a pick may return, in the order of preference that holds for every strategy.

use super::Set;
use super::hash::{mix, scale};

/// How many draws a strategy makes by its own rule before it asks the index: with half of the endpoints down that
/// is one pick in 65,536, and it bounds a pick whatever is down.
pub(super) const DRAWS: usize = 16;

/// A set seen by one pick: health (or the panic policy) and the endpoints this request tried already.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    pub(super) set: &'a Set,
    pub(super) tried: &'a [u32],
    /// The panic policy overrides health: everything with a weight, but for what an operator took out.
    pub(super) panic: bool,
}

impl Candidates<'_> {
    pub(super) fn usable(&self, place: usize) -> bool {
        let endpoint = &self.set.endpoints()[place];
        let live = if self.panic { endpoint.live.usable_in_panic() } else { endpoint.live.is_available() };
        live && endpoint.weight > 0 && !self.is_tried(place)
    }

    pub(super) fn is_tried(&self, place: usize) -> bool {
        self.tried.iter().any(|tried| *tried as usize == place)
    }

    /// Last resort of the unweighted strategies.
    pub(super) fn any(&self, random: u64) -> Option<usize> {
        if self.panic {
            return self.any_in_panic(random);
        }
        self.set.availability().nth(random).and_then(|place| self.untried_from(place))
    }

    /// Last resort of the weighted strategies.
    pub(super) fn any_by_weight(&self, random: u64) -> Option<usize> {
        if self.panic {
            return self.any_in_panic(random);
        }
        self.set.availability().by_weight(random).and_then(|place| self.untried_from(place))
    }

    /// Every usable place once; for strategies that compare all.
    pub(super) fn each(&self, mut visit: impl FnMut(usize)) {
        if self.panic {
            let all = self.set.weighted().iter().map(|place| *place as usize);
            all.filter(|place| self.usable(*place)).for_each(visit);
        } else {
            self.set.availability().iter().filter(|place| !self.is_tried(*place)).for_each(&mut visit);
        }
    }

    fn untried_from(&self, place: usize) -> Option<usize> {
        let mut place = place;
        // Each step passes one tried endpoint, so there is no need for more steps than that.
        for _ in 0..=self.tried.len() {
            if !self.is_tried(place) {
                return Some(place);
            }
            place = self.set.availability().next_from(place + 1)?;
        }
        None
    }

    fn any_in_panic(&self, random: u64) -> Option<usize> {
        let weighted = self.set.weighted();
        let start = scale(mix(random), weighted.len() as u64) as usize;
        let (before, from) = weighted.split_at(start);
        from.iter().chain(before).map(|place| *place as usize).find(|place| self.usable(*place))
    }
}
