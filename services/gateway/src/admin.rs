//! The Admin API (Kong's, read-only but for whole configurations) and the Status API.

mod cache;
mod collections;
mod config;
mod entities;
mod explain;
mod flatten;
mod health;
mod openapi;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, Path, Query, Request, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};
use axum::{Json, Router};
use plinth_core::health::Components;
use plinth_kit::auth::Auth;
use plinth_kit::health::Readiness;
use plinth_kit::problem::Problem;
use plinth_kit::telemetry;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::identity;
use crate::kong_metrics::KongMetrics;
use crate::metrics::Metrics;
use crate::reload::Configurator;

pub use openapi::document;

/// What the handlers need.
#[derive(Clone)]
pub struct State(Arc<Inner>);

struct Inner {
    configurator: Arc<Configurator>,
    metrics: Metrics,
    exposition: telemetry::Metrics,
    kong: KongMetrics,
    readiness: Readiness,
    components: Components,
    node: Uuid,
    started: Instant,
    config_limit: usize,
}

impl State {
    /// The state of both APIs.
    #[must_use]
    pub fn new(
        configurator: Arc<Configurator>,
        metrics: Metrics,
        kong: KongMetrics,
        node: Uuid,
        context: &plinth_kit::Context,
        config_limit: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            configurator,
            metrics,
            exposition: context.metrics.clone(),
            kong,
            readiness: context.readiness.clone(),
            components: context.components.clone(),
            node,
            started: context.started,
            config_limit,
        }))
    }
}

/// The Admin API.
pub fn routes(state: State) -> Router {
    let limit = DefaultBodyLimit::max(state.0.config_limit);
    let config = post(config::replace).get(config::show).fallback(not_allowed_of).options(config_options);
    Router::new()
        .route("/", get(root).options(get_options).fallback(not_allowed_of))
        .route("/status", get(status).options(get_options).fallback(not_allowed_of))
        .route("/config", config.layer(limit))
        .route("/explain", get(explain::explain).options(get_options).fallback(not_allowed_of))
        .route("/endpoints", get(collections::endpoints).options(get_options).fallback(not_allowed_of))
        .route("/tags", get(collections::tags).options(get_options).fallback(not_allowed_of))
        .route("/tags/{tag}", get(collections::tags).options(get_options).fallback(not_allowed_of))
        .route("/schemas/{name}", get(collections::schema).options(get_options).fallback(not_allowed_of))
        .route("/schemas/plugins/{name}", get(collections::plugin_schema).options(get_options))
        .route("/upstreams/{upstream}/health", get(health::upstream).options(get_options))
        .route("/upstreams/{upstream}/targets/{target}/{state}", put(health::set))
        .route("/upstreams/{upstream}/targets/{target}/{state}/{of_address}", put(health::set))
        .route("/proxy-cache", delete(cache::purge).options(delete_options).fallback(not_allowed_of))
        .route(
            "/proxy-cache/{cache}",
            get(cache::entry).delete(cache::remove).options(cache_options).fallback(not_allowed_of),
        )
        .route(
            "/proxy-cache/{cache}/caches/{key}",
            get(cache::entry_of).delete(cache::remove_of).options(cache_options).fallback(not_allowed_of),
        )
        .route("/plugins/enabled", get(enabled).options(get_options).fallback(not_allowed_of))
        .route("/{collection}", any(collections::list))
        .route("/{collection}/{entity}", any(collections::one))
        .route("/{collection}/{entity}/{nested}", any(collections::nested))
        .route("/{collection}/{entity}/{nested}/{child}", any(collections::child))
        .with_state(state)
}

/// Adds the time an answer took, as Kong's Admin API does.
pub async fn latency(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let mut answer = next.run(request).await;
    let took = began.elapsed().as_millis();
    answer
        .headers_mut()
        .insert("x-kong-admin-latency", HeaderValue::from(u64::try_from(took).unwrap_or(u64::MAX)));
    answer
}

