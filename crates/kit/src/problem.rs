//! RFC 9457 problem documents: the one shape of every error answer.

mod extract;
mod fallback;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

pub use extract::{Json, Path, Query};
pub use fallback::{method_not_allowed, not_found, panicked, timed_out};

/// The media type of problem documents.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldFault {
    /// Path of the field, such as `health_check.interval` or `tags[2]`.
    pub field: String,
    /// What was wrong and what would be right.
    pub message: String,
}

/// A problem document and, for the log only, what caused it.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A URI naming the kind of problem; `about:blank` says no more than the status does.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "about:blank")]
    pub kind: Cow<'static, str>,
    /// The kind of problem for people; the same for every problem of that kind.
    #[schema(value_type = String, example = "Not Found")]
    pub title: Cow<'static, str>,
    /// The HTTP status of the answer.
    #[serde(with = "status_number")]
    #[schema(value_type = u16, example = 404)]
    pub status: StatusCode,
    /// This occurrence for people. Never holds what belongs into the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The wrong fields of the request, when that is the problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldFault>,
    /// What few problems have, boxed to keep results small.
    #[serde(default, rename = "instance", with = "instance", skip_serializing_if = "instance::is_none")]
    #[schema(value_type = Option<String>, example = "/api/v1/services/billing-1")]
    rare: Option<Box<Rare>>,
}

#[derive(Clone, Default)]
struct Rare {
    /// The path of the request.
    instance: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<Cause>,
}

/// Why an answer is a 5xx: travels as a response extension to the edge, where it is logged once.
#[derive(Clone)]
pub struct Cause(Arc<str>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Problem {
    /// A problem that says no more than its status.
    pub fn new(status: StatusCode) -> Problem {
        Problem {
            kind: Cow::Borrowed("about:blank"),
            title: Cow::Borrowed(status.canonical_reason().unwrap_or("Unknown")),
            status,
            detail: None,
            errors: Vec::new(),
            rare: None,
        }
    }

    /// 400 with a sentence.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST).detail(detail)
    }

    /// 400 with the wrong fields.
    pub fn invalid(errors: Vec<FieldFault>) -> Problem {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields of the request are wrong", many.len()),
        };
        Problem { errors, ..Problem::bad_request(detail) }
    }

    /// 401 with the challenge that RFC 6750 asks for.
    pub fn unauthorized(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED)
            .detail(detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"plinth\""))
    }

    /// 403 with a sentence.
    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN).detail(detail)
    }

    /// 404 with a sentence.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND).detail(detail)
    }

    /// 409 with a sentence.
    pub fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT).detail(detail)
    }

    /// 500. The answer says nothing; `cause` and what it stems from go into the log at the edge.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR).caused_by(cause)
    }

    /// 503: something this service needs is away. `detail` must not name hosts or hold error texts.
    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE).detail(detail)
    }

    /// The sentence about this occurrence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// A kind of its own: a URI (`urn:plinth:problem:owned-by-another`) and its title.
    #[must_use]
    pub fn kind(mut self, kind: &'static str, title: &'static str) -> Problem {
        self.kind = Cow::Borrowed(kind);
        self.title = Cow::Borrowed(title);
        self
    }

    /// Adds a wrong field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        self.errors.push(FieldFault { field: field.into(), message: message.into() });
        self
    }

    /// Adds a header to the answer, such as `Retry-After`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.rare().headers.push((name, value));
        self
    }

    /// Remembers for the log what caused this: the error and its chain of sources.
    #[must_use]
    pub fn caused_by(mut self, cause: &(dyn std::error::Error + 'static)) -> Problem {
        self.rare().cause = Some(Cause(chain(cause).into()));
        self
    }

    /// The path of the request.
    #[must_use]
    pub fn instance(mut self, path: impl Into<String>) -> Problem {
        self.rare().instance = Some(path.into());
        self
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// An error with its sources: `outer: middle: inner`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Strings and numbers only: serialising cannot fail, and if it did the status would still be right.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(rare) = self.rare {
            for (name, value) in rare.headers {
                headers.append(name, value);
            }
            if let Some(cause) = rare.cause {
                response.extensions_mut().insert(cause);
            }
        }
        response
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("status", &self.status)
            .field("kind", &self.kind)
            .field("detail", &self.detail)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.title)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

mod instance {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Rare;

    pub(super) fn is_none(rare: &Option<Box<Rare>>) -> bool {
        rare.as_ref().is_none_or(|rare| rare.instance.is_none())
    }

    pub(super) fn serialize<S: Serializer>(
        rare: &Option<Box<Rare>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        rare.as_ref().and_then(|rare| rare.instance.as_ref()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Box<Rare>>, D::Error> {
        let instance = Option::<String>::deserialize(deserializer)?;
        Ok(instance.map(|instance| Box::new(Rare { instance: Some(instance), ..Rare::default() })))
    }
}

mod status_number {
    use http::StatusCode;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(status.as_u16())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StatusCode, D::Error> {
        let number = u16::deserialize(deserializer)?;
        StatusCode::from_u16(number).map_err(|_| D::Error::custom("no HTTP status"))
    }
}

impl From<plinth_core::registration::FieldFault> for FieldFault {
    fn from(fault: plinth_core::registration::FieldFault) -> Self {
        FieldFault { field: fault.field, message: fault.message }
    }
}
