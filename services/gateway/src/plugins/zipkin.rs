//! zipkin: trace context in headers, and spans as Zipkin's JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, response};
use plinth_kong::{PhaseFlavor, Propagate, SpanName, ZipkinConfig};
use serde::Serialize;

use super::export::{Body, Endpoint, Exports, Http, Limits, Queue, Sink, Timeouts, trusted};
use super::remote_log::key;
use super::spans::{self, SpanId, TraceContext, TraceId, hex, new_span_id};
use super::{Labels, Node};
use crate::context::{RequestContext, Try, TryState};

#[derive(Debug)]
pub(super) struct Zipkin {
    config: Arc<ZipkinConfig>,
    propagate: Arc<Propagate>,
    tags_header: HeaderName,
    shown: Option<HeaderName>,
    /// `None`: nothing is sent.
    queue: Option<Arc<Queue>>,
    node: Arc<Node>,
    at: Place,
}

/// Where the plugin runs, as tags.
#[derive(Clone, Debug, Default)]
struct Place {
    service: Option<(String, Option<String>)>,
    route: Option<(String, Option<String>)>,
}

/// One request's spans, carried from phase to phase.
#[derive(Clone, Debug)]
struct Trace {
    id: TraceId,
    request: SpanId,
    parent: Option<SpanId>,
    proxy: SpanId,
    sampled: bool,
    /// The client's tags: their header may not survive the access phase.
    tags: Vec<(String, String)>,
}

impl Zipkin {
    pub fn new(config: &ZipkinConfig, exports: &Exports, node: &Arc<Node>) -> Result<Zipkin, String> {
        let queue = match &config.http_endpoint {
            None => None,
            Some(url) => {
                let mut headers = HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let timeouts = Timeouts::of(config.connect_timeout, config.send_timeout, config.read_timeout);
                let endpoint = Endpoint::new(url, Method::POST, headers, timeouts, trusted)
                    .map_err(|why| format!("in 'http_endpoint': {why}"))?;
                let endpoint = Arc::new(endpoint);
                let sink = || Sink::Http(Box::new(Http::new(Arc::clone(&endpoint), Body::Array)));
                Some(exports.queue("zipkin", &key(config)?, Limits::from(&config.queue), sink))
            }
        };
        let tags_header = HeaderName::from_bytes(config.tags_header.as_bytes())
            .map_err(|_| "in 'tags_header': not a header name".to_owned())?;
        let propagate = config.propagation.effective(config.header_type, Some(config.default_header_type));
        Ok(Zipkin {
            propagate: Arc::new(propagate),
            tags_header,
            shown: spans::response_header(config.http_response_header_for_traceid.as_deref())?,
            queue,
            node: Arc::clone(node),
            config: Arc::new(config.clone()),
            at: Place::default(),
        })
    }

    pub fn bind(&self, at: &Labels<'_>) -> Zipkin {
        Zipkin {
            config: Arc::clone(&self.config),
            propagate: Arc::clone(&self.propagate),
            tags_header: self.tags_header.clone(),
            shown: self.shown.clone(),
            queue: self.queue.clone(),
            node: Arc::clone(&self.node),
            at: Place {
                service: at.service.map(|service| (service.id.to_string(), service.name.clone())),
                route: at.route.map(|route| (route.id.to_string(), route.name.clone())),
            },
        }
    }

    /// Reads the caller's context, decides about sampling, and writes what the upstream gets.
    pub fn access(&self, ctx: &mut RequestContext) {
        let (found, mut context) = spans::receive(&self.propagate, &ctx.head.headers);
        let trace = self.begin(&context, ctx);
        context.trace = Some(trace.id);
        context.span = Some(trace.proxy);
        context.parent = Some(trace.request);
        context.sampled = Some(trace.sampled);
        spans::pass_on(&self.propagate, found, &context, &mut ctx.head.headers);
        ctx.carried.insert(trace);
    }

    fn begin(&self, context: &TraceContext, ctx: &RequestContext) -> Trace {
        let (span, parent) = match context.shared_span {
            true => (context.span, context.parent),
            false => (None, context.span),
        };
        let ratio = self.config.sample_ratio.unwrap_or_default();
        Trace {
            id: context.trace.unwrap_or_else(|| TraceId::new(self.config.traceid_byte_count.into())),
            request: span.unwrap_or_else(new_span_id),
            parent,
            proxy: new_span_id(),
            sampled: context.sampled.unwrap_or_else(|| fastrand::f64() < ratio),
            tags: client_tags(&ctx.head.headers, &self.tags_header),
        }
    }

    pub fn header(&self, ctx: &mut RequestContext, head: &mut response::Parts) {
        let Some(name) = &self.shown else { return };
        let Some(id) = self.trace(ctx).and_then(|trace| HeaderValue::from_str(&trace.id.hex()).ok()) else {
            return;
        };
        head.headers.append(name.clone(), id);
    }

