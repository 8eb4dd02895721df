//! Load balancing: which endpoint takes the next request.
//!
//! A [`Balancer`] is immutable and belongs to one snapshot; what changes ([`Live`]: requests in flight, latency,
//! health) hangs off each endpoint and is shared with the snapshots before and after. A pick is synchronous,
//! allocates nothing and takes no lock. Its cost does not grow with the number of endpoints for round robin, random,
//! weighted random and peak-EWMA, is logarithmic for consistent hashing, and for least connections
//! grows up to 128 endpoints (all are compared) and is flat above (the best of 16 draws).
//!
//! What holds for every strategy: an endpoint of weight 0 is never picked (a sticky session alone stays on it); one that is
//! down is picked only when the [`PanicPolicy`] says so; one that this request tried already only when
//! there is nothing else.
//!
//! ```
//! use plinth_core::balance::{Address, Algorithm, Balancer, Clock, Endpoint, LiveTable, PanicPolicy, PickContext, Set};
//!
//! let table = LiveTable::new();
//! let endpoint = |id: &str, port| Endpoint::new(id, Address::new("127.0.0.1", port), 1, table.get(id));
//! let set = Set::new(vec![endpoint("a", 8001), endpoint("b", 8002)]);
//! let balancer = Balancer::new(Algorithm::RoundRobin, set, PanicPolicy::Off, None);
//!
//! let clock = Clock::new();
//! let mut rng = fastrand::Rng::new();
//! let picked = balancer.pick(&mut PickContext::new(&mut rng, clock.micros()));
//! let endpoint = &balancer.endpoints()[picked.unwrap()];
//! let request = endpoint.live.start(clock.micros());
//! // ... the answer's head has come:
//! request.responded(clock.micros());
//! // dropped when its body is through
//! ```

mod candidates;
mod checks;
mod endpoint;
mod ewma;
mod hash;
mod least;
mod live;
mod random;
mod ring;
mod set;
mod sticky;
mod wheel;

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

pub use candidates::Candidates;
pub use checks::{CheckLimits, Observation};
pub use endpoint::{Address, Endpoint};
pub use hash::{mix, stable_hash};
pub use least::{LeastConnections, PeakEwmaChoice};
pub use live::{Down, InFlight, Live, LiveTable};
pub use random::{Random, WeightedRandom};
pub use ring::ConsistentHash;
pub use set::Set;
pub use sticky::Sticky;
pub use wheel::RoundRobin;

/// What a strategy needs to know about the request at hand.
#[derive(Debug)]
pub struct PickContext<'a> {
    /// The key of consistent hashing, already hashed (`stable_hash`); `None` = one constant key.
    pub hash: Option<u64>,
    /// The token of the endpoint that the request's session lives on (`Endpoint::token`).
    pub sticky: Option<u64>,
    /// Places this request tried already.
    pub tried: &'a [u32],
    /// The worker's own generator.
    pub rng: &'a mut fastrand::Rng,
    /// `Clock::micros` of the process, coarse is fine; only peak-EWMA looks at it.
    pub now_micros: u64,
}

impl<'a> PickContext<'a> {
    /// A first try without a key.
    pub fn new(rng: &'a mut fastrand::Rng, now_micros: u64) -> Self {
        Self { hash: None, sticky: None, tried: &[], rng, now_micros }
    }
}

/// A rule that picks one of the candidates. No strategy may allocate, lock or wait here.
pub trait Strategy: Send + Sync {
    /// The place in the set; `None` when there is no candidate.
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize>;
}

/// What to do when too few endpoints are healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PanicPolicy {
    /// None healthy = nothing is picked. For Kong upstreams, which answer 503.
    #[default]
    Off,
    /// Health is ignored while fewer than this percentage of the endpoints (of weight above 0) are available: the
    /// checks are then likelier to be wrong than nearly all endpoints. For `*.service.consul`, 50.
    Below(u8),
}

/// The strategies by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    #[default]
    RoundRobin,
    Random,
    WeightedRandom,
    LeastConnections,
    PeakEwma,
    ConsistentHash,
    Sticky,
}

