//! What every request passes on its way in and out, in one layer to keep the way short: server span from the
//! caller's trace, limit of time, panics, metrics, and the one log line of a 5xx.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, Version, header};
use tower::{Layer, Service};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::auth::Auth;
use crate::lifecycle::{Shutdown, Stage};
use crate::problem::{self, Cause};

use super::{HttpMetrics, remote_context};

/// What the edge of one service needs to know.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// The service, on its spans and log lines.
    pub service: &'static str,
    /// Handlers find their caller through it.
    pub auth: Auth,
    /// Requests are recorded here.
    pub metrics: HttpMetrics,
    /// While it drains, HTTP/1 connections are asked to close.
    pub shutdown: Shutdown,
    /// Longest time until the head of an answer.
    pub timeout: Duration,
}

/// The layer; put on a router with `Router::layer`, so that it sees which route matched.
#[derive(Debug, Clone)]
pub struct EdgeLayer {
    settings: Arc<EdgeSettings>,
}

impl EdgeLayer {
    pub fn new(settings: EdgeSettings) -> EdgeLayer {
        EdgeLayer { settings: Arc::new(settings) }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = EdgeService<S>;

    fn layer(&self, inner: S) -> EdgeService<S> {
        EdgeService { inner, settings: self.settings.clone() }
    }
}

/// A service behind the edge.
#[derive(Debug, Clone)]
pub struct EdgeService<S> {
    inner: S,
    settings: Arc<EdgeSettings>,
}

impl<S> Service<Request> for EdgeService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let start = Instant::now();
        let settings = self.settings.clone();
        let exchange = Exchange::of(&request);
        request.extensions_mut().insert(settings.auth.clone());
        let span = exchange.span(&request, settings.service);
        settings.metrics.in_flight.inc();
        let in_flight = InFlight(settings.clone());
        let handled = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let guarded = AssertUnwindSafe(handled).catch_unwind();
            let mut response = match tokio::time::timeout(settings.timeout, guarded).await {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(panic)) => problem::panicked(panic),
                Err(_) => problem::timed_out().into_response(),
            };
            exchange.finish(&mut response, &settings, start);
            drop(in_flight);
            Ok(response)
        };
        if span.is_disabled() { Box::pin(answer) } else { Box::pin(answer.instrument(span)) }
    }
}

/// Counts down even when the client goes away and the future is dropped.
struct InFlight(Arc<EdgeSettings>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

/// What is kept of a request until its answer.
struct Exchange {
    method: &'static str,
    route: Option<MatchedPath>,
    path: String,
    version: Version,
}

impl Exchange {
    fn of(request: &Request) -> Exchange {
        let route = request.extensions().get::<MatchedPath>().cloned();
        // The path goes to the log of a 5xx; for matched routes the pattern is enough and costs no copy.
        let path = if route.is_some() { String::new() } else { request.uri().path().to_owned() };
        Exchange { method: bounded(request.method()), route, path, version: request.version() }
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or("unmatched", MatchedPath::as_str)
    }

    /// The server span, child of the caller's. Enabled by an exporter or by the log level debug; otherwise it costs
    /// nothing.
    fn span(&self, request: &Request, service: &'static str) -> tracing::Span {
        let span = tracing::debug_span!(
            target: "plinth::request",
            "request",
            otel.name = format_args!("{} {}", self.method, self.route()),
            otel.kind = "server",
            http.request.method = self.method,
            http.route = self.route(),
            url.path = request.uri().path(),
            http.response.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
            plinth.service = service,
        );
        if !span.is_disabled() {
            // Fails only without an OpenTelemetry layer, when there is no trace to continue.
            let _ = span.set_parent(remote_context(request.headers()));
        }
        span
    }

    fn finish(&self, response: &mut Response, settings: &EdgeSettings, start: Instant) {
        let status = response.status();
        let labels = [self.method, self.route(), status.as_str()];
        settings.metrics.requests.with_label_values(&labels).inc();
        settings.metrics.durations.with_label_values(&labels).observe(start.elapsed().as_secs_f64());
        let span = tracing::Span::current();
        if !span.is_disabled() {
            span.record("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.record("otel.status_code", "ERROR");
            }
        }
        if status.is_server_error() {
            self.log(status, response.extensions().get::<Cause>(), start.elapsed(), settings.service);
        }
        // So that clients move to another instance before this one closes its listener.
        if self.version <= Version::HTTP_11 && settings.shutdown.stage() >= Stage::Draining {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    fn log(&self, status: StatusCode, cause: Option<&Cause>, elapsed: Duration, service: &str) {
        let cause = cause.map(tracing::field::display);
        let (status, millis) = (status.as_u16(), u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let (method, route, path) = (self.method, self.route(), self.path.as_str());
        // 503 says that something else is away, which is that thing's fault to report in full.
        if status == 503 {
            tracing::warn!(service, method, route, path, status, millis, error = cause, "request not served");
        } else {
            tracing::error!(service, method, route, path, status, millis, error = cause, "request failed");
        }
    }
}

fn bounded(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
