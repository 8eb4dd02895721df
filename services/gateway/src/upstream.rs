//! Where services are: endpoints, how one is chosen, and what is learned from using them.
//!
//! An [`Upstream`] is made when a configuration is applied and kept while its definition stays the same. Its endpoints
//! come from fixed addresses, DNS names and the service catalog, and are replaced as a whole whenever one of these
//! changes; live state (requests in flight, latency, health) follows an endpoint by its id.

pub mod checks;
pub mod definition;
pub mod dns;
pub mod ejection;
pub mod extensions;
pub mod guard;
pub mod resolve;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use plinth_core::balance::{Address, Balancer, LiveTable, Observation, PanicPolicy, PickContext, Set};
use plinth_core::balance::{Down, Endpoint};

use crate::client::Fault;
use checks::Rules;
pub use definition::{CatalogName, Definition, TargetSpec};
use ejection::Ejections;
use guard::{Guard, Watched};

/// What is known of one target's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TargetState {
    /// Why it has no addresses.
    pub error: Option<String>,
}

/// The endpoints at one moment.
#[derive(Debug)]
pub struct Endpoints {
    /// Chooses among them.
    pub balancer: Balancer,
    /// The name of each endpoint's target, for `Host`.
    pub names: Vec<Arc<str>>,
    /// The place of each endpoint's target in the definition.
    pub places: Vec<usize>,
    /// One for each target of the definition.
    pub targets: Vec<TargetState>,
    /// What the guard knows of each endpoint; empty without a guard.
    watched: Vec<Arc<Watched>>,
}

impl Endpoints {
    /// No name could be resolved (as opposed to: nothing is configured or healthy).
    #[must_use]
    pub fn unresolved(&self) -> bool {
        self.balancer.endpoints().is_empty() && self.targets.iter().any(|target| target.error.is_some())
    }

    /// The endpoints of the target at `place` of the definition.
    pub fn of_target(&self, place: usize) -> impl Iterator<Item = &Endpoint> {
        let all = self.balancer.endpoints().iter().zip(&self.places);
        all.filter(move |(_, own)| **own == place).map(|(endpoint, _)| endpoint)
    }
}

/// An endpoint chosen for a try.
#[derive(Debug)]
pub struct Picked {
    /// Its place in the set, for `tried`.
    pub place: u32,
    /// Its address.
    pub address: std::net::SocketAddr,
}

/// How a try ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// It answered with this status.
    Answered(u16),
    /// It failed and another try follows.
    Failed(&'a Fault),
    /// It failed and was the last.
    GaveUp(&'a Fault),
}

/// Why the health of a target cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetHealthError {
    /// The upstream has no target of this id or address.
    #[error("Target not found")]
    Target,
    /// The target has no such address.
    #[error("Target address not found")]
    Address,
    /// The upstream has neither active nor passive checks: its targets count as healthy always.
    #[error("healthchecks are off for this upstream")]
    Off,
}

/// A running upstream.
#[derive(Debug)]
pub struct Upstream {
    /// What it was made of.
    pub definition: Definition,
    live: Arc<LiveTable>,
    endpoints: ArcSwap<Endpoints>,
    ejections: Ejections,
    passive: Option<Rules>,
    guard: Option<Arc<Guard>>,
}

impl Upstream {
    /// An upstream without endpoints yet; `previous` hands on live state and the balancer's turn.
    #[must_use]
    pub fn new(definition: Definition, previous: Option<&Upstream>) -> Self {
        let live = previous.map_or_else(|| Arc::new(LiveTable::new()), |previous| previous.live.clone());
        let before = previous.map(|previous| previous.endpoints.load_full());
        let balancer = Balancer::new(
            definition.algorithm,
            Set::new(Vec::new()),
            definition.panic,
            before.as_ref().map(|before| &before.balancer),
        );
        let targets = vec![TargetState::default(); definition.targets.len()];
        let passive = definition.kong.as_ref().and_then(|kong| Rules::passive(&kong.healthchecks.passive));
        let guard = match previous {
            // what it knows of the targets goes on to count, whoever still observes through the old upstream
            Some(previous) if previous.definition.extensions == definition.extensions => {
                previous.guard.clone()
            }
            _ => Guard::new(&definition.extensions).map(Arc::new),
        };
        let endpoints =
            Endpoints { balancer, names: Vec::new(), places: Vec::new(), targets, watched: Vec::new() };
        Self {
            definition,
            live,
            endpoints: ArcSwap::from_pointee(endpoints),
            ejections: Ejections::default(),
            passive,
            guard,
        }
    }

