//! What the demo service answers: who it is and what reached it, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use serde::{Deserialize, Serialize};

/// Headers worth seeing behind a gateway. `authorization` and `cookie` are left out: an answer must not repeat secrets.
const SHOWN_HEADERS: [&str; 12] = [
    "host",
    "user-agent",
    "content-type",
    "content-length",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "x-consumer-username",
    "x-consumer-custom-id",
    "x-request-id",
];

/// Longest `delay_ms`.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Most `bytes`.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Padding is sent in pieces of this size, so that a large answer takes no large memory.
const PIECE: &[u8] = &[b'x'; 16 * 1024];

/// Who answers.
#[derive(Debug, Clone)]
pub struct Identity {
    pub service: String,
    pub instance: String,
}

/// Experiments that a caller may ask for in the query.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Experiment {
    /// Wait before answering, in milliseconds, at most a minute.
    delay_ms: u64,
    /// Answer with this status instead of 200.
    status: Option<u16>,
    /// Answer with this many bytes of padding instead of JSON, at most 64 MiB.
    bytes: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Echo<'a> {
    service: &'a str,
    instance: &'a str,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    headers: BTreeMap<&'static str, String>,
}

/// Answers every path and method; `/health` says that the service is well.
pub fn router(identity: Identity) -> Router {
    Router::new().route("/health", routing::get(health)).fallback(echo).with_state(identity)
}

async fn health(State(identity): State<Identity>) -> impl IntoResponse {
    Json(serde_json::json!({
        "status": "healthy", "service": identity.service, "instance": identity.instance,
    }))
}

async fn echo(
    State(identity): State<Identity>,
    Query(experiment): Query<Experiment>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    tokio::time::sleep(Duration::from_millis(experiment.delay_ms).min(MAX_DELAY)).await;
    let status = match experiment.status.map(StatusCode::from_u16) {
        None => StatusCode::OK,
        Some(Ok(status)) if status.as_u16() >= 200 => status,
        Some(_) => return (StatusCode::BAD_REQUEST, "status must be 200 to 999\n").into_response(),
    };
    if let Some(bytes) = experiment.bytes {
        return padding(status, bytes);
    }
    let shown = SHOWN_HEADERS.into_iter().filter_map(|name| {
        let value = headers.get(name)?;
        Some((name, String::from_utf8_lossy(value.as_bytes()).into_owned()))
    });
    let echo = Echo {
        service: &identity.service,
        instance: &identity.instance,
        method: method.as_str(),
        path: uri.path(),
        query: uri.query(),
        headers: shown.collect(),
    };
    (status, Json(echo)).into_response()
}

/// `bytes` of padding with a Content-Length.
fn padding(status: StatusCode, bytes: usize) -> Response {
    if bytes > MAX_BYTES {
        return (StatusCode::BAD_REQUEST, "bytes must be at most 67108864\n").into_response();
    }
    let pieces = std::iter::successors(Some(bytes), |left| left.checked_sub(PIECE.len()))
        .take_while(|left| *left > 0)
        .map(|left| Ok::<_, std::convert::Infallible>(Bytes::from_static(&PIECE[..left.min(PIECE.len())])));
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(request: Request<Body>) -> (StatusCode, Bytes) {
        let identity = Identity { service: "user-service".into(), instance: "user-service-1".into() };
        let answer = router(identity).oneshot(request).await.unwrap();
        let status = answer.status();
        (status, to_bytes(answer.into_body(), usize::MAX).await.unwrap())
    }

    #[tokio::test]
    async fn it_says_who_it_is_and_what_reached_it_but_no_secret() {
        let request = Request::post("/api/v1/users?x=1")
            .header("x-forwarded-for", "10.0.0.1")
            .header("authorization", "Bearer secret")
            .body(Body::empty());
        let (status, body) = ask(request.unwrap()).await;
        let echo: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(echo["service"], "user-service");
        assert_eq!(echo["instance"], "user-service-1");
        assert_eq!(echo["method"], "POST");
        assert_eq!(echo["path"], "/api/v1/users");
        assert_eq!(echo["query"], "x=1");
        assert_eq!(echo["headers"], serde_json::json!({"x-forwarded-for": "10.0.0.1"}));
    }

    #[tokio::test]
    async fn experiments() {
        let get = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
        assert_eq!(ask(get("/a?status=503")).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(get("/a?status=99")).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(ask(get("/a?status=soon")).await.0, StatusCode::BAD_REQUEST);
        for bytes in [0, 1, 16 * 1024, 16 * 1024 + 1, 100_000] {
            assert_eq!(ask(get(&format!("/a?bytes={bytes}"))).await.1.len(), bytes);
        }
        assert_eq!(ask(get("/a?bytes=99999999999")).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(ask(get("/health")).await.0, StatusCode::OK);
    }
}
