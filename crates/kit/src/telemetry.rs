//! Logs, traces and metrics.
//!
//! Logs and traces are process-wide and set up once, by `main` ([`Telemetry::init`]); metrics belong to a service
//! and are passed in ([`Metrics`]), since several services may live in one process.

mod certificates;
mod ecs;
mod edge;
mod metrics;
mod otlp;
mod propagate;

use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::settings::Reader;

pub use certificates::{Certificates, Expiry};
pub use edge::{EdgeLayer, EdgeService, EdgeSettings};
pub use metrics::{HttpMetrics, Metrics};
pub use propagate::{inject_trace_context, remote_context};

/// Enables the server spans of [`EdgeLayer`] and whatever else is only made for an exporter.
const REQUEST_SPANS: &str = "plinth::request=debug";

/// Spans that only say which service and task a log line belongs to. They last as long as the process and are no part
/// of traces: everything a task ever does would become one endless trace.
pub(crate) const SCOPE_TARGET: &str = "plinth::scope";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON document per line in the Elastic Common Schema.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(LogFormat::Human),
            "json" | "ecs" => Ok(LogFormat::Json),
            _ => Err("expected human or json"),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        })
    }
}

/// A directive that is neither a level nor names one: the filter would take it for a target and log nothing else.
fn bare_word(level: &str) -> Option<&str> {
    let words = level.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut bare = words.filter(|word| !word.contains(['=', '[', ']']));
    bare.find(|word| word.parse::<tracing_subscriber::filter::LevelFilter>().is_err())
}

/// Settings of logs and traces.
#[derive(Debug, Clone)]
pub struct TelemetrySettings {
    /// `service.name` of log lines and of the trace resource.
    pub service: String,
    /// `service.version` of both.
    pub version: String,
    /// How log lines look.
    pub format: LogFormat,
    /// Filter such as `info` or `info,plinth_core=debug`.
    pub level: String,
    /// Base URL of an OTLP/HTTP receiver such as `http://collector:4318`; none exports nothing.
    pub otlp_endpoint: Option<String>,
    /// Share of traces begun here that are exported; a caller's decision is followed.
    pub sample_ratio: f64,
    /// How long spans are collected before they are sent.
    pub export_interval: Duration,
    /// Longest time of one export, and of the last one at the end of the process.
    pub export_timeout: Duration,
    /// Most spans that wait for export; more are dropped.
    pub queue: usize,
}

impl TelemetrySettings {
    /// Defaults for `service`: human, info, nothing exported.
    pub fn new(service: impl Into<String>, version: impl Into<String>) -> TelemetrySettings {
        TelemetrySettings {
            service: service.into(),
            version: version.into(),
            format: LogFormat::Human,
            level: "info".to_owned(),
            otlp_endpoint: None,
            sample_ratio: 1.0,
            export_interval: Duration::from_secs(5),
            export_timeout: Duration::from_secs(5),
            queue: 2048,
        }
    }

    /// Reads `log.*` and `telemetry.*`.
    pub fn read(reader: &mut Reader, service: &str, version: &str) -> TelemetrySettings {
        reader.alias_env("telemetry.otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let defaults = TelemetrySettings::new(service, version);
        let settings = TelemetrySettings {
            format: reader.get(
                "log.format",
                "how log lines look: human or json (Elastic Common Schema)",
                defaults.format,
            ),
            level: reader.get(
                "log.level",
                "what is logged, such as info or info,plinth_core=debug",
                defaults.level.clone(),
            ),
            otlp_endpoint: reader.opt(
                "telemetry.otlp_endpoint",
                "base URL of an OTLP/HTTP receiver of traces, such as http://collector:4318",
            ),
            sample_ratio: reader.get_in(
                "telemetry.sample_ratio",
                "share of traces begun here that are exported",
                defaults.sample_ratio,
                0.0..=1.0,
            ),
            export_interval: reader.duration_in(
                "telemetry.export_interval",
                "how long spans are collected before they are sent",
                defaults.export_interval,
                Duration::from_millis(10)..=Duration::from_secs(60),
            ),
            export_timeout: reader.duration_in(
                "telemetry.export_timeout",
                "longest time of one export",
                defaults.export_timeout,
                Duration::from_millis(100)..=Duration::from_secs(60),
            ),
            queue: reader.get_in(
                "telemetry.queue",
                "most spans that wait for export; more are dropped",
                defaults.queue,
                1..=1_000_000,
            ),
            ..defaults
        };
        if let Err(error) = EnvFilter::builder().parse(&settings.level) {
            reader.fault(
                "log.level",
                format!("is no filter ({error}); expected a level such as info, or info,plinth_core=debug"),
            );
        } else if let Some(word) = bare_word(&settings.level) {
            reader.fault(
                "log.level",
                format!("{word} is no level; expected off, error, warn, info, debug, trace or target=level"),
            );
        }
        if let Some(url) = &settings.otlp_endpoint
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            reader.fault("telemetry.otlp_endpoint", "expected a URL that begins with https:// or http://");
        }
        settings
    }
}

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter is malformed")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("logging has been set up already")]
    Twice(#[from] TryInitError),
    #[error("the trace exporter cannot be built")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("TLS for the trace exporter cannot be set up")]
    Client(#[from] crate::outbound::OutboundError),
}

/// Keeps telemetry alive; [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    limit: Duration,
}

impl Telemetry {
    /// Installs the process's one subscriber. Spans are exported on `handle`'s runtime, which must outlive this.
    ///
    /// # Errors
    /// A malformed filter, a second call in one process, an exporter that cannot be built.
    pub fn init(
        settings: &TelemetrySettings,
        handle: &tokio::runtime::Handle,
    ) -> Result<Telemetry, TelemetryError> {
        let mut filter = EnvFilter::builder().parse(&settings.level)?;
        if settings.otlp_endpoint.is_some() {
            filter = filter.add_directive(REQUEST_SPANS.parse()?);
        }
        let provider = match &settings.otlp_endpoint {
            Some(endpoint) => Some(otlp::provider(endpoint, settings, handle)?),
            None => None,
        };
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("plinth"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_filter(filter_fn(|metadata| metadata.target() != SCOPE_TARGET))
        });
        let (human, json) = match settings.format {
            LogFormat::Human => {
                let ansi = std::io::stderr().is_terminal();
                let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
                (Some(layer), None)
            }
            LogFormat::Json => {
                let format = ecs::Ecs::new(&settings.service, &settings.version);
                let layer = tracing_subscriber::fmt::layer()
                    .event_format(format)
                    .fmt_fields(ecs::NoFields)
                    .with_ansi(false)
                    .with_writer(std::io::stderr);
                (None, Some(layer))
            }
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(traces)
            .with(ecs::ServiceNames)
            .with(human)
            .with(json)
            .try_init()?;
        Ok(Telemetry { provider, limit: settings.export_timeout })
    }

    /// True when spans are exported.
    pub fn exports_traces(&self) -> bool {
        self.provider.is_some()
    }

    /// Sends the spans that are left, for at most `telemetry.export_timeout`. Blocks: call it outside of tasks.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(self.limit)
        {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}
