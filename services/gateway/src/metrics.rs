//! The gateway's own metrics. Each worker counts in its own cache lines; the sums are made when somebody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

/// A number only one thread changes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds. Only the owning thread may.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// Subtracts. Only the owning thread may.
    pub fn sub(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(by), Relaxed);
    }

    /// Sets.
    pub fn set(&self, to: u64) {
        self.0.store(to, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Client connections accepted.
    pub accepted: Count,
    /// Client connections open.
    pub connections: Count,
    /// Requests begun.
    pub requests: Count,
    /// Requests running.
    pub in_flight: Count,
    /// Tries after the first.
    pub retries: Count,
    /// Polls of a connection that took more than 2 ms.
    pub slow_polls: Count,
    /// Time spent polling connections, nanoseconds.
    pub busy_nanos: Count,
    /// Idle upstream connections.
    pub pool_idle: Count,
    /// Bytes of answers held for slow clients.
    pub read_ahead: Count,
}

/// A poll longer than this is counted: it held up everything else of the worker.
const SLOW_POLL: Duration = Duration::from_millis(2);

impl WorkerStats {
    /// Runs `poll` and counts its time.
    pub fn timed<T>(&self, poll: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let polled = poll();
        let spent = begun.elapsed();
        self.busy_nanos.add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX));
        if spent > SLOW_POLL {
            self.slow_polls.add(1);
        }
        polled
    }
}

/// Everything the data plane and the configuration report.
#[derive(Clone, Debug)]
pub struct Metrics {
    workers: Arc<Vec<Arc<WorkerStats>>>,
    accepted: IntCounter,
    connections: IntGauge,
    requests: IntCounter,
    in_flight: IntGauge,
    retries: IntCounter,
    slow_polls: IntCounter,
    busy: CounterVec,
    pool_idle: IntGauge,
    read_ahead: IntGauge,
    /// Generation of the running configuration.
    pub generation: IntGauge,
    /// How long applying it took, from the text to the workers.
    pub apply_seconds: Gauge,
    /// When it was applied, seconds since 1970.
    pub applied_at: IntGauge,
    /// 0 while the last configuration offered was refused.
    pub last_reload_ok: IntGauge,
    /// Configurations offered, by result.
    pub reloads: IntCounterVec,
    /// Hand-overs to a new process, by result.
    pub handovers: IntCounterVec,
    /// Healthy, unhealthy and ejected endpoints by upstream.
    pub endpoints: IntGaugeVec,
}

impl Metrics {
    /// Makes the metrics for `workers` workers and registers them.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn new(registry: &prometheus::Registry, workers: usize) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            workers: Arc::new((0..workers).map(|_| Arc::new(WorkerStats::default())).collect()),
            accepted: IntCounter::new("gateway_connections_accepted_total", "client connections accepted")?,
            connections: IntGauge::new("gateway_connections", "client connections open")?,
            requests: IntCounter::new("gateway_requests_total", "requests begun")?,
            in_flight: IntGauge::new("gateway_requests_in_flight", "requests running")?,
            retries: IntCounter::new(
                "gateway_upstream_retries_total",
                "tries at an upstream after the first",
            )?,
            slow_polls: IntCounter::new(
                "gateway_slow_polls_total",
                "times a connection kept its worker busy for more than 2 ms",
            )?,
            busy: CounterVec::new(
                Opts::new("gateway_worker_busy_seconds_total", "time workers spent on connections"),
                &["worker"],
            )?,
            pool_idle: IntGauge::new("gateway_upstream_connections_idle", "idle upstream connections")?,
            read_ahead: IntGauge::new(
                "gateway_response_read_ahead_bytes",
                "bytes of answers read ahead of slow clients",
            )?,
            generation: IntGauge::new(
                "gateway_config_generation",
                "generation of the running configuration",
            )?,
            apply_seconds: Gauge::new(
                "gateway_config_apply_seconds",
                "how long applying the running configuration took, from its text to the workers",
            )?,
            applied_at: IntGauge::new(
                "gateway_config_applied_timestamp_seconds",
                "when the running configuration was applied",
            )?,
            last_reload_ok: IntGauge::new(
                "gateway_config_last_reload_successful",
                "0 while the configuration last offered was refused",
            )?,
            reloads: IntCounterVec::new(
                Opts::new("gateway_config_reloads_total", "configurations offered, by result"),
                &["result"],
            )?,
            handovers: IntCounterVec::new(
                Opts::new("gateway_handovers_total", "hand-overs to a new process, by result"),
                &["result"],
            )?,
            endpoints: IntGaugeVec::new(
                Opts::new("gateway_upstream_endpoints", "endpoints of each upstream by state"),
                &["upstream", "state"],
            )?,
        };
        metrics.last_reload_ok.set(1);
        registry.register(Box::new(metrics.clone()))?;
        Ok(metrics)
    }

    /// The counters of worker `index`.
    #[must_use]
    pub fn worker(&self, index: usize) -> Option<Arc<WorkerStats>> {
        self.workers.get(index).cloned()
    }

    /// The sum over all workers.
    #[must_use]
    pub fn sum(&self, field: impl Fn(&WorkerStats) -> &Count) -> u64 {
        self.workers.iter().map(|worker| field(worker).get()).sum()
    }

    fn gather(&self) {
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let counter = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        counter(&self.accepted, self.sum(|worker| &worker.accepted));
        gauge(&self.connections, self.sum(|worker| &worker.connections));
        counter(&self.requests, self.sum(|worker| &worker.requests));
        gauge(&self.in_flight, self.sum(|worker| &worker.in_flight));
        counter(&self.retries, self.sum(|worker| &worker.retries));
        counter(&self.slow_polls, self.sum(|worker| &worker.slow_polls));
        gauge(&self.pool_idle, self.sum(|worker| &worker.pool_idle));
        gauge(&self.read_ahead, self.sum(|worker| &worker.read_ahead));
        for (index, worker) in self.workers.iter().enumerate() {
            let busy = self.busy.with_label_values(&[&index.to_string()]);
            busy.inc_by((worker.busy_nanos.get() as f64 / 1e9 - busy.get()).max(0.0));
        }
    }

    fn parts(&self) -> [&dyn Collector; 16] {
        [
            &self.accepted,
            &self.connections,
            &self.requests,
            &self.in_flight,
            &self.retries,
            &self.slow_polls,
            &self.busy,
            &self.pool_idle,
            &self.read_ahead,
            &self.generation,
            &self.apply_seconds,
            &self.applied_at,
            &self.last_reload_ok,
            &self.reloads,
            &self.handovers,
            &self.endpoints,
        ]
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gather();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
