//! From names to addresses, on the control runtime: fixed addresses at once, DNS names again and again, catalog
//! services as the catalog changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plinth_core::discovery::{Discovery, Instance, Subscription};
use plinth_core::health::Status;

use super::dns::{Dns, DnsSettings, Found, Kind};
use super::{CatalogName, TargetSpec, TargetState, Upstream};

/// One address of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The target's name.
    pub name: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// Share of the traffic.
    pub weight: u32,
    /// The catalog says it is healthy (always true for others).
    pub passing: bool,
}

/// Times of resolution.
#[derive(Clone, Debug)]
pub struct ResolveSettings {
    /// Who is asked and for what.
    pub dns: DnsSettings,
    /// A DNS name is asked again after this long, sooner when its records hold for less.
    pub dns_refresh: Duration,
    /// One DNS question takes at most this long.
    pub dns_timeout: Duration,
    /// Applying a configuration waits at most this long for the first addresses.
    pub first_wait: Duration,
}

impl Default for ResolveSettings {
    /// 5 s, 2 s, 1 s.
    fn default() -> Self {
        Self {
            dns: DnsSettings::default(),
            dns_refresh: Duration::from_secs(5),
            dns_timeout: Duration::from_secs(2),
            first_wait: Duration::from_secs(1),
        }
    }
}

/// A DNS name without any address is asked again after this long, or `dns_refresh` when that is less.
const DNS_RETRY: Duration = Duration::from_secs(1);

/// What keeps one target's addresses up to date.
enum Source {
    /// Never changes.
    Fixed(IpAddr),
    /// Asked from time to time.
    Dns,
    /// Followed.
    Catalog(CatalogName, Subscription),
}

struct Target {
    spec: TargetSpec,
    name: Arc<str>,
    /// An SRV record's host stands for the target in `Host`.
    use_srv_name: bool,
    source: Source,
    dns: Dns,
    /// The kind of records the name had last, and until when they hold.
    had: Option<(Kind, Instant)>,
    resolved: Vec<Resolved>,
    state: TargetState,
}

/// Keeps an upstream's endpoints up to date until dropped.
#[derive(Debug)]
pub struct Resolver {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolver {
    /// Resolves once (at most `first_wait`) and goes on in the background. Must be called on the control runtime.
    pub async fn start(
        upstream: Arc<Upstream>,
        discovery: &Discovery,
        dns: &Dns,
        settings: ResolveSettings,
    ) -> Self {
        let definition = &upstream.definition;
        let use_srv_name = definition.kong.as_ref().is_some_and(|kong| kong.use_srv_name == Some(true));
        let mut targets: Vec<Target> = definition
            .targets
            .iter()
            .map(|spec| Target { use_srv_name, ..Target::new(spec, discovery, dns) })
            .collect();
        let first = futures_util::future::join_all(targets.iter_mut().map(Target::first));
        if tokio::time::timeout(settings.first_wait, first).await.is_err() {
            tracing::warn!(upstream = %upstream.definition.name, "not all addresses known yet");
        }
        publish(&upstream, &targets);
        let follows = targets.iter().any(|target| !matches!(target.source, Source::Fixed(_)));
        let task = tokio::spawn(async move {
            if follows {
                follow(upstream, targets, settings).await;
            }
        });
        Self { task }
    }
}

impl Target {
    fn new(spec: &TargetSpec, discovery: &Discovery, dns: &Dns) -> Self {
        let source = match (spec.host.parse::<IpAddr>(), spec.catalog_name()) {
            (Ok(ip), _) => Source::Fixed(ip),
            (Err(_), Some(name)) => {
                let subscription = discovery.subscribe(&name.service);
                Source::Catalog(name, subscription)
            }
            (Err(_), None) => Source::Dns,
        };
        Self {
            spec: spec.clone(),
            name: spec.host.as_str().into(),
            use_srv_name: false,
            source,
            dns: dns.clone(),
            had: None,
            resolved: Vec::new(),
            state: TargetState::default(),
        }
    }

    /// The first addresses.
    async fn first(&mut self) {
        // what holds should this take longer than anybody waits for it
        match &mut self.source {
            Source::Fixed(_) => {}
            Source::Dns => self.state.error = Some(format!("{}: no answer from DNS yet", self.spec.host)),
            Source::Catalog(_, subscription) if subscription.borrow().is_none() => {
                self.state.error = Some("not known to the service catalog yet".to_owned());
                subscription.changed().await;
            }
            Source::Catalog(..) => {}
        }
        self.refresh().await;
    }

