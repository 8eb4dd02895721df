//! Answers: status, body and the few headers Consul sends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;

use super::json;
use super::query::Consistency;
use crate::error::WriteError;
use crate::feed::Lines;

static INDEX: HeaderName = HeaderName::from_static("x-consul-index");
static KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
static LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
static EFFECTIVE: HeaderName = HeaderName::from_static("x-consul-effective-consistency");

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Instead of a body: lines that go on.
    pub lines: Option<Lines>,
    /// The headers are complete.
    complete: bool,
}

/// The headers of the answers that are given most, the index first: to copy them costs a fifth of putting them in one by one.
static READ: LazyLock<HeaderMap> = LazyLock::new(|| read_headers(None));
static READ_AS: LazyLock<[HeaderMap; 3]> = LazyLock::new(|| Consistency::ALL.map(|c| read_headers(Some(c))));

fn read_headers(consistency: Option<Consistency>) -> HeaderMap {
    let mut reply = Reply::empty(StatusCode::OK).at(0);
    if let Some(consistency) = consistency {
        reply = reply.effective(consistency);
    }
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.vary().headers
}

/// A handler's result: both sides are answers, the error side ends early.
pub type Handled = Result<Reply, Reply>;

impl Reply {
    pub fn empty(status: StatusCode) -> Reply {
        Reply {
            status,
            headers: HeaderMap::with_capacity(6),
            body: Bytes::new(),
            lines: None,
            complete: false,
        }
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

    /// The same as the answer to a read, which lacks nothing then.
    pub fn read(body: Bytes, index: u64, consistency: Option<Consistency>) -> Reply {
        let headers: &HeaderMap = match consistency {
            None => &READ,
            Some(consistency) => &READ_AS[consistency as usize],
        };
        let mut headers = headers.clone();
        if let Some(first) = headers.values_mut().next() {
            *first = HeaderValue::from(index);
        }
        Reply { status: StatusCode::OK, headers, body, lines: None, complete: true }
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
        if self.complete {
            return self;
        }
        self.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        self
    }

    /// The headers of a read.
    pub fn at(mut self, index: u64) -> Reply {
        self.headers.insert(&INDEX, HeaderValue::from(index));
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

    pub fn into_response(self) -> Response<Answer> {
        let body = match self.lines {
            None => Answer::Whole(Full::new(self.body)),
            Some(lines) => Answer::Lines(lines),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// An answer's body.
#[derive(Debug)]
pub enum Answer {
    Whole(Full<Bytes>),
    Lines(Lines),
}

impl Default for Answer {
    fn default() -> Answer {
        Answer::Whole(Full::default())
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Answer::Whole(body) => Pin::new(body).poll_frame(cx),
            Answer::Lines(lines) => lines.poll(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(body) => body.size_hint(),
            Answer::Lines(_) => SizeHint::default(),
        }
    }
}

impl From<WriteError> for Reply {
    fn from(error: WriteError) -> Reply {
        Reply::internal(&error.to_string())
    }
}
