//! A service's Prometheus metrics.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use plinth_core::health::{CheckStatus, Components};

use super::certificates::Certificates;
use crate::health::Readiness;

/// Buckets of request durations in seconds: half a millisecond to ten seconds, and long polls above.
const DURATIONS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// A registry of its own per service; there is no process-wide one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Services register their metrics here.
    pub registry: Registry,
    /// What the edge records about every request.
    pub http: HttpMetrics,
    components: IntGaugeVec,
    ready: IntGauge,
    /// When the certificates in use end.
    pub certificates: Certificates,
}

/// Request counters and durations; labels are bounded: the method (other ones are `OTHER`), the route's pattern
/// (`unmatched` when no route has the path) and the status.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    pub requests: IntCounterVec,
    pub durations: HistogramVec,
    pub in_flight: IntGauge,
}

impl Metrics {
    /// The metrics of `service`; each carries the label `plinth_service` (`service` is left to metrics about services).
    ///
    /// # Errors
    /// A name that Prometheus refuses.
    pub fn new(service: &str, version: &str) -> Result<Metrics, prometheus::Error> {
        let labels = [("plinth_service".to_owned(), service.to_owned())].into_iter().collect();
        let registry = Registry::new_custom(None, Some(labels))?;
        let names = &["method", "route", "status"];
        let http = HttpMetrics {
            requests: IntCounterVec::new(
                Opts::new("http_server_requests_total", "HTTP requests answered"),
                names,
            )?,
            durations: HistogramVec::new(
                HistogramOpts::new(
                    "http_server_request_duration_seconds",
                    "Time from a request's head to its answer's head",
                )
                .buckets(DURATIONS.to_vec()),
                names,
            )?,
            in_flight: IntGauge::new("http_server_requests_in_flight", "HTTP requests being answered")?,
        };
        registry.register(Box::new(http.requests.clone()))?;
        registry.register(Box::new(http.durations.clone()))?;
        registry.register(Box::new(http.in_flight.clone()))?;
        let build = IntGauge::with_opts(
            Opts::new("plinth_build_info", "Always 1; the label says which version runs")
                .const_label("version", version),
        )?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(Process::new()?))?;
        let components = IntGaugeVec::new(
            Opts::new("plinth_component_up", "1 while a component check of /health passes, else 0"),
            &["component"],
        )?;
        registry.register(Box::new(components.clone()))?;
        let ready = IntGauge::new("plinth_ready", "1 while /health/ready says yes, else 0")?;
        registry.register(Box::new(ready.clone()))?;
        let certificates = Certificates::new()?;
        registry.register(Box::new(certificates.clone()))?;
        Ok(Metrics { registry, http, components, ready, certificates })
    }

    /// Takes over what `/health` and `/health/ready` say, before a scrape is answered.
    pub async fn observe(&self, components: &Components, readiness: &Readiness) {
        let report = components.report().await;
        for (name, check) in &report.checks {
            self.components.with_label_values(&[name]).set((check.status == CheckStatus::Pass).into());
        }
        self.ready.set(readiness.is_ready().into());
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// A collector that yields malformed families.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Memory, processor time and descriptors of this process, under the names that Prometheus clients share. Read when
/// scraped; a figure that the system does not tell stays absent.
struct Process {
    resident: Gauge,
    cpu: Gauge,
    descriptors: Gauge,
    max_descriptors: Gauge,
    started: Gauge,
}

impl Process {
    fn new() -> Result<Process, prometheus::Error> {
        Ok(Process {
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes")?,
            cpu: Gauge::new("process_cpu_seconds_total", "Processor time spent, user and system")?,
            descriptors: Gauge::new("process_open_fds", "Open file descriptors")?,
            max_descriptors: Gauge::new("process_max_fds", "Most open file descriptors that are allowed")?,
            started: Gauge::new(
                "process_start_time_seconds",
                "When the process started, seconds since 1970",
            )?,
        })
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        [&self.resident, &self.cpu, &self.descriptors, &self.max_descriptors, &self.started]
            .into_iter()
            .flat_map(Collector::desc)
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some((resident, cpu)) = usage() {
            self.resident.set(resident);
            self.cpu.set(cpu);
            families.extend(self.resident.collect());
            let mut cpu = self.cpu.collect();
            for family in &mut cpu {
                family.set_field_type(prometheus::proto::MetricType::COUNTER);
                for metric in family.mut_metric() {
                    let mut counter = prometheus::proto::Counter::default();
                    counter.set_value(metric.get_gauge().get_value());
                    metric.set_counter(counter);
                }
            }
            families.extend(cpu);
        }
        if let Some(started) = started() {
            self.started.set(started);
            families.extend(self.started.collect());
        }
        if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            self.max_descriptors.set(limit as f64);
            families.extend(self.max_descriptors.collect());
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            #[expect(clippy::cast_precision_loss, reason = "descriptor counts are small")]
            self.descriptors.set(open.count() as f64);
            families.extend(self.descriptors.collect());
        }
        families
    }
}

/// Resident bytes and processor seconds from /proc/self/stat.
#[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
fn usage() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = field(11)? + field(12)?;
    let pages = field(21)?;
    let page = rustix::param::page_size() as f64;
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    Some((pages as f64 * page, ticks as f64 / hertz))
}

/// Seconds since 1970: the system's start and the process's own ticks since then.
#[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
fn started() -> Option<f64> {
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<u64>().ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse::<u64>().ok()?;
    Some(boot as f64 + ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_do_not_share_metrics() {
        let one = Metrics::new("registry-service", "1.0.0").unwrap();
        let other = Metrics::new("gateway", "1.0.0").unwrap();
        one.http.requests.with_label_values(&["GET", "/x", "200"]).inc();
        let text = String::from_utf8(one.render().unwrap()).unwrap();
        assert!(text.contains(
            r#"http_server_requests_total{method="GET",route="/x",status="200",plinth_service="registry-service"} 1"#
        ), "{text}");
        assert!(text.contains("process_resident_memory_bytes{plinth_service="), "{text}");
        assert!(text.contains("# TYPE process_cpu_seconds_total counter"), "{text}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - started().unwrap();
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
        assert!(!String::from_utf8(other.render().unwrap()).unwrap().contains("/x"));
    }
}