    /// What the access phase began; a request without a route has no access phase and begins here.
    fn trace(&self, ctx: &mut RequestContext) -> Option<Trace> {
        if ctx.carried.get::<Trace>().is_none() {
            let (_, context) = spans::receive(&self.propagate, &ctx.head.headers);
            let trace = self.begin(&context, ctx);
            ctx.carried.insert(trace);
        }
        ctx.carried.get::<Trace>().cloned()
    }

    pub fn log(&self, ctx: &RequestContext) {
        let Some(queue) = &self.queue else { return };
        let fresh;
        let trace = match ctx.carried.get::<Trace>() {
            Some(trace) => trace,
            None => {
                let (_, context) = spans::receive(&self.propagate, &ctx.head.headers);
                fresh = self.begin(&context, ctx);
                &fresh
            }
        };
        if !trace.sampled {
            return;
        }
        let method = ctx.head.method.as_str();
        let name = match self.config.http_span_name {
            SpanName::Method => method.to_owned(),
            SpanName::MethodPath => format!("{method} {}", ctx.head.uri.path()),
        };
        let clock = Clock::of(ctx);
        for (at, attempt) in ctx.tries.iter().enumerate() {
            self.push(queue, &self.balancer_span(trace, &name, &clock, at, attempt, ctx));
        }
        self.push(queue, &self.proxy_span(trace, &name, &clock, ctx));
        self.push(queue, &self.request_span(trace, name, &clock, ctx));
    }

    fn push(&self, queue: &Queue, span: &Span) {
        match serde_json::to_vec(span) {
            Ok(bytes) => queue.push(bytes),
            Err(error) => tracing::error!(%error, "zipkin: a span could not be made"),
        }
    }

    fn request_span(&self, trace: &Trace, name: String, clock: &Clock, ctx: &RequestContext) -> Span {
        let mut tags = BTreeMap::new();
        let mut tag = |name: &str, value: &str| insert(&mut tags, name, value);
        tag("lc", "kong");
        tag("http.method", ctx.head.method.as_str());
        tag("http.host", crate::proxy::head::split_port(ctx.host().unwrap_or_default()).0);
        tag("http.path", ctx.head.uri.path());
        tag("http.protocol", protocol(ctx.head.version));
        tag("http.status_code", ctx.outcome.status.as_str());
        tag("kong.node.id", &self.node.id);
        for fixed in &self.config.static_tags {
            tag(&fixed.name, &fixed.value);
        }
        for (name, value) in &trace.tags {
            tag(name, value);
        }
        if let Some(consumer) = &ctx.consumer {
            tag("kong.consumer", &consumer.id.to_string());
        }
        if let Some(credential) = ctx.credential.as_ref().filter(|_| self.config.include_credential) {
            tag("kong.credential", &credential.id);
        }
        let annotations = match self.config.phase_duration_flavor {
            PhaseFlavor::Annotations => vec![clock.annotation("krs", clock.start)],
            PhaseFlavor::Tags => {
                tag("kong.rewrite.duration_ms", "0");
                Vec::new()
            }
        };
        Span {
            id: hex(&trace.request),
            parent_id: trace.parent.map(|parent| hex(&parent)),
            kind: "SERVER",
            name,
            tags,
            annotations,
            remote_endpoint: Some(self.remote(None, ctx.client_ip, ctx.client.peer.port())),
            ..self.span(trace, clock, clock.start, clock.end)
        }
    }

    fn proxy_span(&self, trace: &Trace, name: &str, clock: &Clock, ctx: &RequestContext) -> Span {
        let mut tags = BTreeMap::new();
        self.place(&mut tags);
        if let Some(service) = ctx.service().filter(|_| !ctx.tries.is_empty()) {
            insert(&mut tags, "peer.hostname", &service.service.host);
        }
        let access_end = clock.upstream_start.unwrap_or(clock.end);
        let header = clock.upstream_head.unwrap_or(clock.end);
        let milliseconds =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_millis().to_string();
        let annotations = match self.config.phase_duration_flavor {
            PhaseFlavor::Annotations => {
                let moments = [
                    ("kas", clock.start),
                    ("kaf", access_end),
                    ("khs", header),
                    ("khf", header),
                    ("kbs", header),
                    ("kbf", clock.end),
                ];
                moments.into_iter().map(|(name, at)| clock.annotation(name, at)).collect()
            }
            PhaseFlavor::Tags => {
                insert(&mut tags, "kong.access.duration_ms", &milliseconds(clock.start, access_end));
                insert(&mut tags, "kong.header_filter.duration_ms", "0");
                insert(&mut tags, "kong.body_filter.duration_ms", &milliseconds(header, clock.end));
                Vec::new()
            }
        };
        let peer = ctx.tries.last().map(|attempt| attempt.address);
        Span {
            id: hex(&trace.proxy),
            parent_id: Some(hex(&trace.request)),
            kind: "CLIENT",
            name: format!("{name} (proxy)"),
            tags,
            annotations,
            remote_endpoint: peer.map(|peer| self.remote(self.service_name(), peer.ip(), peer.port())),
            ..self.span(trace, clock, clock.start, clock.end)
        }
    }

