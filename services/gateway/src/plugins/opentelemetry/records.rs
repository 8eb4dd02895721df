//! Spans and log records of one request, as OTLP has them.

use std::time::{Instant, UNIX_EPOCH};

use http::Version;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::Trace;
use crate::context::{RequestContext, TryState};
use crate::plugins::TracingSettings;
use crate::plugins::spans::{SpanId, new_span_id};

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// The request's span and one for each try, as far as they are asked for.
pub(super) fn spans(
    trace: &Trace,
    settings: &TracingSettings,
    route: &str,
    ctx: &RequestContext,
) -> Vec<Span> {
    let mut spans = Vec::with_capacity(1 + ctx.tries.len());
    if settings.request {
        spans.push(root(trace, route, ctx));
    }
    if settings.balancer {
        spans.extend((0..ctx.tries.len()).map(|at| balancer(trace, at, ctx)));
    }
    spans
}

fn root(trace: &Trace, route: &str, ctx: &RequestContext) -> Span {
    let scheme = if ctx.https() { "https" } else { "http" };
    let (host, _) = crate::proxy::head::split_port(ctx.host().unwrap_or_default());
    let target = ctx.head.uri.path_and_query().map_or("/", |target| target.as_str());
    let status = ctx.outcome.status.as_u16();
    let mut attributes = vec![
        text("http.method", ctx.head.method.as_str()),
        text("http.url", &format!("{scheme}://{host}{target}")),
        text("http.host", host),
        text("http.scheme", scheme),
        text("http.flavor", flavor(ctx.head.version)),
        text("http.client_ip", &ctx.client_ip.to_string()),
        text("net.peer.ip", &ctx.client.peer.ip().to_string()),
        text("kong.request.id", ctx.request_id.as_str()),
        number("http.status_code", status),
        text("http.route", route),
    ];
    attributes.retain(|attribute| attribute.key != "http.route" || !route.is_empty());
    Span {
        span_id: trace.root.to_vec(),
        parent_span_id: trace.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        name: "kong".to_owned(),
        kind: SpanKind::Server.into(),
        attributes,
        status: (status >= 500).then(failed),
        ..span(trace, ctx, ctx.timing.start, end(ctx))
    }
}

fn balancer(trace: &Trace, at: usize, ctx: &RequestContext) -> Span {
    let last = at + 1 == ctx.tries.len();
    let mut attributes = vec![number("try_count", u32::try_from(at + 1).unwrap_or(u32::MAX))];
    let (mut start, mut finish, mut status) = (ctx.timing.start, end(ctx), None);
    if let Some(attempt) = ctx.tries.get(at) {
        start += attempt.after;
        attributes.push(text("net.peer.ip", &attempt.address.ip().to_string()));
        attributes.push(number("net.peer.port", attempt.address.port()));
        if let Some(service) = ctx.service() {
            attributes.push(text("net.peer.name", &service.service.host));
        }
        if attempt.state != TryState::Answered {
            let code = if attempt.state == TryState::TimedOut { 504 } else { 502 };
            attributes.push(number("http.status_code", code));
            status = Some(failed());
        }
        if let Some(next) = ctx.tries.get(at + 1) {
            finish = ctx.timing.start + next.after;
        }
    }
    // The upstream got the last try's name as its parent.
    let id: SpanId = if last { trace.upstream } else { new_span_id() };
    Span {
        span_id: id.to_vec(),
        parent_span_id: trace.root.to_vec(),
        name: "kong.balancer".to_owned(),
        kind: SpanKind::Client.into(),
        attributes,
        status,
        ..span(trace, ctx, start, finish)
    }
}

fn span(trace: &Trace, ctx: &RequestContext, start: Instant, end: Instant) -> Span {
    Span {
        trace_id: trace.id.bytes.to_vec(),
        start_time_unix_nano: nanos(ctx, start),
        end_time_unix_nano: nanos(ctx, end),
        ..Span::default()
    }
}

fn end(ctx: &RequestContext) -> Instant {
    ctx.timing.end.unwrap_or_else(Instant::now)
}

fn nanos(ctx: &RequestContext, at: Instant) -> u64 {
    let since = ctx.timing.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = since + at.saturating_duration_since(ctx.timing.start);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn failed() -> Status {
    Status { code: StatusCode::Error.into(), ..Status::default() }
}

fn flavor(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    }
}

/// One record with the request's log entry.
pub(super) fn log(trace: Option<&Trace>, ctx: &RequestContext, line: &[u8]) -> LogRecord {
    let (severity, name) = match ctx.outcome.status.as_u16() {
        500.. => (SeverityNumber::Error, "ERROR"),
        400..=499 => (SeverityNumber::Warn, "WARN"),
        _ => (SeverityNumber::Info, "INFO"),
    };
    let body = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
    let now = nanos(ctx, end(ctx));
    LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number: severity.into(),
        severity_text: name.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        attributes: vec![text("request.id", ctx.request_id.as_str())],
        trace_id: trace.map(|trace| trace.id.bytes.to_vec()).unwrap_or_default(),
        span_id: trace.map(|trace| trace.root.to_vec()).unwrap_or_default(),
        flags: u32::from(trace.is_some_and(|trace| trace.sampled)),
        ..LogRecord::default()
    }
}
