//! Lists.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Path, Problem, Query};

use super::AppState;
use super::parameters::{ListQuery, ScopePath, StateQuery, wait};
use super::views::{ListView, NamespaceView, NamespacesView, answer, state_headers};

/// The namespaces that have items and that the caller may read.
#[utoipa::path(
    get, path = "/api/v1/config", tag = "items", params(StateQuery),
    responses((status = 200, body = NamespacesView), (status = 503, body = Problem, content_type = "application/problem+json")),
    security(("bearer" = []))
)]
pub async fn namespaces(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<StateQuery>,
) -> Result<Response, Problem> {
    let wait = wait(query.wait.as_deref(), query.index)?;
    let now = state.configuration.snapshot(query.index, wait, |now| now.index).await?;
    let namespaces = now
        .scopes()
        .into_iter()
        .filter(|(scope, _)| caller.allows("config", "read", Some(&scope.to_string())))
        .map(|(scope, items)| NamespaceView {
            namespace: scope.namespace().to_owned(),
            environment: scope.environment().to_owned(),
            items,
        })
        .collect();
    let headers = state_headers(&state.configuration, &now);
    Ok(answer(StatusCode::OK, headers, NamespacesView { namespaces, index: now.index }))
}

/// The items of a namespace and environment, all or below a prefix.
#[utoipa::path(
    get, path = "/api/v1/config/{namespace}/{environment}", tag = "items",
    params(("namespace" = String, Path), ("environment" = String, Path), ListQuery),
    responses(
        (status = 200, body = ListView, headers(("X-Plinth-Index" = u64))),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(path): Path<ScopePath>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let scope = path.scope()?;
    caller.require("config", "read", Some(&scope.to_string()))?;
    let wait = wait(query.wait.as_deref(), query.index)?;
    let now = state
        .configuration
        .snapshot(query.index, wait, |now| now.changed_below(&scope, &query.prefix))
        .await?;
    let headers = state_headers(&state.configuration, &now);
    Ok(answer(StatusCode::OK, headers, ListView::of(&now, &scope, &query.prefix)))
}
