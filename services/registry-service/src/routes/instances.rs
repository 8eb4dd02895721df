//! Single instances and their list, answered from the directory.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use plinth_core::registration::{CheckSpec, Document};
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Json, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::access::{self, Action};
use super::register::owner;
use super::{AGE, INDEX};
use crate::domain::view::Standing;
use crate::error::Error;
use crate::registry::Registry;
use crate::tasks::directory::Directory;

/// Most instances per page.
const MAX_PAGE_SIZE: u32 = 500;

/// One registration with its present status.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceView {
    #[schema(example = "user-service-1")]
    pub service_id: String,
    #[schema(example = "user-service")]
    pub service_name: String,
    pub address: String,
    #[schema(minimum = 1)]
    pub port: u16,
    pub status: Standing,
    pub tags: Vec<String>,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    pub weight: u32,
    /// How it is checked, as stored. The values of headers are not shown.
    #[schema(value_type = Object)]
    pub check: Value,
    /// The subject whose token registered it.
    pub owner: String,
    #[schema(value_type = String, format = DateTime)]
    pub registered_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl InstanceView {
    fn new(document: &Document, directory: &Directory) -> Self {
        let registration = document.registration.clone();
        Self {
            status: Standing::of(directory.status(&registration.service_id)),
            service_id: registration.service_id,
            service_name: registration.service_name,
            address: registration.address,
            port: registration.port,
            tags: registration.tags,
            metadata: registration.metadata,
            weight: registration.weight,
            check: shown_check(&registration.check),
            owner: document.owner.clone(),
            registered_at: document.registered_at,
            updated_at: document.updated_at,
        }
    }
}

/// A check without the values of its headers: probes may carry credentials.
fn shown_check(check: &CheckSpec) -> Value {
    let mut shown = serde_json::to_value(check).unwrap_or_default();
    if let Some(Value::Object(headers)) = shown.get_mut("headers") {
        headers.values_mut().for_each(|value| *value = Value::from("[hidden]"));
    }
    shown
}

/// One page of registrations, ordered by service name and id.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstancePage {
    pub services: Vec<InstanceView>,
    /// Instances that match, over all pages.
    pub total: usize,
    pub page: u32,
    pub page_size: u32,
}

/// Which registrations to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ListQuery {
    /// Only instances of this service.
    pub service_name: Option<String>,
    /// Only instances of this owner.
    pub owner: Option<String>,
    /// Only instances with this status.
    pub status: Option<Standing>,
    /// Only instances with every one of these tags.
    pub tags: Vec<String>,
    /// From 1.
    #[param(minimum = 1, default = 1)]
    pub page: u32,
    #[param(minimum = 1, maximum = 500, default = 50)]
    pub page_size: u32,
    /// At least as new as this X-Plinth-Index.
    pub index: u64,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            service_name: None,
            owner: None,
            status: None,
            tags: Vec::new(),
            page: 1,
            page_size: 50,
            index: 0,
        }
    }
}

impl ListQuery {
    fn wants(&self, document: &Document, directory: &Directory) -> bool {
        let registration = &document.registration;
        let has = |wanted: &String| registration.tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted));
        self.service_name.as_ref().is_none_or(|name| *name == registration.service_name)
            && self.owner.as_ref().is_none_or(|owner| *owner == document.owner)
            && self.tags.iter().all(has)
            && self
                .status
                .is_none_or(|status| status == Standing::of(directory.status(&registration.service_id)))
    }

    fn faults(&self) -> Option<Problem> {
        let mut problem = Problem::bad_request("the page asked for does not exist");
        if self.page == 0 {
            problem = problem.field("page", "starts at 1");
        }
        if self.page_size == 0 || self.page_size > MAX_PAGE_SIZE {
            problem = problem.field("page_size", format!("must be 1 to {MAX_PAGE_SIZE}"));
        }
        (!problem.errors.is_empty()).then_some(problem)
    }
}

/// List registrations
///
/// Only those that the token may read. Instances that agents registered with Consul directly are found by discover,
/// but are not registrations of this service.
#[utoipa::path(
    get, path = "/api/v1/services", tag = "registration", params(ListQuery),
    responses(
        (status = 200, description = "One page", body = InstancePage,
            headers(("X-Plinth-Index" = u64, description = "Consul's index of the list"),
                    ("X-Plinth-Age-Ms" = u64, description = "Milliseconds since Consul confirmed the list"))),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no services:read", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nothing is known yet, or `index` is not reached in time", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    access::check_any(&caller, Action::Read)?;
    if let Some(problem) = query.faults() {
        return Err(problem);
    }
    let directory = registry.directory(query.index).await.map_err(Error::into_problem)?;
    let mut found: Vec<&Document> = directory
        .documents
        .values()
        .map(|entry| &*entry.document)
        .filter(|document| query.wants(document, &directory))
        .filter(|document| access::allows(&caller, Action::Read, &document.registration.service_name))
        .collect();
    found.sort_by_key(|document| (&document.registration.service_name, &document.registration.service_id));
    let total = found.len();
    let before =
        usize::try_from(u64::from(query.page - 1) * u64::from(query.page_size)).unwrap_or(usize::MAX);
    let page = found.into_iter().skip(before).take(query.page_size as usize);
    let services = page.map(|document| InstanceView::new(document, &directory)).collect();
    let body = InstancePage { services, total, page: query.page, page_size: query.page_size };
    Ok(from_directory(&directory, Json(body)))
}