    /// Waits until there may be something new.
    async fn due(&mut self, settings: &ResolveSettings) {
        match &mut self.source {
            Source::Fixed(_) => std::future::pending().await,
            Source::Dns if self.resolved.is_empty() => {
                tokio::time::sleep(settings.dns_refresh.min(DNS_RETRY)).await;
            }
            Source::Dns => {
                let latest = Instant::now() + settings.dns_refresh;
                let until = self.had.map_or(latest, |(_, until)| until.min(latest));
                tokio::time::sleep_until(until.into()).await;
            }
            Source::Catalog(_, subscription) => {
                subscription.changed().await;
            }
        }
    }

    /// Looks again. A name that fails keeps the addresses it had.
    async fn refresh(&mut self) {
        let outcome = match &self.source {
            Source::Fixed(ip) => Ok(vec![self.at(SocketAddr::new(*ip, self.spec.port))]),
            Source::Dns => match self.dns.resolve(&self.spec.host, self.had.map(|(kind, _)| kind)).await {
                Ok(answer) => {
                    self.had = Some((answer.kind, answer.until));
                    Ok(answer.found.into_iter().map(|found| self.found(found)).collect())
                }
                Err(error) => Err(format!("{}: {error}", self.spec.host)),
            },
            Source::Catalog(name, subscription) => match subscription.borrow() {
                None => Err("not known to the service catalog yet".to_owned()),
                Some(snapshot) => Ok(self.instances(name, &snapshot.instances).await),
            },
        };
        match outcome {
            Ok(resolved) => {
                self.state.error = None;
                self.resolved = resolved;
            }
            Err(error) => {
                if self.state.error.as_ref() != Some(&error) {
                    tracing::warn!(host = %self.spec.host, %error, "cannot resolve");
                }
                self.state.error = Some(error);
            }
        }
    }

    fn at(&self, address: SocketAddr) -> Resolved {
        Resolved { name: self.name.clone(), address, weight: self.spec.weight, passing: true }
    }

    fn found(&self, found: Found) -> Resolved {
        let Some((port, weight, host)) = found.srv else {
            return self.at(SocketAddr::new(found.ip, self.spec.port));
        };
        Resolved {
            name: if self.use_srv_name { host } else { self.name.clone() },
            // the record's weight, unless the target is to get nothing
            weight: if self.spec.weight == 0 { 0 } else { weight },
            ..self.at(SocketAddr::new(found.ip, port))
        }
    }

    /// Catalog instances; those that register under a host name are looked up.
    async fn instances(&self, name: &CatalogName, instances: &[Instance]) -> Vec<Resolved> {
        let mut resolved = Vec::with_capacity(instances.len());
        for instance in instances {
            if name.tag.as_ref().is_some_and(|tag| !instance.tags.contains(tag)) {
                continue;
            }
            let addresses = match instance.address.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, instance.port)],
                Err(_) => match self.dns.resolve(&instance.address, Some(Kind::A)).await {
                    Ok(answer) => {
                        answer.found.iter().map(|found| SocketAddr::new(found.ip, instance.port)).collect()
                    }
                    Err(error) => {
                        tracing::warn!(instance = %instance.service_id, %error, "address cannot be resolved");
                        continue;
                    }
                },
            };
            resolved.extend(addresses.into_iter().map(|address| Resolved {
                name: self.name.clone(),
                address,
                weight: self.spec.weight.saturating_mul(instance.weight.max(1)),
                passing: instance.status == Status::Passing,
            }));
        }
        resolved
    }
}

/// Hands the endpoints to the upstream.
fn publish(upstream: &Upstream, targets: &[Target]) {
    let resolved = targets.iter().map(|target| target.resolved.as_slice());
    upstream.replace(resolved, targets.iter().map(|target| target.state.clone()).collect());
}

/// Refreshes targets as they become due; endpoints are replaced only when something changed.
async fn follow(upstream: Arc<Upstream>, targets: Vec<Target>, settings: ResolveSettings) {
    let mut waiting = FuturesUnordered::new();
    let settings = &settings;
    let wait = |place: usize, mut target: Target| async move {
        target.due(settings).await;
        let before = (target.resolved.clone(), target.state.clone());
        target.refresh().await;
        let changed = before != (target.resolved.clone(), target.state.clone());
        (place, target, changed)
    };
    // what each target last resolved to
    let mut last: Vec<(Vec<Resolved>, TargetState)> =
        targets.iter().map(|target| (target.resolved.clone(), target.state.clone())).collect();
    for (place, target) in targets.into_iter().enumerate() {
        waiting.push(wait(place, target));
    }
    while let Some((place, target, changed)) = waiting.next().await {
        if changed {
            last[place] = (target.resolved.clone(), target.state.clone());
            let resolved = last.iter().map(|(resolved, _)| resolved.as_slice());
            upstream.replace(resolved, last.iter().map(|(_, state)| state.clone()).collect());
        }
        waiting.push(wait(place, target));
    }
}
