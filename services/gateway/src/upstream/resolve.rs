//! From names to addresses, on the control runtime: fixed addresses at once, DNS names again and again, catalog
//! services as the catalog changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plinth_core::discovery::{Discovery, Instance, Subscription};
use plinth_core::health::Status;

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
#[derive(Clone, Copy, Debug)]
pub struct ResolveSettings {
    /// A DNS name is asked again after this long.
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
    source: Source,
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
    pub async fn start(upstream: Arc<Upstream>, discovery: &Discovery, settings: ResolveSettings) -> Self {
        let mut targets: Vec<Target> =
            upstream.definition.targets.iter().map(|spec| Target::new(spec, discovery)).collect();
        let first = futures_util::future::join_all(targets.iter_mut().map(|target| target.first(settings)));
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
    fn new(spec: &TargetSpec, discovery: &Discovery) -> Self {
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
            source,
            resolved: Vec::new(),
            state: TargetState::default(),
        }
    }

    /// The first addresses.
    async fn first(&mut self, settings: ResolveSettings) {
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
        self.refresh(settings).await;
    }

    /// Waits until there may be something new.
    async fn due(&mut self, settings: ResolveSettings) {
        match &mut self.source {
            Source::Fixed(_) => std::future::pending().await,
            Source::Dns if self.resolved.is_empty() => {
                tokio::time::sleep(settings.dns_refresh.min(DNS_RETRY)).await;
            }
            Source::Dns => tokio::time::sleep(settings.dns_refresh).await,
            Source::Catalog(_, subscription) => {
                subscription.changed().await;
            }
        }
    }

    /// Looks again. A name that fails keeps the addresses it had.
    async fn refresh(&mut self, settings: ResolveSettings) {
        let outcome = match &self.source {
            Source::Fixed(ip) => Ok(vec![self.at(SocketAddr::new(*ip, self.spec.port))]),
            Source::Dns => lookup(&self.spec.host, self.spec.port, settings.dns_timeout)
                .await
                .map(|addresses| addresses.into_iter().map(|address| self.at(address)).collect()),
            Source::Catalog(name, subscription) => match subscription.borrow() {
                None => Err("not known to the service catalog yet".to_owned()),
                Some(snapshot) => Ok(self.instances(name, &snapshot.instances, settings).await),
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

    /// Catalog instances; those that register under a host name are looked up.
    async fn instances(
        &self,
        name: &CatalogName,
        instances: &[Instance],
        settings: ResolveSettings,
    ) -> Vec<Resolved> {
        let mut resolved = Vec::with_capacity(instances.len());
        for instance in instances {
            if name.tag.as_ref().is_some_and(|tag| !instance.tags.contains(tag)) {
                continue;
            }
            let addresses = match instance.address.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, instance.port)],
                Err(_) => match lookup(&instance.address, instance.port, settings.dns_timeout).await {
                    Ok(addresses) => addresses,
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

/// All addresses of a host name.
async fn lookup(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    let question = tokio::net::lookup_host((host, port));
    match tokio::time::timeout(limit, question).await {
        Err(_) => Err(format!("{host}: no answer from DNS within {limit:?}")),
        Ok(Err(error)) => Err(format!("{host}: {error}")),
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<SocketAddr> = addresses.collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() { Err(format!("{host}: no address")) } else { Ok(addresses) }
        }
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
    let wait = |place: usize, mut target: Target| async move {
        target.due(settings).await;
        let before = (target.resolved.clone(), target.state.clone());
        target.refresh(settings).await;
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