/// Kong's answer to OPTIONS.
fn options(allow: &'static str) -> Response {
    let allowed = HeaderValue::from_static(allow);
    let headers = [(header::ALLOW, allowed.clone()), (header::ACCESS_CONTROL_ALLOW_METHODS, allowed)];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn delete_options() -> Response {
    options("DELETE, OPTIONS")
}

async fn cache_options() -> Response {
    options("DELETE, GET, HEAD, OPTIONS")
}

async fn get_options() -> Response {
    options("GET, HEAD, OPTIONS")
}

async fn config_options() -> Response {
    options("GET, HEAD, OPTIONS, POST")
}

/// Kong's answer to a method that a path does not have.
fn not_allowed() -> Response {
    Message::answer(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
}

async fn not_allowed_of() -> Response {
    not_allowed()
}

/// Percent-encodes a query parameter.
fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The pairs of a query or form, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// The Status API.
pub fn status_routes(state: State, probes: Router) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/status/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/upstreams/{upstream}/health", get(health::upstream))
        .with_state(state)
        .merge(probes)
        .fallback(not_found)
}

/// Only callers with `gateway:admin` pass; everybody when authentication is off, which loopback alone allows.
pub async fn authorize(Extract(auth): Extract<Auth>, request: Request, next: Next) -> Response {
    let caller = match auth.caller(request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    match caller.require("gateway", "admin", None) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Kong's answer to unknown paths.
pub async fn not_found() -> Response {
    Message::answer(StatusCode::NOT_FOUND, "Not found")
}

/// Kong's answer where there is nothing else to say.
#[derive(Serialize, ToSchema)]
struct Message {
    message: String,
}

impl Message {
    fn answer(status: StatusCode, message: impl Into<String>) -> Response {
        (status, Json(Self { message: message.into() })).into_response()
    }
}

/// The node
///
/// Version, plugins and identity of this gateway, as Kong tells them.
#[utoipa::path(
    get, path = "/", tag = "node",
    responses(
        (status = 200, description = "The node", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn root(Extract(state): Extract<State>) -> Json<Value> {
    let available: HashMap<String, Value> = plinth_kong::supported_plugins()
        .map(|name| (name.to_owned(), json!({"version": identity::VERSION})))
        .collect();
    let snapshot = state.0.configurator.current();
    let mut enabled: Vec<&str> = snapshot.config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    enabled.sort_unstable();
    enabled.dedup();
    Json(json!({
        "version": identity::VERSION,
        "edition": "community",
        "tagline": "Welcome to plinth",
        "node_id": state.0.node,
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "configuration": {"database": "off", "router_flavor": "traditional_compatible"},
        "plugins": {"available_on_server": available, "enabled_in_cluster": enabled},
        "pids": {"master": std::process::id(), "workers": [std::process::id()]},
        "timers": {"pending": 0, "running": 0},
    }))
}

/// Plugins this gateway has
#[utoipa::path(
    get, path = "/plugins/enabled", tag = "node",
    responses(
        (status = 200, description = "Their names in `enabled_plugins`", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn enabled() -> Json<Value> {
    let mut names: Vec<&str> = plinth_kong::supported_plugins().collect();
    names.sort_unstable();
    Json(json!({"enabled_plugins": names}))
}

/// Connections, requests, the running configuration
///
/// On the Admin and the Status API; the latter asks for no token. `plinth.last_reload` tells what became of the
/// configuration offered last.
#[utoipa::path(
    get, path = "/status", tag = "status",
    security(("bearer" = []), ()),
    responses(
        (status = 200, description = "How it is", body = Value),
        (status = 401, description = "Admin API: no valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Admin API: the token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn status(Extract(state): Extract<State>) -> Json<Value> {
    let metrics = &state.0.metrics;
    let connections = metrics.sum(|worker| &worker.connections);
    let in_flight = metrics.sum(|worker| &worker.in_flight);
    let accepted = metrics.sum(|worker| &worker.accepted);
    let snapshot = state.0.configurator.current();
    let reload = state.0.configurator.status();
    let seconds = |at: std::time::SystemTime| {
        at.duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    };
    Json(json!({
        "server": {
            "connections_accepted": accepted,
            "connections_handled": accepted,
            "connections_active": connections,
            "connections_reading": 0,
            "connections_writing": in_flight,
            "connections_waiting": connections.saturating_sub(in_flight),
            "total_requests": metrics.sum(|worker| &worker.requests),
        },
        "memory": {"workers_lua_vms": [], "lua_shared_dicts": {}},
        "configuration_hash": snapshot.hash,
        "plinth": {
            "generation": snapshot.generation,
            "uptime_seconds": state.0.started.elapsed().as_secs(),
            "last_reload": {
                "ok": reload.last_error.is_none(),
                "error": reload.last_error,
                "origin": reload.origin,
                "at": reload.at.map(seconds),
            },
        },
    }))
}

/// Ready for traffic
///
/// On the Status API: a configuration runs and the gateway is not about to stop.
#[utoipa::path(
    get, path = "/status/ready", tag = "status",
    security(()),
    responses(
        (status = 200, description = "Ready", body = Message),
        (status = 503, description = "What is missing", body = Message),
    ),
)]
async fn ready(Extract(state): Extract<State>) -> Response {
    if state.0.readiness.is_ready() {
        return Message::answer(StatusCode::OK, "ready");
    }
    let missing = state.0.readiness.missing();
    Message::answer(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", missing.join(", ")))
}

/// `router` with `/metrics` that shows Kong's metrics beside the service's own.
pub fn with_metrics(state: State, router: Router) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(state).fallback_service(router)
}

/// Metrics
///
/// Kong's metrics beside the gateway's own. On the Admin and the Status API, without a token.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    security(()),
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain")),
)]
async fn metrics(Extract(state): Extract<State>) -> Response {
    state.0.exposition.observe(&state.0.components, &state.0.readiness).await;
    let kong = state.0.kong.text(&state.0.configurator.current(), &state.0.metrics);
    let (own, kong) = match (state.0.exposition.render(), kong) {
        (Ok(own), Ok(kong)) => (own, kong),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "metrics cannot be rendered");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], [own, kong.into_bytes()].concat()).into_response()
}

type Parameters = Query<HashMap<String, String>>;
type Named = Path<HashMap<String, String>>;
