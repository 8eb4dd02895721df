//! Answers: status, body and the few headers Consul sends.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::json;
use super::query::Consistency;
use crate::error::WriteError;

static INDEX: HeaderName = HeaderName::from_static("x-consul-index");
static KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
static LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
static EFFECTIVE: HeaderName = HeaderName::from_static("x-consul-effective-consistency");

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A handler's result: both sides are answers, the error side ends early.
pub type Handled = Result<Reply, Reply>;

impl Reply {
    pub fn empty(status: StatusCode) -> Reply {
        Reply { status, headers: HeaderMap::with_capacity(6), body: Bytes::new() }
    }

    pub fn ok() -> Reply {
        Reply::empty(StatusCode::OK)
    }

    /// Plain text, as all errors are.
    pub fn text(status: StatusCode, text: &str) -> Reply {
        let mut reply = Reply::empty(status);
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        reply.body = Bytes::copy_from_slice(text.as_bytes());
        reply
    }

    pub fn bad(text: &str) -> Reply {
        Reply::text(StatusCode::BAD_REQUEST, text)
    }

    pub fn internal(text: &str) -> Reply {
        Reply::text(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    pub fn not_found(text: &str) -> Reply {
        Reply::text(StatusCode::NOT_FOUND, text)
    }

    /// JSON that is encoded already.
    pub fn encoded(body: Bytes) -> Reply {
        let mut reply = Reply::ok();
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply.body = body;
        reply
    }

    pub fn json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> Reply {
        let body = if pretty { json::pretty(value) } else { json::compact(value) };
        match body {
            Ok(body) => Reply::encoded(body),
            Err(error) => {
                tracing::error!(%error, "cannot encode an answer");
                Reply::internal("cannot encode the answer")
            }
        }
    }

    pub fn with_status(mut self, status: StatusCode) -> Reply {
        self.status = status;
        self
    }

    pub fn with_header(mut self, name: &'static str, value: &str) -> Reply {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Every answer says that it depends on what the client takes.
    pub fn vary(mut self) -> Reply {
        self.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        self
    }

    /// The headers of a read.
    pub fn at(mut self, index: u64) -> Reply {
        let mut digits = itoa::Buffer::new();
        if let Ok(value) = HeaderValue::from_str(digits.format(index)) {
            self.headers.insert(&INDEX, value);
        }
        self.headers.insert(&KNOWN_LEADER, HeaderValue::from_static("true"));
        self.headers.insert(&LAST_CONTACT, HeaderValue::from_static("0"));
        self
    }

    /// The headers of a read that never came to an answer.
    pub fn without_answer(self) -> Reply {
        self.at(1).with_header("x-consul-knownleader", "false")
    }

    pub fn effective(mut self, consistency: Consistency) -> Reply {
        self.headers.insert(&EFFECTIVE, HeaderValue::from_static(consistency.as_str()));
        self
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl From<WriteError> for Reply {
    fn from(error: WriteError) -> Reply {
        Reply::internal(&error.to_string())
    }
}
