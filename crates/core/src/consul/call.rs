//! One request before it is sent, and its answer after.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Read, Reply};
use crate::Error;
use crate::transport::Incoming;

/// What the server blocks when no `wait` is given.
const SERVER_DEFAULT_WAIT: Duration = Duration::from_secs(300);
const MAX_ERROR_TEXT: usize = 4096;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Keys keep their slashes; everything else that is not unreserved is encoded.
const KEY: &AsciiSet = &UNRESERVED.remove(b'/');

/// One call of the API: method, path segments, query, body.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    path: String,
    query: Query,
    read: Option<&'a Read>,
    dc: Option<&'a str>,
    pub(super) body: Bytes,
    /// The body is JSON.
    pub(super) json: bool,
    /// Statuses outside 2xx that the caller understands.
    pub(super) also: &'static [u16],
}

impl<'a> Call<'a> {
    /// `prefix` is literal and ends before the variable part.
    pub(super) fn new(method: Method, prefix: &str) -> Self {
        Self {
            method,
            path: prefix.to_owned(),
            query: Query::default(),
            read: None,
            dc: None,
            body: Bytes::new(),
            json: false,
            also: &[],
        }
    }

    pub(super) fn get(prefix: &str) -> Self {
        Self::new(Method::GET, prefix)
    }

    pub(super) fn put(prefix: &str) -> Self {
        Self::new(Method::PUT, prefix)
    }

    /// Appends one encoded path segment (slashes are encoded too).
    pub(super) fn segment(mut self, text: &str) -> Self {
        self.path.extend(utf8_percent_encode(text, UNRESERVED));
        self
    }

    /// Appends a key, whose slashes stay.
    pub(super) fn key(mut self, key: &str) -> Self {
        self.path.extend(utf8_percent_encode(key, KEY));
        self
    }

    pub(super) fn read(mut self, read: &'a Read) -> Self {
        self.read = Some(read);
        self.dc = read.dc.as_deref();
        read.add_to(&mut self.query);
        self
    }

    pub(super) fn pair(mut self, name: &str, value: &str) -> Self {
        self.query.pair(name, value);
        self
    }

    pub(super) fn flag(mut self, name: &str) -> Self {
        self.query.flag(name);
        self
    }

    pub(super) fn bytes(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(super) fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, Error> {
        self.body = serde_json::to_vec(value).map_err(|error| Error::Request(error.to_string()))?.into();
        self.json = true;
        Ok(self)
    }

    /// Statuses outside 2xx that the caller understands.
    pub(super) fn also(mut self, statuses: &'static [u16]) -> Self {
        self.also = statuses;
        self
    }

    /// How long the server may block, if it may.
    pub(super) fn blocks(&self) -> Option<Duration> {
        self.read.filter(|read| read.index > 0).map(|read| read.wait.unwrap_or(SERVER_DEFAULT_WAIT))
    }

    pub(super) fn path_and_query(&self, default_dc: Option<&str>) -> String {
        let mut query = self.query.clone();
        if let Some(dc) = self.dc.or(default_dc) {
            query.pair("dc", dc);
        }
        if query.0.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, query.0) }
    }
}

/// A query string under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(String);

impl Query {
    pub(super) fn flag(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
    }

    pub(super) fn pair(&mut self, name: &str, value: &str) {
        self.flag(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, UNRESERVED));
    }
}

/// An answer that was accepted.
pub(super) struct Answer {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) incoming: Incoming,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.incoming.status.as_u16()
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.incoming.body).map_err(|source| Error::Decode {
            method: self.method.to_string(),
            path: self.path.clone(),
            source,
        })
    }

    /// The JSON value together with the index headers.
    pub(super) fn reply<T: DeserializeOwned>(&self) -> Result<Reply<T>, Error> {
        Ok(self.with(self.json()?))
    }

    /// `value` together with the index headers.
    pub(super) fn with<T>(&self, value: T) -> Reply<T> {
        Reply {
            value,
            index: self.number("x-consul-index").unwrap_or(0),
            known_leader: self.text("x-consul-knownleader").is_none_or(|text| text == "true"),
            last_contact: Duration::from_millis(self.number("x-consul-lastcontact").unwrap_or(0)),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.incoming.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    pub(super) fn into_error(self) -> Error {
        let shown = &self.incoming.body[..self.incoming.body.len().min(MAX_ERROR_TEXT)];
        Error::Status {
            method: self.method.to_string(),
            path: self.path,
            status: self.incoming.status.as_u16(),
            body: String::from_utf8_lossy(shown).trim().to_owned(),
        }
    }
}
