//! Metrics in base units. Labels are bounded: no namespaces, no keys.

use std::time::Duration;

use plinth_events::RelayObserver;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::Error;
use crate::store::{EVENT_LANE, KV_LANE};

pub struct Metrics {
    /// `config_writes_total{result="live|accepted|unchanged|refused"}`
    pub writes: IntCounterVec,
    /// `config_drift_total{action="republished|adopted"}`
    pub drift: IntCounterVec,
    pub items: IntGauge,
    pub ignored_keys: IntGauge,
    pub snapshot_age: Gauge,
    pub watchers: IntGauge,
    lag: HistogramVec,
    refused: IntCounterVec,
    unavailable: IntCounterVec,
    depth: IntGaugeVec,
    oldest: GaugeVec,
}

impl Metrics {
    /// # Errors
    /// [`Error::Metrics`] when the registry already has one of these.
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        let counter = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let lag = HistogramVec::new(
            HistogramOpts::new("outbox_publish_lag_seconds", "Time from a row's commit to its confirmation")
                .buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0,
                ]),
            &["lane"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let depth =
            IntGaugeVec::new(Opts::new("outbox_rows", "Outbox rows that wait, at the last look"), &["lane"])?;
        registry.register(Box::new(depth.clone()))?;
        let snapshot_age =
            Gauge::new("config_snapshot_age_seconds", "Time since Consul confirmed the snapshot")?;
        registry.register(Box::new(snapshot_age.clone()))?;
        let oldest = GaugeVec::new(
            Opts::new(
                "outbox_oldest_row_age_seconds",
                "Age of the oldest outbox row that waits; 0: none does",
            ),
            &["lane"],
        )?;
        registry.register(Box::new(oldest.clone()))?;
        let metrics = Self {
            writes: counter("config_writes_total", "Writes by outcome", "result")?,
            drift: counter(
                "config_drift_total",
                "Disagreements of KV and history that were settled",
                "action",
            )?,
            items: gauge("config_items", "Items in the snapshot")?,
            ignored_keys: gauge("config_ignored_keys", "KV keys below the prefix whose value is not usable")?,
            snapshot_age,
            watchers: gauge("config_watchers", "Open event streams and long polls")?,
            lag,
            refused: counter("outbox_refused_total", "Messages a publisher refused", "lane")?,
            unavailable: counter("outbox_unavailable_total", "Tries that found a publisher away", "lane")?,
            depth,
            oldest,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// Present from the start: a rate over a series that appears later misses its first step.
    fn begin(&self) {
        for result in ["live", "accepted", "unchanged", "refused"] {
            self.writes.with_label_values(&[result]);
        }
        for action in ["republished", "adopted"] {
            self.drift.with_label_values(&[action]);
        }
        for lane in [KV_LANE, EVENT_LANE] {
            self.lag.with_label_values(&[lane]);
            self.refused.with_label_values(&[lane]);
            self.unavailable.with_label_values(&[lane]);
            self.depth.with_label_values(&[lane]);
            self.oldest.with_label_values(&[lane]);
        }
    }

    /// How long the lane's oldest row has been waiting.
    pub fn oldest_row(&self, lane: &str, age: Duration) {
        self.oldest.with_label_values(&[lane]).set(age.as_secs_f64());
    }
}

impl RelayObserver for Metrics {
    fn published(&self, lane: &'static str, age: Duration) {
        self.lag.with_label_values(&[lane]).observe(age.as_secs_f64());
    }

    fn refused(&self, lane: &'static str, _reason: &str) {
        self.refused.with_label_values(&[lane]).inc();
    }

    fn unavailable(&self, lane: &'static str, _reason: &str) {
        self.unavailable.with_label_values(&[lane]).inc();
    }

    fn depth(&self, lane: &'static str, rows: u64) {
        self.depth.with_label_values(&[lane]).set(i64::try_from(rows).unwrap_or(i64::MAX));
    }
}
