//! Sessions that stay where they are.

use super::candidates::Candidates;
use super::ring::ConsistentHash;
use super::wheel::RoundRobin;
use super::{PickContext, Set, Strategy};

/// A request that names its endpoint (`PickContext::sticky`, from a cookie) gets it as long as it is available or
/// draining. Else a key (header, client address) decides by consistent hashing, and without one it is round
/// robin's turn: the caller then sends the new endpoint's token along.
#[derive(Debug)]
pub struct Sticky {
    /// Token and place, sorted.
    tokens: Box<[(u64, u32)]>,
    ring: ConsistentHash,
    turns: RoundRobin,
}

impl Sticky {
    pub(super) fn new(set: &Set, turns: RoundRobin) -> Self {
        let mut tokens: Vec<(u64, u32)> =
            (0_u32..).zip(set.endpoints()).map(|(place, endpoint)| (endpoint.token(), place)).collect();
        tokens.sort_unstable();
        Self { tokens: tokens.into(), ring: ConsistentHash::new(set), turns }
    }

    pub(super) fn turns(&self) -> &RoundRobin {
        &self.turns
    }

    fn session(&self, candidates: &Candidates<'_>, token: u64) -> Option<usize> {
        let at = self.tokens.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        let place = self.tokens[at].1 as usize;
        // Weight 0 drains too: the session stays, nobody new comes.
        let stays = candidates.set.endpoints()[place].live.keeps_sessions() && !candidates.is_tried(place);
        stays.then_some(place)
    }
}

impl Strategy for Sticky {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        if let Some(place) = context.sticky.and_then(|token| self.session(candidates, token)) {
            return Some(place);
        }
        match context.hash {
            Some(_) => self.ring.pick(candidates, context),
            None => self.turns.pick(candidates, context),
        }
    }
}
