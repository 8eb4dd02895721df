//! What an item was before.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Path, Problem, Query};

use super::AppState;
use super::parameters::{HistoryQuery, ItemPath};
use super::views::{RevisionsView, answer};
use crate::Error;

/// An item's revisions, newest first, deletions and deleted items included.
#[utoipa::path(
    get, path = "/api/v1/history/{namespace}/{environment}/{key}", tag = "history",
    params(("namespace" = String, Path), ("environment" = String, Path), ("key" = String, Path, description = "May hold slashes"), HistoryQuery),
    responses(
        (status = 200, body = RevisionsView),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There never was such an item"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub async fn history(
    State(state): State<AppState>,
    caller: Caller,
    Path(path): Path<ItemPath>,
    Query(query): Query<HistoryQuery>,
) -> Result<Response, Problem> {
    let id = path.id()?;
    caller.require("config", "read", Some(&id.scope.to_string()))?;
    let found = state.configuration.history(&id, query.before, query.limit()?).await?;
    if found.is_empty() && query.before.is_none() {
        return Err(Error::NotFound.into());
    }
    let revisions = found.into_iter().map(Into::into).collect();
    Ok(answer(StatusCode::OK, HeaderMap::new(), RevisionsView { revisions }))
}