impl Algorithm {
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::Random,
        Self::WeightedRandom,
        Self::LeastConnections,
        Self::PeakEwma,
        Self::ConsistentHash,
        Self::Sticky,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::WeightedRandom => "weighted-random",
            Self::LeastConnections => "least-connections",
            Self::PeakEwma => "latency",
            Self::ConsistentHash => "consistent-hashing",
            Self::Sticky => "sticky",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No strategy has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown strategy {0:?}: one of round-robin, random, weighted-random, least-connections, latency, consistent-hashing, sticky"
)]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|a| a.as_str() == name).ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// Microseconds on a monotonic clock. One per process: averages compare readings of the same one.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    pub fn micros(&self) -> u64 {
        self.at(Instant::now())
    }

    pub fn at(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.0).as_micros() as u64
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The endpoints of one upstream in one snapshot, and the strategy over them.
#[derive(Debug)]
pub struct Balancer {
    set: Set,
    strategy: AnyStrategy,
    panic: PanicPolicy,
}

/// Dispatch without a vtable: a pick is a few nanoseconds.
#[derive(Debug)]
enum AnyStrategy {
    RoundRobin(RoundRobin),
    Random(Random),
    WeightedRandom(WeightedRandom),
    LeastConnections(LeastConnections),
    PeakEwma(PeakEwmaChoice),
    ConsistentHash(ConsistentHash),
    Sticky(Sticky),
}

impl Balancer {
    /// `previous`: the upstream's balancer of the snapshot before, whose round-robin turn goes on.
    pub fn new(algorithm: Algorithm, set: Set, panic: PanicPolicy, previous: Option<&Balancer>) -> Self {
        let round_robin = || {
            let turns = previous.and_then(Balancer::turns).cloned().unwrap_or_else(wheel::Turns::new);
            RoundRobin::new(&set, turns)
        };
        let strategy = match algorithm {
            Algorithm::RoundRobin => AnyStrategy::RoundRobin(round_robin()),
            Algorithm::Random => AnyStrategy::Random(Random),
            Algorithm::WeightedRandom => AnyStrategy::WeightedRandom(WeightedRandom::new(&set)),
            Algorithm::LeastConnections => AnyStrategy::LeastConnections(LeastConnections::new(&set)),
            Algorithm::PeakEwma => AnyStrategy::PeakEwma(PeakEwmaChoice::new(&set)),
            Algorithm::ConsistentHash => AnyStrategy::ConsistentHash(ConsistentHash::new(&set)),
            Algorithm::Sticky => AnyStrategy::Sticky(Sticky::new(&set, round_robin())),
        };
        Self { set, strategy, panic }
    }

    /// The place (in `endpoints`) of the endpoint that takes the request; `None` = no endpoint may.
    pub fn pick(&self, context: &mut PickContext<'_>) -> Option<usize> {
        let untried = Candidates { set: &self.set, tried: context.tried, panic: self.in_panic() };
        let picked = self.strategy.pick(&untried, context);
        if picked.is_some() || context.tried.is_empty() {
            return picked;
        }
        self.strategy.pick(&Candidates { tried: &[], ..untried }, context)
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        self.set.endpoints()
    }

    pub fn set(&self) -> &Set {
        &self.set
    }

    /// Whether health is being ignored now.
    pub fn in_panic(&self) -> bool {
        match self.panic {
            PanicPolicy::Off => false,
            PanicPolicy::Below(percent) => {
                let (available, all) = (u64::from(self.set.available()), self.set.weighted().len() as u64);
                available * 100 < u64::from(percent) * all
            }
        }
    }

    fn turns(&self) -> Option<&std::sync::Arc<wheel::Turns>> {
        match &self.strategy {
            AnyStrategy::RoundRobin(round_robin) => Some(round_robin.turns()),
            AnyStrategy::Sticky(sticky) => Some(sticky.turns().turns()),
            _ => None,
        }
    }
}

impl Strategy for AnyStrategy {
    fn pick(&self, candidates: &Candidates<'_>, context: &mut PickContext<'_>) -> Option<usize> {
        match self {
            Self::RoundRobin(strategy) => strategy.pick(candidates, context),
            Self::Random(strategy) => strategy.pick(candidates, context),
            Self::WeightedRandom(strategy) => strategy.pick(candidates, context),
            Self::LeastConnections(strategy) => strategy.pick(candidates, context),
            Self::PeakEwma(strategy) => strategy.pick(candidates, context),
            Self::ConsistentHash(strategy) => strategy.pick(candidates, context),
            Self::Sticky(strategy) => strategy.pick(candidates, context),
        }
    }
}
