//! http-log, tcp-log, udp-log and syslog: Kong's log entry, sent elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use plinth_kong::{
    HttpLogConfig, HttpLogMethod, QueueConfig, Severity, SyslogConfig, TcpLogConfig, UdpLogConfig,
};

use super::Labels;
use super::entry::{self, Entities};
use super::export::{
    Body, Endpoint, Exports, Http, Limits, Queue, Sink, Syslog, Tcp, Timeouts, Udp, unverified,
};
use crate::context::RequestContext;

/// Entries of the plugins without a `queue` of their own are taken out by so many.
const BATCH: usize = 64;
/// Limit for handing one message to the syslog daemon.
const SYSLOG_TIMEOUT: Duration = Duration::from_secs(5);

/// The plugin; with the route's and service's entities once it is bound.
#[derive(Debug)]
pub(super) struct RemoteLog {
    queue: Arc<Queue>,
    /// The priority depends on the status.
    syslog: Option<SyslogConfig>,
    entities: Entities,
}

impl RemoteLog {
    fn new(queue: Arc<Queue>) -> RemoteLog {
        RemoteLog { queue, syslog: None, entities: Entities::default() }
    }

    /// # Errors
    /// Header values that are none; addresses TLS has no name for.
    pub fn http(config: &HttpLogConfig, exports: &Exports) -> Result<RemoteLog, String> {
        let mut headers = headers(&config.headers)?;
        let kind = HeaderValue::from_str(&config.content_type);
        headers.insert(header::CONTENT_TYPE, kind.map_err(|_| "invalid content_type".to_owned())?);
        let method = match config.method {
            HttpLogMethod::Post => Method::POST,
            HttpLogMethod::Put => Method::PUT,
            HttpLogMethod::Patch => Method::PATCH,
        };
        let timeout = milliseconds(config.timeout);
        let idle = milliseconds(config.keepalive);
        let timeouts = Timeouts { connect: timeout, send: timeout, read: timeout, idle };
        let endpoint = Endpoint::new(&config.http_endpoint, method, headers, timeouts, unverified)
            .map_err(|why| format!("in 'http_endpoint': {why}"))?;
        let endpoint = Arc::new(endpoint);
        let limits = Limits::from(&config.queue);
        let body = if limits.batch == 1 { Body::Single } else { Body::Array };
        let sink = || Sink::Http(Box::new(Http::new(Arc::clone(&endpoint), body.clone())));
        Ok(RemoteLog::new(exports.queue("http-log", &key(config)?, limits, sink)))
    }

    /// # Errors
    /// A host TLS has no name for.
    pub fn tcp(config: &TcpLogConfig, exports: &Exports) -> Result<RemoteLog, String> {
        let name = config.tls_sni.as_deref().unwrap_or(&config.host);
        let tls = match config.tls {
            false => None,
            true => Some(unverified(name).map_err(|error| plinth_kit::problem::chain(&error))?),
        };
        let tcp = Tcp {
            host: bare(&config.host),
            port: config.port,
            tls: tls.map(|target| (target.server_name, target.config)),
            timeout: milliseconds(config.timeout),
            keepalive: milliseconds(config.keepalive),
            connection: Default::default(),
        };
        Ok(RemoteLog::new(exports.queue("tcp-log", &key(config)?, limits(), || Sink::Tcp(tcp.clone()))))
    }

    /// # Errors
    /// None in practice.
    pub fn udp(config: &UdpLogConfig, exports: &Exports) -> Result<RemoteLog, String> {
        let sink = || {
            let timeout = milliseconds(config.timeout);
            Sink::Udp(Udp { host: bare(&config.host), port: config.port, timeout, socket: None })
        };
        Ok(RemoteLog::new(exports.queue("udp-log", &key(config)?, limits(), sink)))
    }

    /// # Errors
    /// None in practice.
    pub fn syslog(config: &SyslogConfig, socket: &Path, exports: &Exports) -> Result<RemoteLog, String> {
        let sink = || Sink::Syslog(Syslog { path: socket.to_owned(), timeout: SYSLOG_TIMEOUT, socket: None });
        let queue = exports.queue("syslog", &socket.display().to_string(), limits(), sink);
        Ok(RemoteLog { syslog: Some(config.clone()), ..RemoteLog::new(queue) })
    }

    pub fn bind(&self, at: &Labels<'_>) -> RemoteLog {
        RemoteLog { queue: Arc::clone(&self.queue), syslog: self.syslog.clone(), entities: Entities::of(at) }
    }

    pub fn log(&self, ctx: &RequestContext) {
        let prefix = match &self.syslog {
            None => None,
            Some(config) => match severity(config, ctx.outcome.status.as_u16()) {
                Some(severity) => Some(head(config, severity, ctx)),
                None => return,
            },
        };
        let line = entry::line(ctx, &self.entities);
        self.queue.push(match prefix {
            Some(prefix) => [prefix.into_bytes(), line].concat(),
            None => line,
        });
    }
}

/// Headers of a configuration.
pub(super) fn headers(configured: &std::collections::BTreeMap<String, String>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in configured {
        let bad = || format!("in 'headers': in '{name}': not a header");
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        // May be a token.
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Configurations that are the same share a queue.
pub(super) fn key(config: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string(config).map_err(|error| error.to_string())
}

/// For plugins without a `queue`: Kong's defaults, and what waits already is sent at once.
fn limits() -> Limits {
    let defaults = Limits::from(&QueueConfig::default());
    Limits { batch: BATCH, gather: Duration::ZERO, ..defaults }
}

fn milliseconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value / 1000.0).unwrap_or(Duration::MAX)
}

/// An IPv6 address without brackets, as sockets want it.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// How urgent a request's entry is; `None` when that is not urgent enough.
fn severity(config: &SyslogConfig, status: u16) -> Option<Severity> {
    let severity = match status {
        500.. => config.server_errors_severity,
        400..=499 => config.client_errors_severity,
        _ => config.successful_severity,
    };
    (severity <= config.log_level).then_some(severity)
}

/// RFC 3164's head as syslog(3) writes it: priority, time (UTC), `kong[pid]: `.
fn head(config: &SyslogConfig, severity: Severity, ctx: &RequestContext) -> String {
    let priority = config.facility.code() * 8 + severity as u8;
    let time = jiff::Timestamp::try_from(ctx.timing.started_at).unwrap_or_default();
    format!("<{priority}>{} kong[{}]: ", time.strftime("%b %e %H:%M:%S"), std::process::id())
}
