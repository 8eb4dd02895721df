//! prometheus: Kong's metric names, handles resolved when a configuration is compiled.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use plinth_kong::{Config, PrometheusConfig};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

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
        let pairs: HashSet<Pair> = config
            .routes
            .iter()
            .map(|route| {
                let at = Labels::new(config, Some(route));
                (service_label(&at), route.label())
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
    /// Ingress and egress without a consumer.
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
            let labels = [service.as_str(), route.as_str(), WORKSPACE];
            let histogram = |family: &HistogramVec| family.with_label_values(&labels);
            let bytes = |direction: &str| {
                self.metrics.bandwidth.with_label_values(&[
                    service.as_str(),
                    &route,
                    direction,
                    WORKSPACE,
                    "",
                ])
            };
            Series {
                latencies: self.config.latency_metrics.then(|| {
                    let metrics = &self.metrics;
                    [&metrics.request_latency, &metrics.upstream_latency, &metrics.kong_latency]
                        .map(histogram)
                }),
                bandwidth: self.config.bandwidth_metrics.then(|| [bytes("ingress"), bytes("egress")]),
                statuses: ArcSwap::default(),
                service: service.clone(),
                route: route.clone(),
            }
        });
        Prometheus { metrics: self.metrics.clone(), config: self.config, series }
    }

    pub fn log(&self, ctx: &RequestContext) {
        let Some(series) = &self.series else { return };
        let consumer = ctx.consumer.as_ref().filter(|_| self.config.per_consumer);
        let consumer =
            consumer.map(|consumer| consumer.username.clone().unwrap_or_else(|| consumer.id.to_string()));
        let consumer = consumer.as_deref().unwrap_or_default();
        if self.config.status_code_metrics {
            self.count_status(series, ctx, consumer);
        }
        if let Some(bandwidth) = &series.bandwidth {
            self.count_bytes(series, bandwidth, ctx, consumer);
        }
        if let Some([request, upstream, kong]) = &series.latencies {
            request.observe(milliseconds(ctx.timing.total()));
            if let Some(waited) = ctx.timing.upstream() {
                upstream.observe(milliseconds(waited));
            }
            kong.observe(milliseconds(ctx.timing.gateway()));
        }
    }

    fn count_status(&self, series: &Series, ctx: &RequestContext, consumer: &str) {
        let (status, source) = (ctx.outcome.status.as_u16(), ctx.outcome.source);
        if consumer.is_empty() {
            let known = series.statuses.load();
            if let Some((_, counter)) = known.iter().find(|(key, _)| *key == (status, source)) {
                counter.inc();
                return;
            }
        }
        let code = status.to_string();
        let labels = [&series.service, &series.route, &*code, source_label(source), WORKSPACE, consumer];
        let counter = self.metrics.requests.with_label_values(&labels);
        counter.inc();
        if consumer.is_empty() {
            series.statuses.rcu(|known| {
                let mut known = Vec::clone(known);
                known.push(((status, source), counter.clone()));
                Arc::new(known)
            });
        }
    }

    fn count_bytes(&self, series: &Series, handles: &[IntCounter; 2], ctx: &RequestContext, consumer: &str) {
        let ingress = ctx.outcome.request_body_bytes + head_bytes(ctx);
        let egress = ctx.outcome.response_body_bytes + ctx.outcome.response_head_bytes;
        for (bytes, (handle, direction)) in
            [ingress, egress].into_iter().zip(handles.iter().zip(["ingress", "egress"]))
        {
            if consumer.is_empty() {
                handle.inc_by(bytes);
            } else {
                let labels = [&series.service, &series.route, direction, WORKSPACE, consumer];
                self.metrics.bandwidth.with_label_values(&labels).inc_by(bytes);
            }
        }
    }
}

/// The request head's size, near enough: plugins may have edited it.
pub(super) fn head_bytes(ctx: &RequestContext) -> u64 {
    let line = ctx.head.method.as_str().len() + ctx.head.uri.path().len() + " HTTP/1.1\r\n ".len();
    let headers: usize =
        ctx.head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (line + headers + 2) as u64
}