    fn balancer_span(
        &self,
        trace: &Trace,
        name: &str,
        clock: &Clock,
        at: usize,
        attempt: &Try,
        ctx: &RequestContext,
    ) -> Span {
        let mut tags = BTreeMap::new();
        insert(&mut tags, "kong.balancer.try", &(at + 1).to_string());
        if attempt.state != TryState::Answered {
            insert(&mut tags, "error", "true");
            insert(&mut tags, "kong.balancer.state", "failed");
            let timed_out = attempt.state == TryState::TimedOut;
            insert(&mut tags, "http.status_code", if timed_out { "504" } else { "502" });
        }
        self.place(&mut tags);
        let start = clock.start + attempt.after;
        let next = ctx.tries.get(at + 1).map(|next| clock.start + next.after);
        let end = next.or(clock.upstream_head).unwrap_or(clock.end);
        let peer = attempt.address;
        Span {
            id: hex(&new_span_id()),
            parent_id: Some(hex(&trace.request)),
            kind: "CLIENT",
            name: format!("{name} (balancer try {})", at + 1),
            tags,
            remote_endpoint: Some(self.remote(self.service_name(), peer.ip(), peer.port())),
            ..self.span(trace, clock, start, end)
        }
    }

    /// What all spans have.
    fn span(&self, trace: &Trace, clock: &Clock, start: Instant, end: Instant) -> Span {
        let length = end.saturating_duration_since(start);
        Span {
            trace_id: trace.id.hex(),
            timestamp: clock.micros(start),
            duration: u64::try_from(length.as_micros()).unwrap_or(u64::MAX),
            local_endpoint: Peer {
                service_name: Some(self.config.local_service_name.clone()),
                ..Peer::default()
            },
            ..Span::default()
        }
    }

    fn place(&self, tags: &mut BTreeMap<String, String>) {
        for (kind, place) in [("service", &self.at.service), ("route", &self.at.route)] {
            let Some((id, name)) = place else { continue };
            insert(tags, &format!("kong.{kind}"), id);
            if let Some(name) = name {
                insert(tags, &format!("kong.{kind}_name"), name);
            }
        }
    }

    fn service_name(&self) -> Option<&str> {
        self.at.service.as_ref()?.1.as_deref()
    }

    fn remote(&self, service: Option<&str>, ip: IpAddr, port: u16) -> Peer {
        let (ipv4, ipv6) = match ip {
            IpAddr::V4(ip) => (Some(ip.to_string()), None),
            IpAddr::V6(ip) => (None, Some(ip.to_string())),
        };
        let service = service.or(self.config.default_service_name.as_deref());
        Peer { service_name: service.map(str::to_owned), ipv4, ipv6, port: Some(port) }
    }
}

/// Zipkin takes no empty values.
fn insert(tags: &mut BTreeMap<String, String>, name: &str, value: &str) {
    if !value.is_empty() {
        tags.insert(name.to_owned(), value.to_owned());
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// `name=value;name=value` of the client's tags header.
fn client_tags(headers: &HeaderMap, name: &HeaderName) -> Vec<(String, String)> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let fits = !name.is_empty() && !value.is_empty() && !name.contains(char::is_whitespace);
        fits.then(|| (name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// The request's moments, and from them times on the wall clock.
struct Clock {
    start: Instant,
    started_at: SystemTime,
    upstream_start: Option<Instant>,
    upstream_head: Option<Instant>,
    end: Instant,
}

impl Clock {
    fn of(ctx: &RequestContext) -> Clock {
        let timing = &ctx.timing;
        Clock {
            start: timing.start,
            started_at: timing.started_at,
            upstream_start: timing.upstream_start,
            upstream_head: timing.upstream_head,
            end: timing.end.unwrap_or_else(Instant::now),
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        let since: Duration = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = since + at.saturating_duration_since(self.start);
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    }

    fn annotation(&self, value: &'static str, at: Instant) -> Annotation {
        Annotation { timestamp: self.micros(at), value }
    }
}

/// Zipkin's v2 span.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    name: String,
    kind: &'static str,
    /// Microseconds since 1970.
    timestamp: u64,
    /// Microseconds.
    duration: u64,
    local_endpoint: Peer,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_endpoint: Option<Peer>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<Annotation>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Serialize)]
struct Annotation {
    timestamp: u64,
    value: &'static str,
}
