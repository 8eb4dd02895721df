//! prometheus: Kong's metric names, handles resolved when a configuration is compiled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use plinth_kong::{Config, Consumer, PrometheusConfig};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use uuid::Uuid;

use super::Labels;
use crate::context::{RequestContext, Source};

const WORKSPACE: &str = "default";

const LATENCIES: &[f64] =
    &[25.0, 50.0, 80.0, 100.0, 250.0, 400.0, 700.0, 1000.0, 2000.0, 5000.0, 10_000.0, 30_000.0, 60_000.0];
const OWN_LATENCIES: &[f64] = &[
    1.0, 2.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 750.0, 1000.0, 3000.0,
    6000.0,
];

/// The families, registered once.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    requests: IntCounterVec,
    bandwidth: IntCounterVec,
    request_latency: HistogramVec,
    upstream_latency: HistogramVec,
    kong_latency: HistogramVec,
    /// Services and routes of the running configuration, as labels.
    pairs: Arc<Mutex<HashSet<Pair>>>,
}

/// The labels `service` and `route`.
type Pair = (String, String);

const STATUS_LABELS: &[&str] = &["service", "route", "code", "source", "workspace", "consumer"];
const BANDWIDTH_LABELS: &[&str] = &["service", "route", "direction", "workspace", "consumer"];
const LATENCY_LABELS: &[&str] = &["service", "route", "workspace"];

/// Removes the series of a family whose service and route are not among `pairs`.
fn remove(
    families: &[MetricFamily],
    labels: &[&str],
    pairs: &HashSet<Pair>,
    forget: impl Fn(&[&str]) -> Result<(), prometheus::Error>,
) {
    for metric in families.iter().flat_map(MetricFamily::get_metric) {
        let value = |label: &str| {
            metric.get_label().iter().find(|pair| pair.name() == label).map_or("", |pair| pair.value())
        };
        if pairs.contains(&(value("service").to_owned(), value("route").to_owned())) {
            continue;
        }
        let values: Vec<&str> = labels.iter().map(|label| value(label)).collect();
        if let Err(error) = forget(&values) {
            tracing::warn!(%error, ?values, "prometheus: a series cannot be removed");
        }
    }
}

fn service_label(at: &Labels<'_>) -> String {
    at.service.map(|service| service.label().to_owned()).unwrap_or_default()
}

impl Metrics {
    pub fn new(registry: &prometheus::Registry) -> Result<Metrics, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = HistogramVec::new(options, LATENCY_LABELS)?;
            registry.register(Box::new(histogram.clone())).map(|()| histogram)
        };
        Ok(Metrics {
            requests: counter(
                "kong_http_requests_total",
                "HTTP status codes per consumer/service/route in Kong",
                STATUS_LABELS,
            )?,
            bandwidth: counter(
                "kong_bandwidth_bytes",
                "Total bandwidth (ingress/egress) throughput in bytes",
                BANDWIDTH_LABELS,
            )?,
            request_latency: histogram(
                "kong_request_latency_ms",
                "Total latency incurred during requests for each service/route in Kong",
                LATENCIES,
            )?,
            upstream_latency: histogram(
                "kong_upstream_latency_ms",
                "Latency added by upstream response for each service/route in Kong",
                LATENCIES,
            )?,
            kong_latency: histogram(
                "kong_kong_latency_ms",
                "Latency added by Kong and enabled plugins for each service/route in Kong",
                OWN_LATENCIES,
            )?,
            pairs: Arc::default(),
        })
    }

    /// Series of routes that are gone go too: their number stays bounded by the running configuration.
    pub fn retain(&self, config: &Config) {
        let services: std::collections::HashMap<_, _> =
            config.services.iter().map(|service| (service.id, &**service)).collect();
        let pairs: HashSet<Pair> = config
            .routes
            .iter()
            .map(|route| {
                let service = route.service.and_then(|id| services.get(&id).copied());
                (service_label(&Labels { route: Some(route), service }), route.label())
            })
            .collect();
        let mut known = self.pairs.lock();
        if known.is_subset(&pairs) {
            *known = pairs;
            return;
        }
        let counters = [(&self.requests, STATUS_LABELS), (&self.bandwidth, BANDWIDTH_LABELS)];
        for (family, labels) in counters {
            remove(&family.collect(), labels, &pairs, |values| family.remove_label_values(values));
        }
        for family in [&self.request_latency, &self.upstream_latency, &self.kong_latency] {
            remove(&family.collect(), LATENCY_LABELS, &pairs, |values| family.remove_label_values(values));
        }
        *known = pairs;
    }

    pub fn plugin(&self, config: PrometheusConfig) -> Prometheus {
        Prometheus { metrics: self.clone(), config, series: None }
    }
}

