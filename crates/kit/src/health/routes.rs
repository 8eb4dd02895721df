//! The routes that say how a service does.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use plinth_core::health::{CheckStatus, Components, Overall};
use serde::Serialize;
use serde_json::{Value, json};

use crate::problem::{Json, Problem};
use crate::telemetry::Metrics;

use super::Readiness;
use super::system::{SystemReader, SystemUsage};

/// What the routes report on.
#[derive(Clone)]
pub struct HealthState {
    service: &'static str,
    version: &'static str,
    started: Instant,
    readiness: Readiness,
    components: Components,
    metrics: Metrics,
    system: SystemReader,
}

impl HealthState {
    /// `started` is when the service started, for `uptime`.
    pub fn new(
        (service, version): (&'static str, &'static str),
        started: Instant,
        readiness: Readiness,
        components: Components,
        metrics: Metrics,
    ) -> HealthState {
        let system = SystemReader::default();
        // Processor usage is a difference between two readings; this is the first.
        system.usage();
        HealthState { service, version, started, readiness, components, metrics, system }
    }
}

/// `/health`, `/health/live`, `/health/ready` and `/metrics`. They need no token and carry no secrets.
pub fn routes(state: HealthState) -> Router {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(state.clone());
    probes(state).merge(metrics)
}

/// Without `/metrics`, for a service that has its own.
pub fn probes(state: HealthState) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(state)
}

#[derive(Serialize)]
struct HealthBody {
    status: Overall,
    timestamp: Timestamp,
    version: &'static str,
    /// Seconds since the service started.
    uptime: f64,
    checks: BTreeMap<String, CheckBody>,
    metadata: Metadata,
}

#[derive(Serialize)]
struct CheckBody {
    status: CheckStatus,
    details: Value,
}

#[derive(Serialize)]
struct Metadata {
    service: &'static str,
    system: SystemUsage,
}

/// 200 while healthy or degraded, 503 when a critical component fails.
async fn health(State(state): State<HealthState>) -> Response {
    let report = state.components.report().await;
    let checks = report.checks.iter().map(|(name, check)| {
        (name.clone(), CheckBody { status: check.status, details: check.details.clone() })
    });
    let body = HealthBody {
        status: report.status,
        timestamp: Timestamp::now(),
        version: state.version,
        uptime: (state.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        checks: checks.collect(),
        metadata: Metadata { service: state.service, system: state.system.usage() },
    };
    let status = match report.status {
        Overall::Healthy | Overall::Degraded => StatusCode::OK,
        Overall::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// 200 as long as the process answers at all: a failed one is to be restarted.
async fn live() -> Response {
    Json(json!({"status": "alive"})).into_response()
}

/// 200 when requests may be sent here, else 503 with what is missing.
async fn ready(State(state): State<HealthState>) -> Response {
    if state.readiness.is_ready() {
        return Json(json!({"status": "ready"})).into_response();
    }
    let body = json!({"status": "not ready", "missing": state.readiness.missing()});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn metrics(State(state): State<HealthState>) -> Result<Response, Problem> {
    state.metrics.observe(&state.components, &state.readiness).await;
    let text = state.metrics.render().map_err(|error| Problem::internal(&error))?;
    let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
