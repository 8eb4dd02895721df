//! opentelemetry: trace context in headers; spans and log records as OTLP over HTTP.
//!
//! As in Kong, context is always passed on; spans are made and sent only with `tracing.instrumentations`
//! (`KONG_TRACING_INSTRUMENTATIONS`), and without them traces that go through here are marked as not sampled.

mod records;

use std::sync::Arc;

use http::{HeaderValue, Method, header, response};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use plinth_kong::{HeaderType, OpentelemetryConfig, Propagate};
use prost::Message;

use super::entry::{self, Entities};
use super::export::{Body, Endpoint, Exports, Http, Limits, Queue, Sink, Timeouts, trusted};
use super::remote_log::{headers, key};
use super::spans::{self, SpanId, TraceId, new_span_id};
use super::{Labels, Node, TracingSettings};
use crate::context::RequestContext;
use records::text;

#[derive(Debug)]
pub(super) struct Opentelemetry {
    propagate: Arc<Propagate>,
    shown: Option<http::HeaderName>,
    settings: TracingSettings,
    sampling_rate: f64,
    traces: Option<Arc<Queue>>,
    logs: Option<Arc<Queue>>,
    entities: Entities,
    /// The route's first path.
    route: String,
}

/// One request's spans, carried from phase to phase.
#[derive(Clone, Debug)]
struct Trace {
    id: TraceId,
    root: SpanId,
    parent: Option<SpanId>,
    /// The span of the last try: the upstream's parent. The root's where tries have no spans.
    upstream: SpanId,
    sampled: bool,
}

impl Opentelemetry {
    pub fn new(
        config: &OpentelemetryConfig,
        exports: &Exports,
        node: &Node,
        settings: TracingSettings,
    ) -> Result<Opentelemetry, String> {
        let mut common = headers(&config.headers)?;
        common.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let timeouts = Timeouts::of(config.connect_timeout, config.send_timeout, config.read_timeout);
        let resource = resource(config, node).encode_to_vec();
        let scope = InstrumentationScope {
            name: "kong-internal".to_owned(),
            version: "0.1.0".to_owned(),
            ..InstrumentationScope::default()
        };
        let body = Body::Otlp { resource: resource.into(), scope: scope.encode_to_vec().into() };
        let queue = |field: &str, url: Option<&String>| {
            let Some(url) = url else { return Ok(None) };
            let endpoint = Endpoint::new(url, Method::POST, common.clone(), timeouts, trusted)
                .map_err(|why| format!("in '{field}': {why}"))?;
            let endpoint = Arc::new(endpoint);
            let sink = || Sink::Http(Box::new(Http::new(Arc::clone(&endpoint), body.clone())));
            let key = format!("{field} {}", key(config)?);
            Ok::<_, String>(Some(exports.queue("opentelemetry", &key, Limits::from(&config.queue), sink)))
        };
        let header_type = config.header_type.unwrap_or(HeaderType::Preserve);
        Ok(Opentelemetry {
            propagate: Arc::new(config.propagation.effective(header_type, None)),
            shown: spans::response_header(config.http_response_header_for_traceid.as_deref())?,
            settings,
            sampling_rate: config.sampling_rate.unwrap_or(settings.sampling_rate),
            traces: queue("traces_endpoint", config.traces_endpoint.as_ref())?,
            logs: queue("logs_endpoint", config.logs_endpoint.as_ref())?,
            entities: Entities::default(),
            route: String::new(),
        })
    }

    pub fn bind(&self, at: &Labels<'_>) -> Opentelemetry {
        Opentelemetry {
            propagate: Arc::clone(&self.propagate),
            shown: self.shown.clone(),
            settings: self.settings,
            sampling_rate: self.sampling_rate,
            traces: self.traces.clone(),
            logs: self.logs.clone(),
            entities: Entities::of(at),
            route: at.route.and_then(|route| route.paths.first()).cloned().unwrap_or_default(),
        }
    }

    pub fn access(&self, ctx: &mut RequestContext) {
        let (found, mut context) = spans::receive(&self.propagate, &ctx.head.headers);
        let id = context.trace.unwrap_or_else(|| TraceId::new(16));
        let root = new_span_id();
        let trace = Trace {
            id,
            root,
            parent: context.span.or(context.parent),
            upstream: if self.settings.balancer { new_span_id() } else { root },
            sampled: self.settings.enabled() && context.sampled.unwrap_or_else(|| self.samples(&id)),
        };
        context.trace = Some(id);
        context.span = Some(trace.upstream);
        context.parent = if self.settings.balancer { Some(root) } else { trace.parent };
        context.sampled = Some(trace.sampled);
        spans::pass_on(&self.propagate, found, &context, &mut ctx.head.headers);
        ctx.carried.insert(trace);
    }

    /// By the trace id, so that gateways with the same rate agree.
    fn samples(&self, id: &TraceId) -> bool {
        let low = id.last(8).iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        // 53 bits are what a float holds exactly
        (low >> 11) as f64 / (1_u64 << 53) as f64 <= self.sampling_rate && self.sampling_rate > 0.0
    }

    pub fn header(&self, ctx: &RequestContext, head: &mut response::Parts) {
        if let (Some(name), Some(trace)) = (&self.shown, ctx.carried.get::<Trace>())
            && let Ok(id) = HeaderValue::from_str(&spans::hex(&trace.id.bytes))
        {
            head.headers.append(name.clone(), id);
        }
    }

    pub fn log(&self, ctx: &RequestContext) {
        // Without a route there was no access phase, and so no trace.
        let trace = ctx.carried.get::<Trace>();
        if let (Some(queue), Some(trace)) = (&self.traces, trace)
            && trace.sampled
        {
            for span in records::spans(trace, &self.settings, &self.route, ctx) {
                queue.push(span.encode_to_vec());
            }
        }
        if let Some(queue) = &self.logs {
            let line = entry::line(ctx, &self.entities);
            queue.push(records::log(trace, ctx, &line).encode_to_vec());
        }
    }
}

fn resource(config: &OpentelemetryConfig, node: &Node) -> Resource {
    let mut attributes = std::collections::BTreeMap::from([
        ("service.name", "kong"),
        ("service.version", crate::identity::VERSION),
        ("service.instance.id", node.id.as_str()),
    ]);
    for (name, value) in &config.resource_attributes {
        attributes.insert(name, value);
    }
    Resource {
        attributes: attributes.into_iter().map(|(name, value)| text(name, value)).collect(),
        ..Resource::default()
    }
}
