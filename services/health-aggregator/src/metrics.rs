//! What this service counts.

use plinth_core::health::Status;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::domain::case::Removal;

/// Seconds; probes have a timeout of 5 s by default.
const DURATIONS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

/// Cheap to clone; registered once per service.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub catalog_age: Gauge,
    pub probes: IntCounterVec,
    pub probe_duration: Histogram,
    pub owned: IntGauge,
    pub instances: IntGauge,
    pub transitions: IntCounterVec,
    pub removals: IntCounterVec,
    pub write_conflicts: IntCounter,
    pub write_failures: IntCounter,
    pub brake: IntGauge,
    pub brake_engagements: IntCounter,
    pub members: IntGauge,
}

impl Metrics {
    /// # Errors
    /// A name that is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let durations = HistogramOpts::new("health_probe_duration_seconds", "Time a probe took")
            .buckets(DURATIONS.to_vec());
        let probe_duration = Histogram::with_opts(durations)?;
        registry.register(Box::new(probe_duration.clone()))?;
        let probes = counters("health_probes_total", "Probes made, by result", "result")?;
        let transitions =
            counters("health_transitions_total", "Changes of status written, by new status", "to")?;
        for status in [Status::Passing, Status::Warning, Status::Critical] {
            // Present from the start: a rate over a series that appears later misses its first step.
            probes.with_label_values(&[status.as_str()]);
            transitions.with_label_values(&[status.as_str()]);
        }
        let removals = counters("health_removals_total", "Instances removed, by reason", "reason")?;
        for reason in [Removal::Critical, Removal::Expired] {
            removals.with_label_values(&[reason.as_str()]);
        }
        let catalog_age =
            Gauge::new("health_catalog_age_seconds", "Time since Consul last confirmed the catalog")?;
        registry.register(Box::new(catalog_age.clone()))?;
        Ok(Self {
            catalog_age,
            probes,
            probe_duration,
            transitions,
            owned: gauge("health_owned_targets", "Instances that this replica probes")?,
            instances: gauge("health_instances", "Instances registered through Plinth")?,
            removals,
            write_conflicts: counter("health_write_conflicts_total", "Writes that another writer overtook")?,
            write_failures: counter("health_write_failures_total", "Writes that Consul did not take")?,
            brake: gauge("health_brake_engaged", "1 while the brake holds back changes for the worse")?,
            brake_engagements: counter("health_brake_engagements_total", "Times the brake engaged")?,
            members: gauge("health_members_live", "Live replicas, this one included")?,
        })
    }
}
