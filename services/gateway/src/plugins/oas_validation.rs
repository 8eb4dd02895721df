//! oas-validation: requests are checked against an OpenAPI document before the upstream sees them.
//!
//! Paths are those the client sent. A body is only read whole where its operation has a schema for bodies of its type; JSON and
//! forms are checked, of other types only that they are allowed.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use plinth_kong::oas::{Body, BodySchema, Checks, Found, Spec};
use plinth_kong::{OasValidationConfig, normalize_path};
use serde_json::Value;

use super::body::{Multipart, Pairs};
use crate::context::{EarlyResponse, RequestContext};

/// What clients are told unless the answers are to be verbose.
const REQUEST: &str = "request doesn't conform to schema";
const PARAMETER: &str = "request param doesn't conform to schema";

#[derive(Debug)]
pub(super) struct OasValidation {
    spec: Spec,
    verbose: bool,
    notify_only: bool,
    body: bool,
    checks: Checks,
    undeclared_query: bool,
    /// Headers that need no declaration; `None` when any may be there.
    allowed_headers: Option<Vec<String>>,
}

/// What is wrong: in general, and in detail.
struct Wrong(&'static str, String);

/// What a body of some media type is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Multipart,
    Text,
    Other,
}

impl Kind {
    fn of(media_type: &str) -> Kind {
        match media_type {
            "application/x-www-form-urlencoded" => Kind::Form,
            "multipart/form-data" => Kind::Multipart,
            json if json == "application/json" || json.ends_with("+json") => Kind::Json,
            text if text.starts_with("text/") => Kind::Text,
            _ => Kind::Other,
        }
    }
}

/// Kong takes a body without a type for JSON.
fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim).filter(|kind| !kind.is_empty());
    kind.unwrap_or("application/json").to_ascii_lowercase()
}

impl OasValidation {
    pub fn new(config: &OasValidationConfig) -> Result<OasValidation, String> {
        let spec = Spec::parse(&config.api_spec, config.base_path());
        let allowed = config.allowed_header_parameters.as_deref().unwrap_or_default();
        let allowed = allowed.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        Ok(OasValidation {
            spec: spec.map_err(|why| format!("in 'api_spec': {why}"))?,
            verbose: config.verbose_response,
            notify_only: config.notify_only_request_validation_failure,
            body: config.validate_request_body,
            checks: Checks {
                path: config.validate_request_uri_params,
                query: config.validate_request_query_params,
                header: config.validate_request_header_params,
            },
            undeclared_query: config.query_parameter_check,
            allowed_headers: config.header_parameter_check.then_some(allowed),
        })
    }

    /// Some operation has a body to be checked.
    pub fn looks_into_bodies(&self) -> bool {
        self.body
    }

    /// This request's operation has a schema for its body.
    pub fn wants_body(&self, ctx: &RequestContext) -> bool {
        if !self.body || !carries_body(&ctx.head.method) {
            return false;
        }
        let path = normalize_path(ctx.head.uri.path());
        let found = self.spec.find(ctx.head.method.as_str(), &path);
        found.is_some_and(|found| self.schema(&found, &media_type(&ctx.head.headers)).is_some())
    }

    fn schema(&self, found: &Found<'_, '_>, media_type: &str) -> Option<BodySchema> {
        match found.operation.body(media_type) {
            Body::Schema { schema, .. } if Kind::of(media_type) != Kind::Other => Some(schema),
            _ => None,
        }
    }

    pub fn access(&self, ctx: &RequestContext) -> Option<EarlyResponse> {
        let Wrong(general, detail) = self.check(ctx).err()?;
        if self.notify_only {
            tracing::warn!(
                request_id = ctx.request_id.as_str(),
                route = ctx.route().and_then(|entry| entry.route.name.as_deref()),
                detail,
                "oas-validation: the request goes on, as the plugin is told to"
            );
            return None;
        }
        let message = if self.verbose { detail.as_str() } else { general };
        Some(EarlyResponse::message(StatusCode::BAD_REQUEST, message))
    }

