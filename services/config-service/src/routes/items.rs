//! Single items.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Json, Path, Problem, Query};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::AppState;
use super::parameters::{ItemPath, StateQuery, precondition, wait};
use super::views::{ItemView, answer, state_headers, tagged};
use crate::Error;
use crate::configuration::{Outcome, fault};
use crate::domain::item::now;
use crate::domain::precondition::etag;
use crate::domain::{Action, Change, JsonText};

/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 1024;

/// A new value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutItem {
    /// Any JSON, at most 256 KiB and 100 levels deep; kept exactly as it is spelled.
    #[schema(value_type = serde_json::Value)]
    value: Box<RawValue>,
    /// What the item is for, at most 1024 characters. Absent: as before. null: none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

impl PutItem {
    fn action(self) -> Result<Action, Error> {
        let mut faults = Vec::new();
        let value =
            JsonText::parse(self.value.get()).map_err(|why| faults.push(fault("value", why.to_string())));
        let length = self.description.iter().flatten().map(|text| text.chars().count()).sum::<usize>();
        if length > MAX_DESCRIPTION {
            faults.push(fault("description", format!("must be at most {MAX_DESCRIPTION} characters")));
        }
        match value {
            Ok(value) if faults.is_empty() => Ok(Action::Put { value, description: self.description }),
            _ => Err(Error::Invalid(faults)),
        }
    }
}

/// An item's current value.
#[utoipa::path(
    get, path = "/api/v1/config/{namespace}/{environment}/{key}", tag = "items",
    params(("namespace" = String, Path), ("environment" = String, Path), ("key" = String, Path, description = "May hold slashes"), StateQuery),
    responses(
        (status = 200, body = ItemView, headers(("ETag" = String, description = "The revision, in quotes"), ("X-Plinth-Index" = u64))),
        (status = 304, description = "The revision is the one in If-None-Match"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
    Path(path): Path<ItemPath>,
    Query(query): Query<StateQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = path.id()?;
    caller.require("config", "read", Some(&id.scope.to_string()))?;
    let wait = wait(query.wait.as_deref(), query.index)?;
    let now = state.configuration.snapshot(query.index, wait, |now| now.changed_at(&id)).await?;
    let answered = state_headers(&state.configuration, &now);
    let Some(entry) = now.get(&id) else {
        // The index is of use to who waits for the item to appear.
        return Ok((answered, Problem::from(Error::NotFound)).into_response());
    };
    let answered = tagged(answered, entry.revision);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == etag(entry.revision).as_str());
    if known {
        return Ok((StatusCode::NOT_MODIFIED, answered).into_response());
    }
    Ok(answer(StatusCode::OK, answered, ItemView::of(entry)))
}

/// Creates or changes an item.
#[utoipa::path(
    put, path = "/api/v1/config/{namespace}/{environment}/{key}", tag = "items", request_body = PutItem,
    params(
        ("namespace" = String, Path), ("environment" = String, Path), ("key" = String, Path, description = "May hold slashes"),
        ("If-Match" = Option<String>, Header, description = "Only if the revision is this one, such as \"3\"; *: only if it exists"),
        ("If-None-Match" = Option<String>, Header, description = "*: only if it does not exist"),
    ),
    responses(
        (status = 200, body = ItemView, description = "Changed, or already so"),
        (status = 201, body = ItemView, description = "Created"),
        (status = 202, body = ItemView, description = "Durable, but not yet in Consul"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "If-Match or If-None-Match does not hold; ETag says the revision"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub async fn put(
    State(state): State<AppState>,
    caller: Caller,
    Path(path): Path<ItemPath>,
    headers: HeaderMap,
    Json(body): Json<PutItem>,
) -> Result<Response, Problem> {
    let change = change(&caller, &path, &headers, body.action())?;
    let outcome = state.configuration.write(&change).await?;
    let status = match (&outcome.shown, outcome.created) {
        (None, _) => StatusCode::ACCEPTED,
        (Some(_), true) => StatusCode::CREATED,
        (Some(_), false) => StatusCode::OK,
    };
    let entry = outcome.shown.as_ref().and_then(|now| now.get(&outcome.revision.id));
    let same = entry.filter(|entry| entry.revision == outcome.revision.revision);
    let view = ItemView::written(&outcome.revision, same.map(|entry| entry.modify_index));
    Ok(answer(status, written_headers(&state, &outcome), view))
}

/// Deletes an item. Its history stays.
#[utoipa::path(
    delete, path = "/api/v1/config/{namespace}/{environment}/{key}", tag = "items",
    params(
        ("namespace" = String, Path), ("environment" = String, Path), ("key" = String, Path, description = "May hold slashes"),
        ("If-Match" = Option<String>, Header, description = "Only if the revision is this one"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        (status = 202, description = "Durable, but not yet in Consul"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 412, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(path): Path<ItemPath>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let change = change(&caller, &path, &headers, Ok(Action::Delete))?;
    let outcome = state.configuration.write(&change).await?;
    let status = if outcome.shown.is_some() { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok((status, written_headers(&state, &outcome)).into_response())
}

fn change(
    caller: &Caller,
    path: &ItemPath,
    headers: &HeaderMap,
    action: Result<Action, Error>,
) -> Result<Change, Problem> {
    let id = path.id()?;
    caller.require("config", "write", Some(&id.scope.to_string()))?;
    let (action, precondition) = (action?, precondition(headers)?);
    Ok(Change { id, action, precondition, author: caller.subject().to_owned(), at: now() })
}

fn written_headers(state: &AppState, outcome: &Outcome) -> HeaderMap {
    let headers = match &outcome.shown {
        Some(snapshot) => state_headers(&state.configuration, snapshot),
        None => HeaderMap::new(),
    };
    tagged(headers, outcome.revision.revision)
}
