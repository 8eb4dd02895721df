//! `/upstreams/X/health`: targets and how they are.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use plinth_core::balance::Endpoint;
use plinth_kit::problem::Problem;
use serde_json::{Value, json};

use super::{Message, Named, Parameters, State, not_found};
use crate::upstream::{Endpoints, SetHealthError, Upstream};

/// Health of an upstream's targets
///
/// Each with its addresses, weights and requests in flight. On the Admin and the Status API; the latter asks for no
/// token.
#[utoipa::path(
    get, path = "/upstreams/{upstream}/health", tag = "status",
    security(("bearer" = []), ()),
    params(
        ("upstream" = String, Path, description = "Name or id; `host:port` for the plain host of a service"),
        ("balancer_health" = Option<String>, Query, description = "`1`: only whether the upstream as a whole is healthy"),
    ),
    responses(
        (status = 200, description = "The targets in `data`", body = Value),
        (status = 401, description = "Admin API: no valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Admin API: the token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such upstream", body = Message),
    ),
)]
pub async fn upstream(Extract(state): Extract<State>, path: Named, query: Parameters) -> Response {
    let wanted = path.get("upstream").map_or("", String::as_str);
    let snapshot = state.0.configurator.current();
    let found = snapshot.upstreams.values().find(|upstream| match &upstream.definition.kong {
        Some(kong) => kong.name == wanted || kong.id.to_string() == wanted,
        None => upstream.definition.name == wanted,
    });
    let Some(upstream) = found else { return not_found().await };
    let endpoints = upstream.endpoints();
    let node = state.0.node;
    if query.get("balancer_health").is_some_and(|flag| flag == "1") {
        let healthy = upstream.healthy(&endpoints) && endpoints.balancer.set().available() > 0;
        let id = upstream.definition.kong.as_ref().map(|kong| kong.id);
        let health = if healthy { "HEALTHY" } else { "UNHEALTHY" };
        return Json(json!({"data": {"id": id, "health": health}, "next": null, "node_id": node}))
            .into_response();
    }
    let targets: Vec<Value> =
        (0..upstream.definition.targets.len()).map(|place| target(upstream, &endpoints, place)).collect();
    Json(json!({"data": targets, "next": null, "node_id": node})).into_response()
}

fn target(upstream: &Upstream, endpoints: &Endpoints, place: usize) -> Value {
    let Some(spec) = upstream.definition.targets.get(place) else { return Value::Null };
    let own: Vec<&Endpoint> = endpoints.of_target(place).collect();
    let checks = upstream.checks_health();
    let state = |available: bool| match (checks, available) {
        (false, _) => "HEALTHCHECKS_OFF",
        (true, true) => "HEALTHY",
        (true, false) => "UNHEALTHY",
    };
    let failed = endpoints.targets.get(place).is_some_and(|target| target.error.is_some());
    let health = if failed && own.is_empty() {
        "DNS_ERROR"
    } else {
        state(own.iter().any(|endpoint| endpoint.live.is_available()))
    };
    let addresses: Vec<Value> = own
        .iter()
        .map(|endpoint| {
            json!({
                "ip": endpoint.address.to_string().rsplit_once(':').map(|(ip, _)| ip.to_owned()),
                "port": endpoint.address.port(),
                "health": state(endpoint.live.is_available()),
                "weight": endpoint.weight,
                "in_flight": endpoint.live.in_flight(),
            })
        })
        .collect();
    let configured = upstream.definition.kong.as_ref().and_then(|kong| kong.targets.get(place));
    json!({
        "id": configured.map(|target| target.id),
        "upstream": upstream.definition.kong.as_ref().map(|kong| json!({"id": kong.id})),
        "target": format!("{}:{}", spec.host, spec.port),
        "weight": spec.weight,
        "tags": configured.map(|target| &target.tags),
        "health": health,
        "data": {"addresses": addresses},
    })
}

/// Set a target's health
///
/// `PUT /upstreams/X/targets/T/healthy` or `/unhealthy`; with an address in between, for that address only. Needs some
/// health check on the upstream; later checks may turn the target again.
#[utoipa::path(
    put, path = "/upstreams/{upstream}/targets/{target}/{state}", tag = "status",
    params(
        ("upstream" = String, Path, description = "Name or id"),
        ("target" = String, Path, description = "Id, or host:port"),
        ("state" = String, Path, description = "healthy or unhealthy"),
    ),
    responses(
        (status = 204, description = "Set"),
        (status = 400, description = "The upstream has no health checks", body = Message),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such upstream, target or address", body = Message),
    ),
)]
pub async fn set(Extract(state): Extract<State>, path: Named) -> Response {
    let of = |name: &str| path.get(name).map_or("", String::as_str);
    // with an address in between, the state comes after it
    let (address, wanted) = match path.get("of_address") {
        Some(wanted) => (Some(of("state")), wanted.as_str()),
        None => (None, of("state")),
    };
    let healthy = match wanted {
        "healthy" => true,
        "unhealthy" => false,
        _ => return not_found().await,
    };
    let address = address.map(|address| {
        let bare =
            address.rsplit_once("]:").or_else(|| address.split_once(':').filter(|(ip, _)| ip.contains('.')));
        bare.map_or(address, |(ip, _)| ip).trim_matches(['[', ']']).parse::<IpAddr>()
    });
    let Ok(address) = address.transpose() else { return not_found().await };
    let snapshot = state.0.configurator.current();
    let found = snapshot.upstreams.values().find(|upstream| {
        let kong = upstream.definition.kong.as_ref();
        kong.is_some_and(|kong| kong.name == of("upstream") || kong.id.to_string() == of("upstream"))
    });
    let Some(upstream) = found else { return not_found().await };
    match upstream.set_health(of("target"), address, healthy) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(SetHealthError::Off) => {
            Message::answer(StatusCode::BAD_REQUEST, "the upstream has no health checks that could decide")
        }
        Err(SetHealthError::Target | SetHealthError::Address) => not_found().await,
    }
}