    fn check(&self, ctx: &RequestContext) -> Result<(), Wrong> {
        let head = &ctx.head;
        let path = normalize_path(head.uri.path());
        let Some(found) = self.spec.find(head.method.as_str(), &path) else {
            return Err(Wrong(REQUEST, "validation failed, path not found in api specification".to_owned()));
        };
        let undeclared = |place: &str, name: &str| {
            Wrong(
                PARAMETER,
                format!(
                    "validation failed with error: {place} parameter '{name}' does not exist in specification"
                ),
            )
        };
        if let Some(allowed) = &self.allowed_headers {
            let known = |name: &str| {
                allowed.iter().any(|allowed| allowed == name) || found.operation.declares_header(name)
            };
            if let Some(name) = head.headers.keys().find(|name| !known(name.as_str())) {
                return Err(undeclared("header", name.as_str()));
            }
        }
        if self.undeclared_query
            && let Some(query) = head.uri.query()
            && let Some(name) = self.spec.undeclared_in_query(found.operation, query)
        {
            return Err(undeclared("query", &name));
        }
        let header = |name: &str| {
            let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.map(str::to_owned).reduce(|all, next| format!("{all},{next}"))
        };
        let parameters = self.spec.check_parameters(&found, self.checks, head.uri.query(), &header);
        parameters.map_err(|detail| Wrong(PARAMETER, detail))?;
        if self.body && carries_body(&head.method) { self.check_body(ctx, &found) } else { Ok(()) }
    }

    fn check_body(&self, ctx: &RequestContext, found: &Found<'_, '_>) -> Result<(), Wrong> {
        let headers = &ctx.head.headers;
        let media_type = media_type(headers);
        let announced = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
        let sent = announced
            || headers.contains_key(header::TRANSFER_ENCODING)
            || ctx.bodies.request.as_ref().is_some_and(|body| !body.is_empty());
        let wrong =
            |why: String| Wrong(PARAMETER, format!("request body validation failed with error: '{why}'"));
        let (schema, required) = match found.operation.body(&media_type) {
            Body::Unsaid => return Ok(()),
            Body::Refused if !sent && !headers.contains_key(header::CONTENT_TYPE) => return Ok(()),
            Body::Refused => {
                let why = format!("validation failed: content-type '{media_type}' is not supported");
                return Err(Wrong(REQUEST, why));
            }
            Body::Anything { required } => (None, required),
            Body::Schema { schema, required } => (Some(schema), required),
        };
        if !sent {
            return if required {
                Err(wrong("required body not found in request".to_owned()))
            } else {
                Ok(())
            };
        }
        let (Some(schema), Some(body)) = (schema, &ctx.bodies.request) else { return Ok(()) };
        self.fits(schema, Kind::of(&media_type), headers, body).map_err(wrong)
    }

    fn fits(&self, schema: BodySchema, kind: Kind, headers: &HeaderMap, body: &Bytes) -> Result<(), String> {
        let text = || std::str::from_utf8(body).map_err(|_| "not UTF-8".to_owned());
        match kind {
            Kind::Json => {
                let value: Value = serde_json::from_slice(body).map_err(|_| "not JSON".to_owned())?;
                self.spec.check_value(schema, &value)
            }
            Kind::Form => {
                let fields = Pairs::parse(text()?).into_sorted();
                let fields: Vec<_> =
                    fields.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect();
                self.spec.check_fields(schema, &fields)
            }
            Kind::Multipart => {
                let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let parts = kind.and_then(|kind| Multipart::parse(kind, body)).ok_or("not multipart")?;
                self.spec.check_fields(schema, &parts.fields())
            }
            Kind::Text => self.spec.check_value(schema, &Value::String(text()?.to_owned())),
            Kind::Other => Ok(()),
        }
    }
}

/// Methods whose bodies Kong's plugin looks at.
fn carries_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}
