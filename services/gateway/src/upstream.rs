//! Where services are: endpoints, how one is chosen, and what is learned from using them.
//!
//! An [`Upstream`] is made when a configuration is applied and kept while its definition stays the same. Its endpoints
//! come from fixed addresses, DNS names and the service catalog, and are replaced as a whole whenever one of these
//! changes; live state (requests in flight, latency, health) follows an endpoint by its id.

pub mod ejection;
pub mod resolve;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use plinth_core::balance::{
    Address, Algorithm, Balancer, CheckLimits, LiveTable, Observation, PanicPolicy, PickContext, Set,
};
use plinth_core::balance::{Down, Endpoint};

use crate::client::Fault;
use ejection::Ejections;

/// One target as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port; a catalog instance's own port wins over it.
    pub port: u16,
    /// Share of the traffic.
    pub weight: u32,
}

impl TargetSpec {
    /// The service name when the host is one of the catalog's: `[tag.]NAME.service[.DC].consul`.
    #[must_use]
    pub fn catalog_name(&self) -> Option<CatalogName> {
        CatalogName::parse(&self.host)
    }
}

/// A name of the service catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogName {
    /// The service.
    pub service: String,
    /// Only instances with this tag.
    pub tag: Option<String>,
}

impl CatalogName {
    fn parse(host: &str) -> Option<Self> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = host.strip_suffix(".consul")?.split('.').collect();
        let (front, service) = match labels.as_slice() {
            [front @ .., service, "service"] | [front @ .., service, "service", _] => (front, *service),
            _ => return None,
        };
        let tag = match front {
            [] => None,
            [tag] => Some((*tag).to_owned()),
            _ => return None,
        };
        (!service.is_empty()).then(|| Self { service: service.to_owned(), tag })
    }
}

/// What an upstream is made of. Equal definitions share one running [`Upstream`].
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The host services name.
    pub name: String,
    /// Its targets.
    pub targets: Vec<TargetSpec>,
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// What happens when too few are healthy.
    pub panic: PanicPolicy,
    /// The Kong upstream behind it; `None` for a plain host.
    pub kong: Option<plinth_kong::Upstream>,
}

impl Definition {
    /// A plain host of a service.
    #[must_use]
    pub fn host(host: &str, port: u16) -> Self {
        let target = TargetSpec { host: host.to_owned(), port, weight: 100 };
        let panic = if target.catalog_name().is_some() { PanicPolicy::Below(50) } else { PanicPolicy::Off };
        Self {
            name: format!("{host}:{port}"),
            targets: vec![target],
            algorithm: Algorithm::RoundRobin,
            panic,
            kong: None,
        }
    }

    /// An upstream of the configuration.
    #[must_use]
    pub fn kong(upstream: &plinth_kong::Upstream) -> Self {
        let targets = upstream
            .targets
            .iter()
            .map(|target| {
                let (host, port) = target.address();
                TargetSpec { host: host.to_owned(), port, weight: target.weight }
            })
            .collect();
        let algorithm = match upstream.algorithm {
            plinth_kong::Algorithm::RoundRobin => Algorithm::RoundRobin,
            plinth_kong::Algorithm::ConsistentHashing => Algorithm::ConsistentHash,
            plinth_kong::Algorithm::LeastConnections => Algorithm::LeastConnections,
            plinth_kong::Algorithm::Latency => Algorithm::PeakEwma,
        };
        Self {
            name: upstream.name.clone(),
            targets,
            algorithm,
            panic: PanicPolicy::Off,
            kong: Some(upstream.clone()),
        }
    }
}

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
    /// One for each target of the definition.
    pub targets: Vec<TargetState>,
}