    /// The endpoints now.
    #[must_use]
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// Replaces the endpoints, given for each target of the definition; those that stay keep their live state.
    pub fn replace<'a>(
        &self,
        resolved: impl IntoIterator<Item = &'a [resolve::Resolved]>,
        targets: Vec<TargetState>,
    ) {
        let before = self.endpoints.load_full();
        let (mut names, mut places, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for (place, one) in
            resolved.into_iter().enumerate().flat_map(|(place, all)| all.iter().map(move |one| (place, one)))
        {
            let id = format!("{}|{}", one.name, one.address);
            let live = self.live.get(&id);
            live.set_down(Down::Catalog, !one.passing);
            if !self.checked() {
                // an upstream whose checks were switched off
                live.reset_checks(true);
            }
            if self.guard.is_none() && self.definition.kong.is_some() {
                live.set_down(Down::Ejected, false);
            }
            endpoints.push(Endpoint::new(id, Address::Socket(one.address), one.weight, live));
            names.push(one.name.clone());
            places.push(place);
        }
        let watched = self.guard.as_ref().map_or_else(Vec::new, |guard| guard.watch(&endpoints));
        let balancer = Balancer::new(
            self.definition.algorithm,
            Set::new(endpoints),
            self.definition.panic,
            Some(&before.balancer),
        );
        self.endpoints.store(Arc::new(Endpoints { balancer, names, places, targets, watched }));
    }

    /// Chooses an endpoint for a try.
    #[must_use]
    pub fn pick(&self, endpoints: &Endpoints, context: &mut PickContext<'_>) -> Option<Picked> {
        if !self.healthy(endpoints) {
            return None;
        }
        let place = endpoints.balancer.pick(context)?;
        let place = match &self.guard {
            None => place,
            Some(guard) => admitted(guard, endpoints, context, place)?,
        };
        match endpoints.balancer.endpoints().get(place)?.address {
            Address::Socket(address) => Some(Picked { place: u32::try_from(place).ok()?, address }),
            Address::Name { .. } => None,
        }
    }

    /// Kong's threshold: enough of the weight is available.
    #[must_use]
    pub fn healthy(&self, endpoints: &Endpoints) -> bool {
        let Some(kong) = &self.definition.kong else { return true };
        let threshold = kong.healthchecks.threshold;
        if threshold <= 0.0 {
            return true;
        }
        let set = endpoints.balancer.set();
        let (available, total) = (set.available_weight(), set.total_weight());
        total > 0 && available as f64 * 100.0 / total as f64 > threshold
    }

    /// A try at the endpoint at `place` ended. Endpoints of the catalog that cannot be reached leave the rotation for a
    /// while at once: the catalog needs a check interval to notice.
    pub fn ended(&self, endpoints: &Endpoints, place: u32, ended: Ended<'_>) {
        let place = place as usize;
        let Some(endpoint) = endpoints.balancer.endpoints().get(place) else { return };
        if let Some(rules) = &self.passive
            && let Some(observation) = passive(rules, ended)
            && let Some(healthy) = endpoint.live.observe(observation, &rules.limits)
        {
            let upstream = self.definition.name.as_str();
            tracing::warn!(upstream, endpoint = %endpoint.id, healthy, "a passive check turned a target");
        }
        if let (Some(guard), Some(watched)) = (&self.guard, endpoints.watched.get(place)) {
            guard.observe(watched, matches!(ended, Ended::Answered(status) if status < 500), Instant::now());
        }
        match ended {
            Ended::Answered(_) => self.ejections.succeeded(endpoint),
            Ended::Failed(fault) | Ended::GaveUp(fault) => {
                if self.definition.kong.is_none() && self.definition.panic != PanicPolicy::Off {
                    self.ejections.failed(endpoint, fault, Instant::now());
                }
            }
        }
    }

    /// Lets endpoints back whose time has come; called about every [`ejection::SWEEP_EVERY`] on the control runtime.
    pub fn sweep(&self, now: Instant) {
        self.ejections.sweep(now);
        if let Some(guard) = &self.guard {
            guard.sweep(now);
        }
    }

    /// Something decides about the health of its endpoints: checks of the configuration, a guard, or the catalog.
    #[must_use]
    pub fn checks_health(&self) -> bool {
        self.checked()
            || self.guard.is_some()
            || self.definition.targets.iter().any(|target| target.catalog_name().is_some())
    }

    /// Kong's checks are on, active or passive.
    fn checked(&self) -> bool {
        let active = |kong: &plinth_kong::Upstream| checks::active(&kong.healthchecks.active);
        self.passive.is_some() || self.definition.kong.as_ref().is_some_and(active)
    }

    /// Sets the health of a target as `PUT /upstreams/X/targets/T/healthy` and `/unhealthy` do: all of its addresses, or
    /// one. `target` is its id or `host:port`. Counters start over; later checks may turn it again.
    ///
    /// # Errors
    /// No such target or address, or no checks that the target would be healthy or not by.
    pub fn set_health(
        &self,
        target: &str,
        address: Option<IpAddr>,
        healthy: bool,
    ) -> Result<(), SetHealthError> {
        let targets = self.definition.kong.as_ref().map_or(&[][..], |kong| &kong.targets);
        let named = |one: &plinth_kong::Target| one.target == target || one.id.to_string() == target;
        let place = targets.iter().position(named).ok_or(SetHealthError::Target)?;
        if !self.checked() {
            return Err(SetHealthError::Off);
        }
        let endpoints = self.endpoints();
        let wanted = |endpoint: &&Endpoint| match (address, &endpoint.address) {
            (Some(wanted), Address::Socket(own)) => own.ip() == wanted,
            (Some(_), Address::Name { .. }) => false,
            (None, _) => true,
        };
        let mut found = 0;
        for endpoint in endpoints.of_target(place).filter(wanted) {
            endpoint.live.reset_checks(healthy);
            found += 1;
        }
        if address.is_some() && found == 0 { Err(SetHealthError::Address) } else { Ok(()) }
    }

    /// Endpoints out of the rotation for what happened on them.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.ejections.len() + self.guard.as_ref().map_or(0, |guard| guard.out())
    }
}

