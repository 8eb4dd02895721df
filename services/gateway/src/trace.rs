//! One server span for each request, when somebody collects them; without that, nothing is made and `traceparent` passes
//! through untouched.

use http::{HeaderMap, HeaderValue};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::context::RequestContext;

/// A request's span and what the upstream is told of it.
#[derive(Debug)]
pub struct RequestSpan {
    span: Span,
    /// The span as W3C trace context.
    pub traceparent: Option<HeaderValue>,
}

impl RequestSpan {
    /// Begins the span as a child of the caller's; `None` when nobody collects spans.
    #[must_use]
    pub fn start(context: &RequestContext) -> Option<Self> {
        let span = tracing::debug_span!(
            target: "plinth::request",
            "proxy",
            otel.name = Empty,
            otel.kind = "server",
            otel.status_code = Empty,
            service = "gateway",
            http.request.method = %context.head.method,
            url.path = context.head.uri.path(),
            http.route = Empty,
            http.response.status_code = Empty,
            request_id = context.request_id.as_str(),
        );
        if span.is_disabled() {
            return None;
        }
        if let Some(route) = context.route() {
            let route = route.route.label();
            span.record("otel.name", format!("{} {route}", context.head.method));
            span.record("http.route", route);
        }
        // fails only when no OpenTelemetry layer is there: then there is no trace to continue
        let _ = span.set_parent(plinth_kit::telemetry::remote_context(&context.head.headers));
        let mut injected = HeaderMap::new();
        span.in_scope(|| plinth_kit::telemetry::inject_trace_context(&mut injected));
        Some(Self { traceparent: injected.remove("traceparent"), span })
    }

    /// Notes the answer's status.
    pub fn answered(&self, status: u16) {
        self.span.record("http.response.status_code", status);
        if status >= 500 {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}