impl Endpoints {
    /// No name could be resolved (as opposed to: nothing is configured or healthy).
    #[must_use]
    pub fn unresolved(&self) -> bool {
        self.balancer.endpoints().is_empty() && self.targets.iter().any(|target| target.error.is_some())
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

/// A running upstream.
#[derive(Debug)]
pub struct Upstream {
    /// What it was made of.
    pub definition: Definition,
    live: Arc<LiveTable>,
    endpoints: ArcSwap<Endpoints>,
    ejections: Ejections,
    passive: Option<Passive>,
}

/// Kong's passive health checks, ready to use.
#[derive(Debug)]
struct Passive {
    limits: CheckLimits,
    healthy: Vec<u16>,
    unhealthy: Vec<u16>,
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
        let passive = definition.kong.as_ref().and_then(|kong| Passive::new(&kong.healthchecks.passive));
        Self {
            definition,
            live,
            endpoints: ArcSwap::from_pointee(Endpoints { balancer, names: Vec::new(), targets }),
            ejections: Ejections::default(),
            passive,
        }
    }

    /// The endpoints now.
    #[must_use]
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// Replaces the endpoints; those that stay keep their live state.
    pub fn replace(&self, resolved: Vec<resolve::Resolved>, targets: Vec<TargetState>) {
        let before = self.endpoints.load_full();
        let mut names = Vec::with_capacity(resolved.len());
        let mut endpoints = Vec::with_capacity(resolved.len());
        for one in resolved {
            let id = format!("{}|{}", one.name, one.address);
            let live = self.live.get(&id);
            live.set_down(Down::Catalog, !one.passing);
            endpoints.push(Endpoint::new(id, Address::Socket(one.address), one.weight, live));
            names.push(one.name);
        }
        let balancer = Balancer::new(
            self.definition.algorithm,
            Set::new(endpoints),
            self.definition.panic,
            Some(&before.balancer),
        );
        self.endpoints.store(Arc::new(Endpoints { balancer, names, targets }));
    }

    /// Chooses an endpoint for a try.
    #[must_use]
    pub fn pick(&self, endpoints: &Endpoints, context: &mut PickContext<'_>) -> Option<Picked> {
        if !self.healthy(endpoints) {
            return None;
        }
        let place = endpoints.balancer.pick(context)?;
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

    /// A request was answered.
    pub fn answered(&self, endpoint: &Endpoint, status: u16) {
        self.ejections.succeeded(endpoint);
        let Some(passive) = &self.passive else { return };
        if passive.healthy.contains(&status) {
            endpoint.live.observe(Observation::Success, &passive.limits);
        } else if passive.unhealthy.contains(&status) {
            endpoint.live.observe(Observation::HttpFailure, &passive.limits);
        }
    }

    /// A try failed. Endpoints of the catalog that cannot be reached leave the rotation for a while at once: the
    /// catalog needs a check interval to notice.
    pub fn failed(&self, endpoint: &Endpoint, fault: &Fault) {
        if let Some(passive) = &self.passive {
            let observation = if fault.is_timeout() { Observation::Timeout } else { Observation::TcpFailure };
            endpoint.live.observe(observation, &passive.limits);
        }
        if self.definition.kong.is_none() && self.definition.panic != PanicPolicy::Off {
            self.ejections.failed(endpoint, fault, Instant::now());
        }
    }

    /// Lets endpoints back whose time has come; called about every [`ejection::SWEEP_EVERY`] on the control runtime.
    pub fn sweep(&self, now: Instant) {
        self.ejections.sweep(now);
    }

    /// Something decides about the health of its endpoints: checks of the configuration or the catalog.
    #[must_use]
    pub fn checks_health(&self) -> bool {
        self.passive.is_some() || self.definition.targets.iter().any(|target| target.catalog_name().is_some())
    }

    /// Endpoints out of the rotation because they could not be reached.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.ejections.len()
    }
}

impl Passive {
    /// `None` when every counter is off.
    fn new(check: &plinth_kong::PassiveCheck) -> Option<Self> {
        let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        let limits = CheckLimits {
            successes: small(check.healthy.successes),
            http_failures: small(check.unhealthy.http_failures),
            tcp_failures: small(check.unhealthy.tcp_failures),
            timeouts: small(check.unhealthy.timeouts),
        };
        (limits != CheckLimits::default()).then(|| Self {
            limits,
            healthy: check.healthy.http_statuses.clone(),
            unhealthy: check.unhealthy.http_statuses.clone(),
        })
    }
}

/// Milliseconds of the configuration.
#[must_use]
pub fn millis(value: u32) -> Duration {
    Duration::from_millis(u64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_names_are_told_from_others() {
        let parse = |host| CatalogName::parse(host).map(|name| (name.service, name.tag));
        let plain = |name: &str| Some((name.to_owned(), None));
        assert_eq!(parse("user-service.service.consul"), plain("user-service"));
        assert_eq!(parse("User-Service.Service.Consul."), plain("user-service"));
        assert_eq!(parse("user-service.service.dc1.consul"), plain("user-service"));
        assert_eq!(
            parse("v1.user-service.service.consul"),
            Some(("user-service".to_owned(), Some("v1".to_owned())))
        );
        assert_eq!(parse("example.com"), None);
        assert_eq!(parse("service.consul"), None);
        assert_eq!(parse("node1.node.consul"), None);
    }

    fn resolved(name: &str, port: u16, passing: bool) -> resolve::Resolved {
        resolve::Resolved {
            name: name.into(),
            address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
            weight: 1,
            passing,
        }
    }

    fn picks(upstream: &Upstream, count: usize) -> Vec<u16> {
        let endpoints = upstream.endpoints();
        let mut rng = fastrand::Rng::with_seed(1);
        (0..count)
            .filter_map(|_| upstream.pick(&endpoints, &mut PickContext::new(&mut rng, 0)))
            .map(|picked| picked.address.port())
            .collect()
    }

    #[test]
    fn catalog_instances_that_do_not_pass_get_nothing_while_half_pass() {
        let upstream = Upstream::new(Definition::host("a.service.consul", 80), None);
        upstream.replace(vec![resolved("a", 1, true), resolved("a", 2, false)], vec![TargetState::default()]);
        assert_eq!(picks(&upstream, 4), [1, 1, 1, 1]);
        upstream
            .replace(vec![resolved("a", 1, false), resolved("a", 2, false)], vec![TargetState::default()]);
        assert_eq!(picks(&upstream, 4).len(), 4, "panic: health is ignored");
    }

    #[test]
    fn a_refused_connection_takes_a_catalog_instance_out_until_swept() {
        let upstream = Upstream::new(Definition::host("a.service.consul", 80), None);
        upstream.replace(vec![resolved("a", 1, true), resolved("a", 2, true)], vec![TargetState::default()]);
        let endpoints = upstream.endpoints();
        let refused = || Fault::Connect(std::io::ErrorKind::ConnectionRefused.into());
        upstream.failed(&endpoints.balancer.endpoints()[0], &refused());
        upstream.failed(&endpoints.balancer.endpoints()[0], &refused());
        assert_eq!(picks(&upstream, 4), [2, 2, 2, 2]);
        upstream.sweep(Instant::now() + Duration::from_secs(60));
        assert!(picks(&upstream, 4).contains(&1));
    }

    #[test]
    fn live_state_survives_a_change_of_endpoints_and_of_definition() {
        let upstream = Upstream::new(Definition::host("h", 80), None);
        upstream.replace(vec![resolved("h", 1, true)], vec![TargetState::default()]);
        let endpoints = upstream.endpoints();
        let running = endpoints.balancer.endpoints()[0].live.start(0);
        let next = Upstream::new(Definition::host("h", 80), Some(&upstream));
        next.replace(vec![resolved("h", 1, true), resolved("h", 2, true)], vec![TargetState::default()]);
        assert_eq!(next.endpoints().balancer.endpoints()[0].live.in_flight(), 1);
        drop(running);
        assert_eq!(next.endpoints().balancer.endpoints()[0].live.in_flight(), 0);
    }
}
