//! `/config`: the whole configuration, read and replaced.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plinth_kit::problem::Problem;
use plinth_kong::Format;
use serde_json::{Value, json};

use super::flatten::flattened;
use super::{Message, Parameters, State, whole};
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
    let configurator = &state.0.configurator;
    let snapshot = configurator.current();
    let document = move || match snapshot.config.to_document() {
        // JSON is YAML
        Ok(document) => Json(json!({"config": document.to_string()})).into_response(),
        Err(error) => internal(&error),
    };
    configurator.aside(document).await.unwrap_or_else(|error| internal(&error))
}

/// Replace the whole configuration
///
/// It runs as a whole or not at all. With a configuration file the next change of the file replaces it again; with
/// config-service it is written there, so that all gateways follow.
#[utoipa::path(
    post, path = "/config", tag = "configuration",
    params(
        ("check_hash" = Option<String>, Query, description = "`1`: answer 304 when this text runs already"),
        ("flatten_errors" = Option<String>, Query, description = "`1`: a refusal lists faults by entity, in `flattened_errors`"),
    ),
    request_body(
        description = "A Kong declarative configuration: YAML, JSON, JSON or a form with the text in `config`",
        content((String = "text/yaml"), (Value = "application/json")),
    ),
    responses(
        (status = 201, description = "It runs; all entities, by collection and id", body = Value),
        (status = 304, description = "It ran already"),
        (status = 400, description = "Refused; all faults in `fields`. The running configuration stays", body = Value),
        (status = 401, description = "No valid token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token has no gateway:admin", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Larger than the setting `config_limit`"),
        (status = 503, description = "config-service cannot be reached; nothing has changed", body = Message),
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
    let truthy = |flag: &String| ["1", "true", "on", "yes"].contains(&flag.to_lowercase().as_str());
    let unless_same = query.get("check_hash").is_some_and(|flag| flag == "1" || flag == "true");
    let flatten = query.get("flatten_errors").is_some_and(truthy);
    drop(body);
    let configurator = &state.0.configurator;
    match configurator.post(Arc::clone(&text), format, unless_same).await {
        Ok(Applied::Same) => StatusCode::NOT_MODIFIED.into_response(),
        Ok(Applied::New(snapshot)) => {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::CREATED, headers, whole::body(configurator.clone(), snapshot)).into_response()
        }
        Err(Error::Config { faults, .. }) => {
            let mut body = refused(&faults);
            if flatten {
                body["flattened_errors"] = flattened(&text, format, &faults);
            }
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
        // the text is not to blame
        Err(error @ Error::Loader) => internal(&error),
        Err(error @ (Error::Store(_) | Error::StoredConfig(_))) => {
            Message::answer(StatusCode::SERVICE_UNAVAILABLE, plinth_kit::problem::chain(&error))
        }
        Err(error) => {
            let body = json!({
                "code": 14,
                "name": "invalid declarative configuration",
                "message": format!("declarative config is invalid: {}", plinth_kit::problem::chain(&error)),
            });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

fn refused(faults: &plinth_kong::Faults) -> Value {
    // a fault of the text as a whole is Kong's `error`
    let fields = match faults.list() {
        [only] if only.path.is_empty() => {
            json!({"error": format!("failed parsing declarative configuration: {}", only.message)})
        }
        _ => faults.fields(),
    };
    json!({
        "code": 14,
        "name": "invalid declarative configuration",
        "message": format!("declarative config is invalid: {fields}"),
        "fields": fields,
    })
}

/// The document in a body: JSON, YAML, or either of them in `config` of JSON or a form.
fn document_of(headers: &HeaderMap, body: &Bytes) -> Option<(Arc<str>, Format)> {
    let text = std::str::from_utf8(body).ok().filter(|text| !text.trim().is_empty())?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if let Some((_, boundary)) =
        kind.split_once("boundary=").filter(|_| kind.starts_with("multipart/form-data"))
    {
        return part(text, boundary.trim_matches('"')).map(|text| (text.into(), Format::Yaml));
    }
    if kind.starts_with("application/x-www-form-urlencoded")
        && let Some((_, config)) = super::pairs(text).find(|(name, _)| name == "config")
    {
        return Some((config.into(), Format::Yaml));
    }
    if !kind.starts_with("application/json") {
        return Some((text.into(), Format::Yaml));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => match value.get("config") {
            Some(Value::String(inner)) if value.get("_format_version").is_none() => {
                (!inner.trim().is_empty()).then(|| (inner.as_str().into(), Format::Yaml))
            }
            _ if value.as_object().is_some_and(serde_json::Map::is_empty) => None,
            _ => Some((text.into(), Format::Json)),
        },
        Err(_) => Some((text.into(), Format::Json)),
    }
}

/// The field `config` of a form with parts (`curl -F config=@kong.yml`).
fn part<'t>(text: &'t str, boundary: &str) -> Option<&'t str> {
    let mark = format!("--{boundary}");
    text.split(mark.as_str()).find_map(|part| {
        let (head, body) = part.split_once("\r\n\r\n")?;
        let named = head.to_ascii_lowercase().contains("name=\"config\"");
        named.then(|| body.strip_suffix("\r\n").unwrap_or(body))
    })
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Response {
    tracing::error!(error = plinth_kit::problem::chain(error), "a request of the configuration failed");
    Message::answer(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")
}