/// The plugin; with series once it is bound to a route.
#[derive(Debug)]
pub(super) struct Prometheus {
    metrics: Metrics,
    config: PrometheusConfig,
    series: Option<Series>,
}

/// The series of one route.
#[derive(Debug)]
struct Series {
    service: String,
    route: String,
    latencies: Option<[Histogram; 3]>,
    /// Of requests without a consumer, or of all.
    everybody: Counters,
    /// By consumer, made when one is first met.
    consumers: RwLock<HashMap<Uuid, Arc<Counters>, RandomState>>,
}

/// The counters of one route and consumer.
#[derive(Debug)]
struct Counters {
    consumer: String,
    /// Ingress and egress.
    bandwidth: Option<[IntCounter; 2]>,
    /// Status counters met so far, by status and source; a handful, so a list.
    statuses: ArcSwap<Vec<((u16, Source), IntCounter)>>,
}

fn milliseconds(time: std::time::Duration) -> f64 {
    time.as_millis() as f64
}

fn source_label(source: Source) -> &'static str {
    match source {
        Source::Gateway => "kong",
        Source::Upstream => "service",
    }
}

impl Prometheus {
    /// Requests without a route are not counted.
    pub fn bind(&self, at: &Labels<'_>) -> Prometheus {
        let series = at.route.map(|route| {
            let service = service_label(at);
            let route = route.label();
            let labels = [service.as_str(), &route, WORKSPACE];
            let metrics = &self.metrics;
            let latencies = self.config.latency_metrics.then(|| {
                [&metrics.request_latency, &metrics.upstream_latency, &metrics.kong_latency]
                    .map(|family| family.with_label_values(&labels))
            });
            Series {
                latencies,
                everybody: self.counters(&service, &route, String::new()),
                consumers: RwLock::default(),
                service,
                route,
            }
        });
        Prometheus { metrics: self.metrics.clone(), config: self.config, series }
    }

    fn counters(&self, service: &str, route: &str, consumer: String) -> Counters {
        let bytes = |direction: &str| {
            self.metrics.bandwidth.with_label_values(&[service, route, direction, WORKSPACE, &consumer])
        };
        let bandwidth = self.config.bandwidth_metrics.then(|| ["ingress", "egress"].map(bytes));
        Counters { bandwidth, statuses: ArcSwap::default(), consumer }
    }

    pub fn log(&self, ctx: &RequestContext) {
        let Some(series) = &self.series else { return };
        match ctx.consumer.as_deref().filter(|_| self.config.per_consumer) {
            None => self.count(series, &series.everybody, ctx),
            Some(consumer) => self.count(series, &self.of_consumer(series, consumer), ctx),
        }
        if let Some([request, upstream, kong]) = &series.latencies {
            request.observe(milliseconds(ctx.timing.total()));
            if let Some(waited) = ctx.timing.upstream() {
                upstream.observe(milliseconds(waited));
            }
            kong.observe(milliseconds(ctx.timing.gateway()));
        }
    }

    fn of_consumer(&self, series: &Series, consumer: &Consumer) -> Arc<Counters> {
        if let Some(known) = series.consumers.read().get(&consumer.id) {
            return Arc::clone(known);
        }
        let name = consumer.username.clone().unwrap_or_else(|| consumer.id.to_string());
        let made = Arc::new(self.counters(&series.service, &series.route, name));
        Arc::clone(series.consumers.write().entry(consumer.id).or_insert(made))
    }

    fn count(&self, series: &Series, counters: &Counters, ctx: &RequestContext) {
        if self.config.status_code_metrics {
            self.count_status(series, counters, ctx);
        }
        if let Some([ingress, egress]) = &counters.bandwidth {
            ingress.inc_by(ctx.outcome.request_body_bytes + ctx.outcome.request_head_bytes);
            egress.inc_by(ctx.outcome.response_body_bytes + ctx.outcome.response_head_bytes);
        }
    }

    fn count_status(&self, series: &Series, counters: &Counters, ctx: &RequestContext) {
        let (status, source) = (ctx.outcome.status.as_u16(), ctx.outcome.source);
        let known = counters.statuses.load();
        if let Some((_, counter)) = known.iter().find(|(key, _)| *key == (status, source)) {
            counter.inc();
            return;
        }
        let code = ctx.outcome.status.as_str();
        let labels =
            [&*series.service, &*series.route, code, source_label(source), WORKSPACE, &*counters.consumer];
        let counter = self.metrics.requests.with_label_values(&labels);
        counter.inc();
        counters.statuses.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push(((status, source), counter.clone()));
            known
        });
    }
}
