//! The gateway's own metrics. Each worker counts in its own cache lines; the sums are made when somebody looks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::StatusCode;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily};
use prometheus::{CounterVec, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::context::Source;
use crate::upstream::Upstream;

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
    /// Answers by who made them and the first digit of their status.
    pub responses: [[Count; CLASSES.len()]; SOURCES.len()],
    /// How long requests took: one count for each bucket and one above.
    pub durations: [Count; BUCKETS.len() + 1],
    /// Their sum, nanoseconds.
    pub duration_nanos: Count,
    /// Bytes of answers held for slow clients.
    pub read_ahead: Count,
}

/// Label values of `gateway_responses_total`, in the order of [`Source`] and of the status.
const SOURCES: [&str; 2] = ["gateway", "upstream"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds of `gateway_request_duration_seconds`.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const DURATIONS: &str = "gateway_request_duration_seconds";
const DURATIONS_HELP: &str =
    "time from a request's head to its answer's last byte; upgraded connections are left out";

/// A poll longer than this is counted: it held up everything else of the worker.
const SLOW_POLL: Duration = Duration::from_millis(2);

impl WorkerStats {
    /// Counts an answer.
    pub fn answered(&self, source: Source, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        let source = match source {
            Source::Gateway => 0,
            Source::Upstream => 1,
        };
        if let Some(count) = self.responses.get(source).and_then(|classes| classes.get(class)) {
            count.add(1);
        }
    }

    /// Counts a request that is over.
    pub fn took(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        if let Some(count) = self.durations.get(bucket) {
            count.add(1);
        }
        self.duration_nanos.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

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
    responses: IntCounterVec,
    busy: CounterVec,
    pool_idle: IntGauge,
    durations: Desc,
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
    /// Age of the oldest service snapshot in use.
    pub discovery_age: Gauge,
    /// 1 while the catalog can be read.
    pub discovery_connected: IntGauge,
    /// Hand-overs to a new process, by result.
    pub handovers: IntCounterVec,
    /// Healthy, unhealthy and ejected endpoints by upstream.
    endpoints: IntGaugeVec,
}

/// Of endpoints.
const STATES: [&str; 3] = ["healthy", "unhealthy", "ejected"];

impl Metrics {
    /// Counts the endpoints of an upstream by state.
    pub fn report_endpoints(&self, name: &str, upstream: &Upstream) {
        let endpoints = upstream.endpoints();
        let set = endpoints.balancer.set();
        let all = set.endpoints().iter().filter(|endpoint| endpoint.weight > 0).count();
        let (healthy, all) = (i64::from(set.available()), i64::try_from(all).unwrap_or(i64::MAX));
        let ejected = i64::try_from(upstream.ejected()).unwrap_or(i64::MAX);
        for (state, count) in std::iter::zip(STATES, [healthy, all - healthy, ejected]) {
            self.endpoints.with_label_values(&[name, state]).set(count);
        }
    }

    /// The upstream is gone.
    pub fn forget_endpoints(&self, name: &str) {
        for state in STATES {
            // one that was never reported is no loss
            let _ = self.endpoints.remove_label_values(&[name, state]);
        }
    }

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
            responses: IntCounterVec::new(
                Opts::new("gateway_responses_total", "answers by who made them and class of status"),
                &["source", "class"],
            )?,
            busy: CounterVec::new(
                Opts::new("gateway_worker_busy_seconds_total", "time workers spent on connections"),
                &["worker"],
            )?,
            pool_idle: IntGauge::new("gateway_upstream_connections_idle", "idle upstream connections")?,
            durations: Desc::new(DURATIONS.into(), DURATIONS_HELP.into(), Vec::new(), HashMap::new())?,
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
            discovery_age: Gauge::new(
                "gateway_discovery_age_seconds",
                "age of the oldest service snapshot in use",
            )?,
            discovery_connected: IntGauge::new(
                "gateway_discovery_connected",
                "1 while the catalog's service list can be read",
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
        for result in ["applied", "refused"] {
            metrics.reloads.with_label_values(&[result]);
        }
        for result in ["completed", "failed"] {
            metrics.handovers.with_label_values(&[result]);
        }
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
        for (source, label) in SOURCES.iter().enumerate() {
            for (class, digit) in CLASSES.iter().enumerate() {
                let answers = self.responses.with_label_values(&[label, digit]);
                counter(&answers, self.sum(|worker| &worker.responses[source][class]));
            }
        }
        gauge(&self.read_ahead, self.sum(|worker| &worker.read_ahead));
        for (index, worker) in self.workers.iter().enumerate() {
            let busy = self.busy.with_label_values(&[&index.to_string()]);
            busy.inc_by((worker.busy_nanos.get() as f64 / 1e9 - busy.get()).max(0.0));
        }
    }

    /// `gateway_request_duration_seconds`, made of the workers' counts.
    fn durations(&self) -> MetricFamily {
        let mut histogram = proto::Histogram::default();
        let (mut buckets, mut below) = (Vec::with_capacity(BUCKETS.len()), 0);
        for (index, bound) in BUCKETS.iter().enumerate() {
            below += self.sum(|worker| &worker.durations[index]);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(below);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(below + self.sum(|worker| &worker.durations[BUCKETS.len()]));
        histogram.set_sample_sum(self.sum(|worker| &worker.duration_nanos) as f64 / 1e9);
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(DURATIONS.to_owned());
        family.set_help(DURATIONS_HELP.to_owned());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.mut_metric().push(metric);
        family
    }

    fn parts(&self) -> [&dyn Collector; 19] {
        [
            &self.accepted,
            &self.connections,
            &self.requests,
            &self.in_flight,
            &self.retries,
            &self.slow_polls,
            &self.responses,
            &self.busy,
            &self.pool_idle,
            &self.read_ahead,
            &self.generation,
            &self.apply_seconds,
            &self.applied_at,
            &self.last_reload_ok,
            &self.reloads,
            &self.discovery_age,
            &self.discovery_connected,
            &self.handovers,
            &self.endpoints,
        ]
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).chain([&self.durations]).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gather();
        self.parts().into_iter().flat_map(Collector::collect).chain([self.durations()]).collect()
    }
}
