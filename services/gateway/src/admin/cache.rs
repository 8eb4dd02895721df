//! `/proxy-cache`: what the plugin keeps, shown and purged. Statuses are Kong's.

use axum::Json;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use plinth_kit::problem::Problem;
use serde_json::Value;
use uuid::Uuid;

use super::{Message, Named, State, not_found};
use crate::plugins::Away;

/// Purge everything
///
/// All entries of all proxy-cache plugins: this gateway's memory, and Redis where a plugin keeps them there. Other
/// gateways' memories are theirs.
#[utoipa::path(
    delete, path = "/proxy-cache", tag = "cache",
    responses(
        (status = 204, description = "Purged"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Redis does not answer; what is in memory is purged", body = Message),
    ),
)]
pub async fn purge(Extract(state): Extract<State>) -> Response {
    match state.0.configurator.caches().await.purge().await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(away) => unavailable(away),
    }
}

/// An entry
///
/// By the key that answers have in `X-Cache-Key`.
#[utoipa::path(
    get, path = "/proxy-cache/{cache}", tag = "cache",
    params(("cache" = String, Path, description = "The key: 64 hex digits")),
    responses(
        (status = 200, description = "The answer that is kept", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such entry", body = Message),
        (status = 503, description = "Redis does not answer", body = Message),
    ),
)]
pub async fn entry(Extract(state): Extract<State>, path: Named) -> Response {
    show(&state, None, path.get("cache").map_or("", String::as_str)).await
}

/// Purge an entry
///
/// Of whichever proxy-cache plugin it is.
#[utoipa::path(
    delete, path = "/proxy-cache/{cache}", tag = "cache",
    params(("cache" = String, Path, description = "The key: 64 hex digits")),
    responses(
        (status = 204, description = "Purged"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such entry", body = Message),
        (status = 503, description = "Redis does not answer", body = Message),
    ),
)]
pub async fn remove(Extract(state): Extract<State>, path: Named) -> Response {
    drop_entry(&state, None, path.get("cache").map_or("", String::as_str)).await
}

/// An entry of one plugin
#[utoipa::path(
    get, path = "/proxy-cache/{cache}/caches/{key}", tag = "cache",
    params(
        ("cache" = String, Path, description = "Id of the plugin"),
        ("key" = String, Path, description = "The key: 64 hex digits"),
    ),
    responses(
        (status = 200, description = "The answer that is kept", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such plugin or entry", body = Message),
        (status = 503, description = "Redis does not answer", body = Message),
    ),
)]
pub async fn entry_of(Extract(state): Extract<State>, path: Named) -> Response {
    match plugin(&path) {
        Some((plugin, key)) => show(&state, Some(plugin), key).await,
        None => not_found().await,
    }
}

/// Purge an entry of one plugin
#[utoipa::path(
    delete, path = "/proxy-cache/{cache}/caches/{key}", tag = "cache",
    params(
        ("cache" = String, Path, description = "Id of the plugin"),
        ("key" = String, Path, description = "The key: 64 hex digits"),
    ),
    responses(
        (status = 204, description = "Purged"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such plugin or entry", body = Message),
        (status = 503, description = "Redis does not answer", body = Message),
    ),
)]
pub async fn remove_of(Extract(state): Extract<State>, path: Named) -> Response {
    match plugin(&path) {
        Some((plugin, key)) => drop_entry(&state, Some(plugin), key).await,
        None => not_found().await,
    }
}

/// The plugin's id and the key of the path.
fn plugin(path: &Named) -> Option<(Uuid, &str)> {
    Some((path.get("cache")?.parse().ok()?, path.get("key")?))
}

async fn show(state: &State, plugin: Option<Uuid>, key: &str) -> Response {
    match state.0.configurator.caches().await.entry(plugin, key).await {
        Ok(Some(entry)) => Json::<Value>(entry).into_response(),
        Ok(None) => not_found().await,
        Err(away) => unavailable(away),
    }
}

async fn drop_entry(state: &State, plugin: Option<Uuid>, key: &str) -> Response {
    match state.0.configurator.caches().await.remove(plugin, key).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => not_found().await,
        Err(away) => unavailable(away),
    }
}

fn unavailable(away: Away) -> Response {
    Message::answer(StatusCode::SERVICE_UNAVAILABLE, away.to_string())
}
