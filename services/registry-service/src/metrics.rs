//! What this service counts. Labels are few and bounded; handles are resolved once.

use plinth_core::Error as CoreError;
use plinth_core::discovery::Discovery;
use plinth_core::registration::{Heartbeat, Registered};
use plinth_kit::problem::Problem;
use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::error::Error;

/// Handles to the counters and gauges.
pub struct Metrics {
    created: IntCounter,
    replaced: IntCounter,
    conflicts: IntCounter,
    refused: IntCounter,
    deregistrations: IntCounter,
    unsettled: IntCounter,
    beats: IntCounter,
    leases_lost: IntCounter,
    beats_failed: IntCounter,
    found: IntCounter,
    not_found: IntCounter,
    not_answered: IntCounter,
    watches: IntGauge,
    snapshot_age: Gauge,
}

impl Metrics {
    /// Creates and registers everything.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let registrations = vec(registry, "registry_registrations_total", "Registrations by outcome")?;
        let heartbeats = vec(registry, "registry_heartbeats_total", "Heartbeats by outcome")?;
        let discovers = vec(registry, "registry_discover_requests_total", "Answers of discover by outcome")?;
        Ok(Self {
            created: registrations.with_label_values(&["created"]),
            replaced: registrations.with_label_values(&["replaced"]),
            conflicts: registrations.with_label_values(&["conflict"]),
            refused: registrations.with_label_values(&["failed"]),
            deregistrations: one(registry, "registry_deregistrations_total", "Deregistrations by request")?,
            unsettled: one(
                registry,
                "registry_writes_unsettled_total",
                "Writes that were answered before this replica's own reads had them",
            )?,
            beats: heartbeats.with_label_values(&["renewed"]),
            leases_lost: heartbeats.with_label_values(&["lost"]),
            beats_failed: heartbeats.with_label_values(&["failed"]),
            found: discovers.with_label_values(&["found"]),
            not_found: discovers.with_label_values(&["unknown"]),
            not_answered: discovers.with_label_values(&["failed"]),
            watches: added(
                registry,
                IntGauge::new("registry_watches", "Services watched by a blocking query towards Consul")?,
            )?,
            snapshot_age: added(
                registry,
                Gauge::new(
                    "registry_snapshot_age_seconds",
                    "Age of the oldest snapshot that is being served",
                )?,
            )?,
        })
    }

    pub fn registered(&self, result: &Result<Registered, CoreError>) {
        match result {
            Ok(registered) if registered.created => self.created.inc(),
            Ok(_) => self.replaced.inc(),
            Err(CoreError::OwnedByAnother { .. }) => self.conflicts.inc(),
            Err(_) => self.refused.inc(),
        }
    }

    pub fn deregistered(&self) {
        self.deregistrations.inc();
    }

    pub fn unsettled(&self) {
        self.unsettled.inc();
    }

    pub fn heartbeat(&self, result: &Result<Heartbeat, Error>) {
        match result {
            Ok(_) => self.beats.inc(),
            Err(Error::LeaseLost { .. }) => self.leases_lost.inc(),
            Err(_) => self.beats_failed.inc(),
        }
    }

    pub fn discovered<T>(&self, result: &Result<T, Problem>) {
        match result {
            Ok(_) => self.found.inc(),
            Err(problem) if problem.status == axum::http::StatusCode::NOT_FOUND => self.not_found.inc(),
            Err(_) => self.not_answered.inc(),
        }
    }

    /// Takes over what discovery says about itself.
    pub fn observe(&self, discovery: &Discovery) {
        let status = discovery.status();
        self.watches.set(i64::try_from(status.watches).unwrap_or(i64::MAX));
        self.snapshot_age.set(status.oldest_age.map_or(0.0, |age| age.as_secs_f64()));
    }
}

fn added<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn one(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    added(registry, IntCounter::new(name, help)?)
}

fn vec(registry: &Registry, name: &str, help: &str) -> Result<IntCounterVec, prometheus::Error> {
    added(registry, IntCounterVec::new(Opts::new(name, help), &["outcome"])?)
}
