//! Metrics by which dashboards of Kong know the node and its targets; requests are the prometheus plugin's.

use plinth_core::balance::Endpoint;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use uuid::Uuid;

use crate::identity;
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;

const STATES: [&str; 4] = ["healthchecks_off", "healthy", "unhealthy", "dns_error"];

/// `kong_node_info`, `kong_datastore_reachable`, `kong_upstream_target_health`.
#[derive(Clone, Debug)]
pub struct KongMetrics {
    target_health: IntGaugeVec,
}

impl KongMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &prometheus::Registry, node: Uuid) -> Result<Self, prometheus::Error> {
        let info = IntGaugeVec::new(
            Opts::new("kong_node_info", "Kong Node metadata information"),
            &["node_id", "version"],
        )?;
        info.with_label_values(&[node.to_string().as_str(), identity::VERSION]).set(1);
        let reachable =
            IntGauge::new("kong_datastore_reachable", "Datastore reachable from Kong, 0 is unreachable")?;
        reachable.set(1);
        let target_health = IntGaugeVec::new(
            Opts::new("kong_upstream_target_health", "Health status of targets of upstream"),
            &["upstream", "target", "address", "state", "subsystem"],
        )?;
        registry.register(Box::new(info))?;
        registry.register(Box::new(reachable))?;
        registry.register(Box::new(target_health.clone()))?;
        Ok(Self { target_health })
    }

    /// Shows the targets of the running configuration's upstreams as they are now.
    pub fn update(&self, snapshot: &Snapshot) {
        self.target_health.reset();
        for upstream in snapshot.upstreams.values().filter(|upstream| upstream.definition.kong.is_some()) {
            let endpoints = upstream.endpoints();
            for (endpoint, name) in endpoints.balancer.endpoints().iter().zip(&endpoints.names) {
                self.show(upstream, endpoint, name);
            }
        }
    }

    fn show(&self, upstream: &Upstream, endpoint: &Endpoint, name: &str) {
        let address = endpoint.address.to_string();
        let target = format!("{name}:{}", endpoint.address.port());
        let now = match (upstream.checks_health(), endpoint.live.is_available()) {
            (false, _) => "healthchecks_off",
            (true, true) => "healthy",
            (true, false) => "unhealthy",
        };
        for state in STATES {
            let labels =
                [upstream.definition.name.as_str(), target.as_str(), address.as_str(), state, "http"];
            self.target_health.with_label_values(&labels).set(i64::from(state == now));
        }
    }
}