/// How new a read has to be.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct MinIndex {
    /// At least as new as this X-Plinth-Index.
    pub index: u64,
}

/// Get one registration
#[utoipa::path(
    get, path = "/api/v1/services/{service_id}", tag = "registration",
    params(("service_id" = String, Path, description = "The id of the instance"), MinIndex),
    responses(
        (status = 200, description = "The registration", body = InstanceView,
            headers(("X-Plinth-Index" = u64, description = "Consul's index of the directory"),
                    ("X-Plinth-Age-Ms" = u64, description = "Milliseconds since Consul confirmed the directory"))),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token lacks services:read for this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not registered", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nothing is known yet, or `index` is not reached in time", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn get(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Path(service_id): Path<String>,
    Query(MinIndex { index }): Query<MinIndex>,
) -> Result<Response, Problem> {
    access::check_any(&caller, Action::Read)?;
    let directory = registry.directory(index).await.map_err(Error::into_problem)?;
    let Some(entry) = directory.documents.get(&service_id) else {
        return Err(Error::UnknownInstance { service_id }.into_problem());
    };
    access::check(&caller, Action::Read, &entry.document.registration.service_name)?;
    Ok(from_directory(&directory, Json(InstanceView::new(&entry.document, &directory))))
}

/// Deregister an instance
///
/// Its owner may, and a token with services:admin for its name.
#[utoipa::path(
    delete, path = "/api/v1/services/{service_id}", tag = "registration",
    params(("service_id" = String, Path, description = "The id of the instance")),
    responses(
        (status = 204, description = "Deregistered, and gone from this replica's reads",
            headers(("X-Plinth-Index" = u64, description = "Consul's index of this write"))),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Another owner's, or the token lacks services:write for this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not registered", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Consul does not take writes now", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn deregister(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Path(service_id): Path<String>,
) -> Result<Response, Problem> {
    access::check_any(&caller, Action::Write)?;
    let document = registry.document(&service_id).await.map_err(Error::into_problem)?;
    let name = &document.registration.service_name;
    access::check(&caller, Action::Write, name)?;
    let admin = access::allows(&caller, Action::Admin, name);
    let owner = (!admin).then(|| owner(&caller));
    let index = registry.deregister(&document, owner.as_ref()).await.map_err(Error::into_problem)?;
    Ok((StatusCode::NO_CONTENT, [(HeaderName::from_static(INDEX), HeaderValue::from(index))]).into_response())
}

/// What a heartbeat answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeartbeatAnswer {
    pub service_id: String,
    /// Always `alive`.
    #[schema(value_type = String, example = "alive")]
    pub status: &'static str,
    /// The next heartbeat should come well within this many seconds.
    #[schema(example = 30)]
    pub ttl_seconds: u64,
}

/// Renew the lease of a TTL registration
///
/// 404 with the type `urn:plinth:problem:lease-lost` means: register again.
#[utoipa::path(
    put, path = "/api/v1/services/{service_id}/heartbeat", tag = "registration",
    params(("service_id" = String, Path, description = "The id of the instance")),
    responses(
        (status = 200, description = "Renewed", body = HeartbeatAnswer),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Another owner's, or the token lacks services:write for this name", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not registered, or the lease is over: register again", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Registered without a ttl check", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Consul does not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn heartbeat(
    State(registry): State<Arc<Registry>>,
    caller: Caller,
    Path(service_id): Path<String>,
) -> Result<Json<HeartbeatAnswer>, Problem> {
    access::check_any(&caller, Action::Write)?;
    let document = registry.document(&service_id).await.map_err(Error::into_problem)?;
    let name = &document.registration.service_name;
    access::check(&caller, Action::Write, name)?;
    let owner = (!access::allows(&caller, Action::Admin, name)).then(|| owner(&caller));
    let beat = registry.heartbeat(&service_id, owner.as_ref()).await.map_err(Error::into_problem)?;
    Ok(Json(HeartbeatAnswer { service_id, status: "alive", ttl_seconds: beat.ttl.as_secs() }))
}

fn from_directory(directory: &Directory, body: impl IntoResponse) -> Response {
    let age = u64::try_from(directory.fetched.elapsed().as_millis()).unwrap_or(u64::MAX);
    let headers = [
        (HeaderName::from_static(INDEX), HeaderValue::from(directory.index)),
        (HeaderName::from_static(AGE), HeaderValue::from(age)),
    ];
    (headers, body).into_response()
}
