//! `/config`: the whole configuration, read and replaced.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plinth_kit::problem::Problem;
use plinth_kong::Format;
use serde_json::{Value, json};

use super::{Message, Parameters, State};
use crate::error::Error;
use crate::reload::Applied;

/// Get the running configuration
#[utoipa::path(
    get, path = "/config", tag = "configuration",
    responses(
        (status = 200, description = "The declarative document as text in `config`", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn show(Extract(state): Extract<State>) -> Response {
    let snapshot = state.0.configurator.current();
    match snapshot.config.to_document() {
        // JSON is YAML
        Ok(document) => Json(json!({"config": document.to_string()})).into_response(),
        Err(error) => internal(&error),
    }
}

/// Replace the whole configuration
///
/// It runs as a whole or not at all. With a configuration file the next change of the file replaces it again.
#[utoipa::path(
    post, path = "/config", tag = "configuration",
    params(("check_hash" = Option<String>, Query, description = "`1`: answer 304 when this text runs already")),
    request_body(
        description = "A Kong declarative configuration: YAML, JSON, or JSON with the text in `config`",
        content((String = "text/yaml"), (Value = "application/json")),
    ),
    responses(
        (status = 201, description = "It runs; the document with all defaults", body = Value),
        (status = 304, description = "It ran already"),
        (status = 400, description = "Refused; all faults in `fields`. The running configuration stays", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Larger than the setting `config_limit`"),
    ),
)]
pub async fn replace(
    Extract(state): Extract<State>,
    query: Parameters,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some((text, format)) = document_of(&headers, &body) else {
        return Message::answer(StatusCode::BAD_REQUEST, "expected a declarative configuration");
    };
    let unless_same = query.get("check_hash").is_some_and(|flag| flag == "1" || flag == "true");
    match state.0.configurator.offer(&text, format, "Admin API", unless_same).await {
        Ok(Applied::Same) => StatusCode::NOT_MODIFIED.into_response(),
        Ok(Applied::New(snapshot)) => match snapshot.config.to_document() {
            Ok(document) => (StatusCode::CREATED, Json(document)).into_response(),
            Err(error) => internal(&error),
        },
        Err(Error::Config { faults, .. }) => {
            let fields = faults.fields();
            let body = json!({
                "code": 14,
                "name": "invalid declarative configuration",
                "message": format!("declarative config is invalid: {fields}"),
                "fields": fields,
            });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
        Err(error) => {
            let body = json!({
                "code": 14,
                "name": "invalid declarative configuration",
                "message": plinth_kit::problem::chain(&error),
            });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// The document in a body: JSON, YAML, or JSON with the text in `config`.
fn document_of(headers: &HeaderMap, body: &Bytes) -> Option<(String, Format)> {
    let text = std::str::from_utf8(body).ok().filter(|text| !text.trim().is_empty())?;
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"));
    if !json {
        return Some((text.to_owned(), Format::Yaml));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => match value.get("config") {
            Some(Value::String(inner)) => Some((inner.clone(), Format::Yaml)),
            _ => Some((text.to_owned(), Format::Json)),
        },
        Err(_) => Some((text.to_owned(), Format::Json)),
    }
}

fn internal(error: &serde_json::Error) -> Response {
    tracing::error!(%error, "configuration cannot be written as JSON");
    Message::answer(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")
}
