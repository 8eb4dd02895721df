//! Finding the instances of a service: the hot path of the whole platform.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Path, Problem};

use super::access::{self, Action};
use super::{AGE, INDEX};
use crate::domain::selection::Selection;
use crate::domain::view::FoundService;
use crate::error::Error;
use crate::registry::Registry;

/// Find the instances of a service
///
/// Answered from this replica's snapshot, also while Consul is away. An empty list means that instances are
/// registered and none is wanted (none healthy, none with these tags).
///
/// With `index` and `wait` it is a long poll: the answer comes when the service has changed after `index`, or, unchanged, when
/// `wait` is over. Watch a service by sending the `X-Plinth-Index` of each answer as the `index` of the next request.
#[utoipa::path(
    get, path = "/api/v1/services/discover/{service_name}", tag = "discovery",
    params(
        ("service_name" = String, Path, description = "The name of the service"),
        ("healthy_only" = Option<bool>, Query, description = "Only instances whose checks all pass. Default false"),
        ("tags" = Option<Vec<String>>, Query, description = "Only instances with every one of these tags; repeatable, up to 16"),
        ("index" = Option<u64>, Query, description = "Alone: a state at this X-Plinth-Index or later, else 503. With `wait`: a state later than it"),
        ("wait" = Option<String>, Query, description = "How long to wait for a change after `index`, such as 30s"),
    ),
    responses(
        (status = 200, description = "The instances", body = FoundService<'_>,
            headers(("X-Plinth-Index" = u64, description = "Consul's index of this state"),
                    ("X-Plinth-Age-Ms" = u64, description = "Milliseconds since Consul confirmed this state"))),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token lacks services:read for this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No instance is registered", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nothing is known yet, or `index` is not reached in time", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn discover(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Path(service_name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let result = find(&registry, &caller, &service_name, query.as_deref().unwrap_or_default()).await;
    registry.metrics.discovered(&result);
    result
}

async fn find(registry: &Registry, caller: &Caller, name: &str, query: &str) -> Result<Response, Problem> {
    access::check(caller, Action::Read, name)?;
    let selection = Selection::parse(query, registry.settings.max_wait);
    let selection = selection.map_err(Error::Invalid).map_err(Error::into_problem)?;
    let found = registry.discover(name, &selection).await.map_err(Error::into_problem)?;
    let mut response = found.answer.body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static(INDEX), found.answer.index);
    headers.insert(HeaderName::from_static(AGE), HeaderValue::from(found.age_ms));
    Ok(response)
}