/// The endpoint picked, or another one while its breaker lets no more through.
fn admitted(
    guard: &Guard,
    endpoints: &Endpoints,
    context: &mut PickContext<'_>,
    first: usize,
) -> Option<usize> {
    let now = Instant::now();
    let admits = |place: usize| endpoints.watched.get(place).is_none_or(|watched| guard.admits(watched, now));
    if admits(first) {
        return Some(first);
    }
    let mut tried = context.tried.to_vec();
    let mut refused = first;
    loop {
        tried.push(u32::try_from(refused).ok()?);
        let mut again = PickContext {
            hash: context.hash,
            sticky: context.sticky,
            tried: &tried,
            rng: &mut *context.rng,
            now_micros: context.now_micros,
        };
        let place = endpoints.balancer.pick(&mut again)?;
        // nothing else is left: the balancer fell back to what was tried
        if tried.iter().any(|tried| *tried as usize == place) {
            return None;
        }
        if admits(place) {
            return Some(place);
        }
        refused = place;
    }
}

/// What passive checks make of a try, as Kong: one that is followed by another counts as a failed connection or a
/// timeout; the last one by the status the client gets, 504 being a timeout.
fn passive(rules: &Rules, ended: Ended<'_>) -> Option<Observation> {
    match ended {
        Ended::Answered(status) => rules.status(status),
        Ended::Failed(fault) | Ended::GaveUp(fault) if fault.is_timeout() => Some(Observation::Timeout),
        Ended::Failed(_) => Some(Observation::TcpFailure),
        Ended::GaveUp(_) => rules.status(502),
    }
}

/// Milliseconds of the configuration.
#[must_use]
pub fn millis(value: u32) -> Duration {
    Duration::from_millis(u64::from(value))
}

#[cfg(test)]
mod tests;
