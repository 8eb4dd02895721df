//! Extractors that answer with a problem naming the wrong field.

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FieldFault, Problem};

/// A JSON body, in and out. Wrong bodies are 400 with the field's path, other media types 415, too large ones 413.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE)
                .detail("expected a body with Content-Type: application/json"));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            let status = rejection.status();
            let detail = match status {
                StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than this service accepts",
                _ => "the body could not be read to its end",
            };
            Problem::new(status).detail(detail)
        })?;
        parse_json(&body).map(Json)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::internal(&error).into_response(),
        }
    }
}

/// Parses a JSON document; faults name the field.
///
/// # Errors
/// A 400 problem.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_syntax() || inner.is_eof() {
            return Problem::bad_request(format!("the body is not valid JSON: {inner}"));
        }
        wrong_field(&path, &inner.to_string(), "body")
    })?;
    deserializer
        .end()
        .map_err(|_| Problem::bad_request("the body is not valid JSON: something follows the document"))?;
    Ok(value)
}

/// A query string; repeated names fill lists (`tags=a&tags=b`). Wrong ones are 400 with the parameter's name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let deserializer = serde_html_form::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(Query).map_err(|error| {
            let path = error.path().to_string();
            wrong_field(&path, &error.into_inner().to_string(), "query")
        })
    }
}

/// Path parameters. Wrong ones are 400 with the parameter's name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(PathRejection::FailedToDeserializePathParams(failed)) => Err(wrong_path(failed.into_kind())),
            Err(other) => Err(Problem::internal(&other)),
        }
    }
}

fn wrong_path(kind: ErrorKind) -> Problem {
    let (field, message) = match kind {
        ErrorKind::ParseErrorAtKey { key, expected_type, .. } => (key, format!("expected {expected_type}")),
        ErrorKind::InvalidUtf8InPathParam { key } => (key, "is not UTF-8".to_owned()),
        ErrorKind::DeserializeError { key, message, .. } => (key, message),
        ErrorKind::ParseErrorAtIndex { expected_type, .. } | ErrorKind::ParseError { expected_type, .. } => {
            ("path".to_owned(), format!("expected {expected_type}"))
        }
        other => ("path".to_owned(), other.to_string()),
    };
    Problem::invalid(vec![FieldFault { field, message }])
}

fn wrong_field(path: &str, message: &str, whole: &str) -> Problem {
    // serde reports an absent field at its parent; name the field itself.
    let absent = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let parent = if path == "." { "" } else { path };
    let field = match (absent.or(unknown), parent) {
        (Some(name), "") => name.to_owned(),
        (Some(name), parent) if unknown.is_some() && parent.ends_with(name) => parent.to_owned(),
        (Some(name), parent) => format!("{parent}.{name}"),
        (None, "") => whole.to_owned(),
        (None, parent) => parent.to_owned(),
    };
    let message = match absent {
        Some(_) => "is required".to_owned(),
        None => message.to_owned(),
    };
    Problem::invalid(vec![FieldFault { field, message }])
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let media = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = media.split_once('/') else { return false };
    kind.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json")
            || subtype.rsplit_once('+').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[expect(dead_code, reason = "only its absence matters here")]
        name: String,
        #[serde(default)]
        lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    struct Line {
        #[expect(dead_code, reason = "only its type matters here")]
        count: u16,
    }

    fn field_of<T: DeserializeOwned>(text: &str) -> String {
        match parse_json::<T>(text.as_bytes()) {
            Err(problem) => problem.errors.first().map(|fault| fault.field.clone()).unwrap_or_default(),
            Ok(_) => panic!("accepted {text}"),
        }
    }

    #[test]
    fn names_the_field_of_a_body() {
        assert_eq!(field_of::<Order>(r#"{"lines":[]}"#), "name");
        assert_eq!(
            field_of::<Order>(r#"{"name":"a","lines":[{"count":1},{"count":70000}]}"#),
            "lines[1].count"
        );
        assert_eq!(field_of::<Order>(r#"{"name":"a","lines":[{}]}"#), "lines[0].count");
        assert_eq!(field_of::<Order>(r#"{"name":"a","colour":1}"#), "colour");
        assert!(parse_json::<Order>(b"[1]").is_err());
        assert_eq!(field_of::<Order>("{"), "", "a syntax error has no field");
        assert!(parse_json::<Order>(br#"{"name":"a"} x"#).is_err());
        assert!(parse_json::<Order>(br#"{"name":"a"}"#).unwrap().lines.is_empty());
    }

    #[derive(Debug, Deserialize)]
    struct Filter {
        #[serde(default)]
        healthy_only: bool,
        #[serde(default)]
        tags: Vec<String>,
    }

    async fn query(text: &str) -> Result<Filter, Problem> {
        let (mut parts, ()) = Request::get(format!("/x?{text}")).body(()).unwrap().into_parts();
        Query::<Filter>::from_request_parts(&mut parts, &()).await.map(|Query(filter)| filter)
    }

    #[tokio::test]
    async fn reads_repeated_names_of_a_query() {
        let filter = query("healthy_only=true&tags=a&tags=b%20c").await.unwrap();
        assert!(filter.healthy_only);
        assert_eq!(filter.tags, ["a", "b c"]);
        assert_eq!(query("tags=a").await.unwrap().tags, ["a"]);
        assert!(query("").await.unwrap().tags.is_empty());
        let problem = query("healthy_only=maybe").await.unwrap_err();
        assert_eq!(problem.status, StatusCode::BAD_REQUEST);
        assert_eq!(problem.errors[0].field, "healthy_only");
    }

    #[tokio::test]
    async fn refuses_other_media_types() {
        for (content_type, status) in [
            ("text/plain", 415),
            ("application/json", 200),
            ("application/merge-patch+json; charset=utf-8", 200),
        ] {
            let request =
                Request::post("/").header("content-type", content_type).body(Body::from("1")).unwrap();
            let got = match Json::<u8>::from_request(request, &()).await {
                Ok(_) => 200,
                Err(problem) => problem.status.as_u16(),
            };
            assert_eq!(got, status, "{content_type}");
        }
    }
}
