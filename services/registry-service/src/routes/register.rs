//! Registering and replacing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use plinth_core::registration::{FieldFault, Owner, Registered};
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Json, Path, Problem};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{self, Action};
use super::{INDEX, id_segment};
use crate::domain::draft::ServiceDraft;
use crate::error::Error;
use crate::registry::Registry;

/// What a registration answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisterAnswer {
    #[schema(example = "user-service-1")]
    pub service_id: String,
    #[schema(example = "user-service")]
    pub service_name: String,
    /// Always `registered`.
    #[schema(value_type = String, example = "registered")]
    pub status: &'static str,
    /// When this id was first registered by its present owner.
    #[schema(value_type = String, format = DateTime)]
    pub registered_at: Timestamp,
    /// When it was last registered.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Register an instance
///
/// The id is generated when none is given. The same owner (the token's subject) replaces its own registration;
/// the present health status stays as it is then.
#[utoipa::path(
    post, path = "/api/v1/services/register", tag = "registration",
    request_body = ServiceDraft,
    responses(
        (status = 201, description = "Registered, and seen by this replica's reads", body = RegisterAnswer,
            headers(("X-Plinth-Index" = u64, description = "Consul's index of this write"),
                    ("Location" = String, description = "The instance"))),
        (status = 400, description = "Fields break rules, all named", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token lacks services:write for this name (services:admin for the names of Plinth's own services)", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another owner holds the id", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Consul does not take writes now", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn register(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Json(draft): Json<ServiceDraft>,
) -> Result<Response, Problem> {
    let (registered, _) = store(&registry, &caller, draft).await?;
    Ok(answer(StatusCode::CREATED, registered))
}

/// Register or replace an instance under its id
///
/// As register, with the id from the path: 201 when it was not registered before, else 200.
#[utoipa::path(
    put, path = "/api/v1/services/{service_id}", tag = "registration",
    params(("service_id" = String, Path, description = "The id of the instance")),
    request_body = ServiceDraft,
    responses(
        (status = 200, description = "Replaced", body = RegisterAnswer,
            headers(("X-Plinth-Index" = u64, description = "Consul's index of this write"))),
        (status = 201, description = "Registered", body = RegisterAnswer,
            headers(("X-Plinth-Index" = u64, description = "Consul's index of this write"),
                    ("Location" = String, description = "The instance"))),
        (status = 400, description = "Fields break rules, all named", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token lacks services:write for this name (services:admin for the names of Plinth's own services)", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another owner holds the id", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Consul does not take writes now", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn upsert(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Path(service_id): Path<String>,
    Json(mut draft): Json<ServiceDraft>,
) -> Result<Response, Problem> {
    if draft.service_id.as_ref().is_some_and(|given| *given != service_id) {
        let message = "differs from the id in the path; leave it out or send the same";
        return Err(Error::Invalid(vec![FieldFault::new("service_id", message)]).into_problem());
    }
    draft.service_id = Some(service_id);
    let (registered, created) = store(&registry, &caller, draft).await?;
    Ok(answer(if created { StatusCode::CREATED } else { StatusCode::OK }, registered))
}

async fn store(
    registry: &Registry,
    caller: &Caller,
    draft: ServiceDraft,
) -> Result<(Registered, bool), Problem> {
    access::check_registration(caller, &draft.service_name)?;
    let admin = access::allows(caller, Action::Admin, &draft.service_name);
    let accepted = draft.accept(admin, new_id).map_err(Error::Invalid).map_err(Error::into_problem)?;
    let registered = registry.register(&accepted, &owner(caller)).await.map_err(Error::into_problem)?;
    let created = registered.created;
    Ok((registered, created))
}

/// The token's subject owns what it registers.
pub(super) fn owner(caller: &Caller) -> Owner {
    Owner { subject: caller.subject().to_owned(), incarnation: None }
}

/// Sorted by time within a name, so that lists are stable and readable.
fn new_id(service_name: &str) -> String {
    format!("{service_name}-{}", uuid::Uuid::now_v7().simple())
}

fn answer(status: StatusCode, registered: Registered) -> Response {
    let document = registered.document;
    let location = format!("/api/v1/services/{}", id_segment(&document.registration.service_id));
    let body = RegisterAnswer {
        service_id: document.registration.service_id,
        service_name: document.registration.service_name,
        status: "registered",
        registered_at: document.registered_at,
        updated_at: document.updated_at,
    };
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(INDEX), HeaderValue::from(registered.index));
    if status == StatusCode::CREATED
        && let Ok(location) = HeaderValue::try_from(location)
    {
        headers.insert(header::LOCATION, location);
    }
    response
}
