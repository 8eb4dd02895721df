//! Kong's health checks of an upstream: passive ones by proxied answers, active ones by probes on the control runtime.
//!
//! Both count on the same counters of a target, each with its own limits, as Kong's do: a counted success clears the
//! failures and the other way round, and a limit of 0 counts nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plinth_core::balance::{Address, CheckLimits, Down, Endpoint, Observation};
use plinth_core::health::{At, ProbeTarget, Prober, Status};
use plinth_kong::{ActiveCheck, CheckKind, PassiveCheck};
use tokio::task::JoinSet;

use super::Upstream;

/// New targets, and targets that proxied answers took down, are noticed after at most this long.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The first probes of an upstream's targets are spread over at most this long.
const SPREAD: Duration = Duration::from_millis(200);

/// Limits and statuses of one kind of checks.
#[derive(Debug)]
pub(super) struct Rules {
    pub limits: CheckLimits,
    healthy: Vec<u16>,
    unhealthy: Vec<u16>,
}

impl Rules {
    /// `None` when every counter is off.
    pub fn passive(check: &PassiveCheck) -> Option<Self> {
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

    fn active(check: &ActiveCheck) -> Self {
        Self {
            limits: CheckLimits {
                successes: small(check.healthy.successes),
                http_failures: small(check.unhealthy.http_failures),
                tcp_failures: small(check.unhealthy.tcp_failures),
                timeouts: small(check.unhealthy.timeouts),
            },
            healthy: check.healthy.http_statuses.clone(),
            unhealthy: check.unhealthy.http_statuses.clone(),
        }
    }

    /// What a status says; a status in neither list says nothing.
    pub fn status(&self, status: u16) -> Option<Observation> {
        if self.healthy.contains(&status) {
            Some(Observation::Success)
        } else {
            self.unhealthy.contains(&status).then_some(Observation::HttpFailure)
        }
    }
}

/// Kong's limits end at 255.
fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Probes an upstream's targets until dropped.
#[derive(Debug)]
pub struct Checker(tokio::task::JoinHandle<()>);

impl Drop for Checker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checker {
    /// Starts probing; `None` when the upstream asks for no active checks. Must be called on the control runtime.
    #[must_use]
    pub fn start(upstream: &Arc<Upstream>, prober: &Prober) -> Option<Self> {
        let check = upstream.definition.kong.as_ref()?.healthchecks.active.clone();
        if !active(&check) {
            return None;
        }
        let checking = Checking {
            rules: Rules::active(&check),
            check: Arc::new(check),
            host_header: upstream.definition.kong.as_ref().and_then(|kong| kong.host_header.clone()),
            upstream: upstream.clone(),
            prober: prober.clone(),
        };
        Some(Self(tokio::spawn(checking.run())))
    }
}

/// Some target is probed at some time.
pub(super) fn active(check: &ActiveCheck) -> bool {
    check.healthy.interval > 0.0 || check.unhealthy.interval > 0.0
}

struct Checking {
    upstream: Arc<Upstream>,
    check: Arc<ActiveCheck>,
    rules: Rules,
    host_header: Option<String>,
    prober: Prober,
}

/// When a target is looked at next.
struct Plan {
    due: Instant,
    /// What it was when that was decided: the two states have intervals of their own.
    down: bool,
    running: bool,
}

impl Checking {
    async fn run(self) {
        let mut plans: HashMap<Arc<str>, Plan> = HashMap::new();
        let mut probes: JoinSet<(Endpoint, Found)> = JoinSet::new();
        loop {
            let next = self.begin_due(&mut plans, &mut probes);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                Some(Ok((endpoint, found))) = probes.join_next() => {
                    self.judge(&endpoint, &found);
                    if let Some(plan) = plans.get_mut(&endpoint.id) {
                        plan.running = false;
                    }
                }
            }
        }
    }

