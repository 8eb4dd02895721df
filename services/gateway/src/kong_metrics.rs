//! Metrics by which dashboards of Kong know the node and its targets; requests are the prometheus plugin's.
//!
//! They are brought up to date when somebody looks. What only Kong's inside has (Lua memory, timers) has the nearest figure of this
//! process, or 0, and the help text says so.

use std::sync::Arc;

use parking_lot::Mutex;
use plinth_core::balance::Endpoint;
use plinth_kong::PluginConfig;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use uuid::Uuid;

use crate::identity;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;

const STATES: [&str; 4] = ["healthchecks_off", "healthy", "unhealthy", "dns_error"];
const SUBSYSTEM: &str = "http";

/// All of Kong's metrics in one registry, the prometheus plugin's included.
#[derive(Clone, Debug)]
pub struct KongMetrics {
    registry: Registry,
    node: String,
    connections: IntGaugeVec,
    requests: IntGaugeVec,
    memory: IntGaugeVec,
    target_health: IntGaugeVec,
    /// Bringing up to date and showing go together.
    showing: Arc<Mutex<()>>,
}

impl KongMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: Registry, node: Uuid) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let node = node.to_string();
        let info = gauge("kong_node_info", "Kong Node metadata information", &["node_id", "version"])?;
        info.with_label_values(&[node.as_str(), identity::VERSION]).set(1);
        let timers = gauge(
            "kong_nginx_timers",
            "Number of nginx timers; always 0, this gateway has none",
            &["state"],
        )?;
        for state in ["running", "pending"] {
            timers.with_label_values(&[state]).set(0);
        }
        let reachable =
            IntGauge::new("kong_datastore_reachable", "Datastore reachable from Kong, 0 is unreachable")?;
        reachable.set(1);
        registry.register(Box::new(reachable))?;
        let errors =
            IntCounter::new("kong_nginx_metric_errors_total", "Number of nginx-lua-prometheus errors")?;
        registry.register(Box::new(errors))?;
        Ok(Self {
            connections: gauge(
                "kong_nginx_connections_total",
                "Number of connections by subsystem",
                &["node_id", "subsystem", "state"],
            )?,
            requests: gauge(
                "kong_nginx_requests_total",
                "Number of requests total",
                &["node_id", "subsystem"],
            )?,
            memory: gauge(
                "kong_memory_workers_lua_vms_bytes",
                "Resident bytes of the process; there are no Lua VMs",
                &["node_id", "pid", "kong_subsystem"],
            )?,
            target_health: gauge(
                "kong_upstream_target_health",
                "Health status of targets of upstream. States = healthchecks_off|healthy|unhealthy|dns_error, value \
                 is 1 when state is populated.",
                &["upstream", "target", "address", "state", "subsystem"],
            )?,
            registry,
            node,
            showing: Arc::default(),
        })
    }

    /// Everything as it is now, in Prometheus' text format.
    ///
    /// # Errors
    /// A collector that yields malformed families.
    pub fn text(&self, snapshot: &Snapshot, metrics: &Metrics) -> Result<String, prometheus::Error> {
        let _alone = self.showing.lock();
        self.update_node(metrics);
        self.update_targets(snapshot);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn update_node(&self, metrics: &Metrics) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let accepted = metrics.sum(|worker| &worker.accepted);
        let active = metrics.sum(|worker| &worker.connections);
        let writing = metrics.sum(|worker| &worker.in_flight);
        let total = metrics.sum(|worker| &worker.requests);
        for (state, value) in [
            ("accepted", accepted),
            ("handled", accepted),
            ("total", total),
            ("active", active),
            ("reading", 0),
            ("writing", writing),
            ("waiting", active.saturating_sub(writing)),
        ] {
            self.connections.with_label_values(&[self.node.as_str(), SUBSYSTEM, state]).set(number(value));
        }
        self.requests.with_label_values(&[self.node.as_str(), SUBSYSTEM]).set(number(total));
        if let Some(resident) = resident() {
            let process = std::process::id().to_string();
            self.memory.with_label_values(&[self.node.as_str(), &process, SUBSYSTEM]).set(number(resident));
        }
    }

    /// Shown only where a prometheus plugin asks for it, as in Kong.
    fn update_targets(&self, snapshot: &Snapshot) {
        self.target_health.reset();
        let asked = snapshot.config.plugins.iter().any(|plugin| {
            plugin.enabled
                && matches!(&plugin.config, PluginConfig::Prometheus(config) if config.upstream_health_metrics)
        });
        if !asked {
            return;
        }
        for upstream in snapshot.upstreams.values().filter(|upstream| upstream.definition.kong.is_some()) {
            let endpoints = upstream.endpoints();
            for (endpoint, name) in endpoints.balancer.endpoints().iter().zip(&endpoints.names) {
                self.show_endpoint(upstream, endpoint, name);
            }
            for (spec, target) in upstream.definition.targets.iter().zip(&endpoints.targets) {
                let resolved = endpoints.names.iter().any(|name| name.as_ref() == spec.host);
                if target.error.is_some() && !resolved {
                    self.show(upstream, &format!("{}:{}", spec.host, spec.port), "", "dns_error");
                }
            }
        }
    }

    fn show_endpoint(&self, upstream: &Upstream, endpoint: &Endpoint, name: &str) {
        let target = format!("{name}:{}", endpoint.address.port());
        let now = match (upstream.checks_health(), endpoint.live.is_available()) {
            (false, _) => "healthchecks_off",
            (true, true) => "healthy",
            (true, false) => "unhealthy",
        };
        self.show(upstream, &target, &endpoint.address.to_string(), now);
    }

    fn show(&self, upstream: &Upstream, target: &str, address: &str, now: &str) {
        for state in STATES {
            let labels = [upstream.definition.name.as_str(), target, address, state, SUBSYSTEM];
            self.target_health.with_label_values(&labels).set(i64::from(state == now));
        }
    }
}

/// Bytes of this process in memory.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
