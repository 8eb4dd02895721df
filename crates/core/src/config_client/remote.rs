//! The HTTP side.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{ConfigSettings, Item};
use crate::Error;
use crate::consul::duration;
use crate::identity::Callee;
use crate::transport::{Outgoing, TlsSettings, Transport, path_only};

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const KEY: &AsciiSet = &SEGMENT.remove(b'/');
/// Name of the service, which its certificate must hold.
const SERVICE: &str = "config-service";
const MAX_ANSWER: usize = 4 << 20;
const MAX_ERROR_TEXT: usize = 4096;

#[derive(Debug)]
pub(super) struct Remote {
    transport: Transport,
    authorization: Option<HeaderValue>,
    /// `/api/v1/config/<namespace>/<environment>/`
    base: String,
    request_timeout: Duration,
}

pub(super) struct Answer {
    pub item: Option<Item>,
    /// To poll after.
    pub index: u64,
}

impl Remote {
    pub(super) fn new(settings: &ConfigSettings) -> Result<Self, Error> {
        let mesh = settings.identity.clone().map(|identity| (identity, Callee::service(SERVICE)));
        let tls = TlsSettings { ca_cert: settings.ca_cert.clone(), mesh, ..TlsSettings::default() };
        let authorization = match &settings.token {
            Some(token) => Some(bearer(token.expose())?),
            None => None,
        };
        let base = format!(
            "/api/v1/config/{}/{}/",
            utf8_percent_encode(&settings.namespace, SEGMENT),
            utf8_percent_encode(&settings.environment, SEGMENT)
        );
        Ok(Self {
            transport: Transport::new(&settings.address, &tls, settings.connect_timeout, MAX_ANSWER)?,
            authorization,
            base,
            request_timeout: settings.request_timeout,
        })
    }

    /// The item now, or with `after` (index, wait) once it has changed after that index.
    pub(super) async fn get(&self, key: &str, after: Option<(u64, Duration)>) -> Result<Answer, Error> {
        let mut path = format!("{}{}", self.base, utf8_percent_encode(key, KEY));
        let mut deadline = self.request_timeout;
        if let Some((index, wait)) = after {
            path.push_str(&format!("?index={index}&wait={}", duration::format(wait)));
            deadline += wait;
        }
        let shown = path_only(&path).to_owned();
        let headers = self.headers();
        let request = Outgoing { method: Method::GET, path_and_query: path, headers, body: Bytes::new() };
        let incoming = self.transport.send(request, deadline).await?;
        let index =
            incoming.headers.get("x-plinth-index").and_then(|value| value.to_str().ok()?.parse().ok());
        let from_service = index.is_some();
        let index = index.unwrap_or(0);
        match incoming.status.as_u16() {
            200 => {
                let item: Item = serde_json::from_slice(&incoming.body).map_err(|source| Error::Decode {
                    method: "GET".to_owned(),
                    path: shown,
                    source,
                })?;
                Ok(Answer { item: Some(item), index })
            }
            // Only the service itself gives an index. Another 404 (a wrong address, a gateway without the route) says nothing
            // about the key and must not make defaults current or spoil the last-good file.
            404 if from_service => Ok(Answer { item: None, index }),
            status => Err(refused("GET", &shown, status, &incoming.body)),
        }
    }
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: the last writer wins.
    Anything,
    /// The key does not exist.
    Absent,
    /// The key's revision is this one.
    Revision(u64),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is durable, under this revision.
    As(u64),
    /// What was expected does not hold; nothing was written.
    Conflict,
}

impl Remote {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(http::header::AUTHORIZATION, authorization.clone());
        }
        headers
    }

    /// Writes an item.
    pub(super) async fn put(&self, key: &str, value: &Value, expect: Expect) -> Result<Written, Error> {
        let path = format!("{}{}", self.base, utf8_percent_encode(key, KEY));
        let mut headers = self.headers();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match expect {
            Expect::Anything => {}
            Expect::Absent => {
                headers.insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            Expect::Revision(revision) => {
                let tag = HeaderValue::from_str(&format!("\"{revision}\""));
                headers
                    .insert(http::header::IF_MATCH, tag.map_err(|error| Error::Request(error.to_string()))?);
            }
        }
        let body = Bytes::from(serde_json::json!({ "value": value }).to_string());
        let request = Outgoing { method: Method::PUT, path_and_query: path.clone(), headers, body };
        let incoming = self.transport.send(request, self.request_timeout).await?;
        match incoming.status.as_u16() {
            200..=202 => {
                let decode = |source| Error::Decode { method: "PUT".to_owned(), path: path.clone(), source };
                let item: Revision = serde_json::from_slice(&incoming.body).map_err(decode)?;
                Ok(Written::As(item.revision))
            }
            412 => Ok(Written::Conflict),
            status => Err(refused("PUT", &path, status, &incoming.body)),
        }
    }

    /// Deletes an item; one that is not there is fine.
    pub(super) async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = format!("{}{}", self.base, utf8_percent_encode(key, KEY));
        let request = Outgoing {
            method: Method::DELETE,
            path_and_query: path.clone(),
            headers: self.headers(),
            body: Bytes::new(),
        };
        let incoming = self.transport.send(request, self.request_timeout).await?;
        match incoming.status.as_u16() {
            200..=204 | 404 => Ok(()),
            status => Err(refused("DELETE", &path, status, &incoming.body)),
        }
    }
}

#[derive(serde::Deserialize)]
struct Revision {
    revision: u64,
}

fn refused(method: &str, path: &str, status: u16, body: &[u8]) -> Error {
    Error::Status {
        method: method.to_owned(),
        path: path.to_owned(),
        status,
        body: String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_TEXT)]).into_owned(),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Setting {
        name: "token",
        message: "holds characters that cannot be in a header".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