    /// Starts the probes that are due, as many at once as allowed; tells when to come again.
    fn begin_due(
        &self,
        plans: &mut HashMap<Arc<str>, Plan>,
        probes: &mut JoinSet<(Endpoint, Found)>,
    ) -> Instant {
        let now = Instant::now();
        let mut next = now + LOOK_EVERY;
        let endpoints = self.upstream.endpoints();
        let all = endpoints.balancer.endpoints();
        plans.retain(|id, plan| plan.running || all.iter().any(|endpoint| endpoint.id == *id));
        for (endpoint, name) in all.iter().zip(&endpoints.names).filter(|(endpoint, _)| endpoint.weight > 0) {
            let down = endpoint.live.is_down_for(Down::Checks);
            let Some(interval) = self.interval(down) else { continue };
            let plan = plans.entry(endpoint.id.clone()).or_insert_with(|| Plan {
                due: now + interval.min(SPREAD).mul_f64(fastrand::f64()),
                down,
                running: false,
            });
            if plan.down != down {
                plan.down = down;
                plan.due = plan.due.min(now + interval);
            }
            if plan.running {
                continue;
            }
            if plan.due > now {
                next = next.min(plan.due);
            } else if probes.len() < self.check.concurrency.max(1) as usize {
                plan.due = now + interval;
                plan.running = true;
                if let Some(probe) = self.probe(endpoint, name) {
                    probes.spawn(probe);
                }
            }
        }
        next
    }

    fn interval(&self, down: bool) -> Option<Duration> {
        let seconds = if down { self.check.unhealthy.interval } else { self.check.healthy.interval };
        Duration::try_from_secs_f64(seconds).ok().filter(|interval| !interval.is_zero())
    }

    fn probe(
        &self,
        endpoint: &Endpoint,
        name: &str,
    ) -> Option<impl Future<Output = (Endpoint, Found)> + Send + 'static> {
        let Address::Socket(address) = endpoint.address else { return None };
        let host = self.host_header.as_deref().unwrap_or(name).to_owned();
        let (endpoint, check, prober) = (endpoint.clone(), self.check.clone(), self.prober.clone());
        Some(async move {
            let found = look(&prober, &check, address, &host).await;
            (endpoint, found)
        })
    }

    fn judge(&self, endpoint: &Endpoint, found: &Found) {
        let observation = match found {
            Found::Status(status) => self.rules.status(*status),
            Found::Says(observation) => Some(*observation),
        };
        let Some(observation) = observation else { return };
        if let Some(healthy) = endpoint.live.observe(observation, &self.rules.limits) {
            let upstream = self.upstream.definition.name.as_str();
            tracing::warn!(upstream, endpoint = %endpoint.id, healthy, "an active check turned a target");
        }
    }
}

/// What a probe brought.
enum Found {
    Status(u16),
    Says(Observation),
}

/// One probe: `GET http_path` with `Connection: close`, the target's name as `Host`; a connection; or gRPC's health
/// question. A gRPC target that takes connections and does not say SERVING counts as an HTTP failure.
async fn look(prober: &Prober, check: &ActiveCheck, address: SocketAddr, host: &str) -> Found {
    let timeout = Duration::try_from_secs_f64(check.timeout).unwrap_or(Duration::from_secs(1));
    let server_name = Some(check.https_sni.clone().unwrap_or_else(|| host.to_owned()));
    let at = At { address, server_name };
    let skip = !check.https_verify_certificate;
    let failed =
        |timed_out: bool| Found::Says(if timed_out { Observation::Timeout } else { Observation::TcpFailure });
    if matches!(check.kind, CheckKind::Tcp | CheckKind::Grpc | CheckKind::Grpcs) {
        let target = ProbeTarget::Tcp { addr: address.to_string() };
        let outcome = prober.probe_at(&at, &target, timeout).await;
        if outcome.status != Status::Passing {
            return failed(outcome.timed_out);
        }
        if check.kind == CheckKind::Tcp {
            return Found::Says(Observation::Success);
        }
        let tls = check.kind == CheckKind::Grpcs;
        let addr = address.to_string();
        let target = ProbeTarget::Grpc { addr, service: String::new(), tls, tls_skip_verify: skip };
        let outcome = prober.probe_at(&at, &target, timeout).await;
        return Found::Says(match outcome.status {
            Status::Passing => Observation::Success,
            _ if outcome.timed_out => Observation::Timeout,
            _ => Observation::HttpFailure,
        });
    }
    let scheme = if check.kind == CheckKind::Https { "https" } else { "http" };
    let mut headers = vec![("host".to_owned(), host.to_owned())];
    let configured = check
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
    headers.extend(configured);
    let target = ProbeTarget::Http {
        url: format!("{scheme}://{address}{}", check.http_path),
        method: "GET".to_owned(),
        headers,
        body: String::new(),
        tls_skip_verify: skip,
        ca: None,
    };
    let outcome = prober.probe_at(&at, &target, timeout).await;
    outcome.http_status.map_or_else(|| failed(outcome.timed_out), Found::Status)
}
