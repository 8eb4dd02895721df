//! The client: one request, its deadline, its span, its errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument as _;

use super::token::Token;
use super::{Agent, Catalog, Connect, Health, Kv, Read, Reply, Sessions, Settings, Status};
use crate::Error;
use crate::transport::{Incoming, Outgoing, TlsSettings, Transport, path_only};

/// Called on the headers of each outgoing request, inside the request's span.
pub type HeaderHook = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// What the server blocks when no `wait` is given.
const SERVER_DEFAULT_WAIT: Duration = Duration::from_secs(300);
const MAX_ERROR_TEXT: usize = 4096;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Keys keep their slashes; everything else that is not unreserved is encoded.
const KEY: &AsciiSet = &UNRESERVED.remove(b'/');

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");

/// A pooled client; clones share the pool and the limits.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    hook: Option<HeaderHook>,
}

struct Inner {
    transport: Transport,
    token: Token,
    namespace: Option<HeaderValue>,
    datacenter: Option<String>,
    request_timeout: Duration,
    max_blocking: usize,
    blocking: Semaphore,
    /// Wakes watches out of their backoff once any request succeeds again.
    recovered: Notify,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("transport", &self.inner.transport).finish_non_exhaustive()
    }
}

impl Client {
    /// Opens no connection yet. Fails on unusable TLS material or token.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let tls = TlsSettings {
            ca_cert: settings.ca_cert.clone(),
            client_cert: settings.client_cert.clone(),
            client_key: settings.client_key.clone(),
        };
        let namespace = match &settings.namespace {
            Some(text) => Some(HeaderValue::from_str(text).map_err(|_| Error::Setting {
                name: "namespace",
                message: format!("{text:?} cannot be in a header"),
            })?),
            None => None,
        };
        let transport =
            Transport::new(&settings.address, &tls, settings.connect_timeout, settings.max_answer)?;
        Ok(Self {
            inner: Arc::new(Inner {
                transport,
                token: Token::new(&settings)?,
                namespace,
                datacenter: settings.datacenter,
                request_timeout: settings.request_timeout,
                max_blocking: settings.max_blocking,
                blocking: Semaphore::new(settings.max_blocking),
                recovered: Notify::new(),
            }),
            hook: None,
        })
    }

    /// The same client whose requests pass through `hook`, for example to carry W3C trace context.
    pub fn with_header_hook(mut self, hook: HeaderHook) -> Self {
        self.hook = Some(hook);
        self
    }

    pub fn kv(&self) -> Kv {
        Kv::new(self.clone())
    }

    pub fn agent(&self) -> Agent {
        Agent::new(self.clone())
    }

    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.clone())
    }

    pub fn health(&self) -> Health {
        Health::new(self.clone())
    }

    pub fn session(&self) -> Sessions {
        Sessions::new(self.clone())
    }

    pub fn status(&self) -> Status {
        Status::new(self.clone())
    }

    pub fn connect(&self) -> Connect {
        Connect::new(self.clone())
    }

    /// Blocking queries that run right now.
    pub fn blocking_in_use(&self) -> usize {
        self.inner.max_blocking - self.inner.blocking.available_permits()
    }

    pub(crate) async fn recovered(&self) {
        self.inner.recovered.notified().await;
    }

    /// Sends; 2xx and the statuses in `also` come back, every other status is an error.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, Error> {
        let path_and_query = call.path_and_query(self.inner.datacenter.as_deref());
        let path = path_only(&path_and_query).to_owned();
        let span = tracing::info_span!(
            "consul",
            otel.kind = "client",
            http.request.method = %call.method,
            url.path = %path,
            http.response.status_code = tracing::field::Empty,
        );
        self.send_in_span(call, path_and_query, path).instrument(span).await
    }

    async fn send_in_span(
        &self,
        call: Call<'_>,
        path_and_query: String,
        path: String,
    ) -> Result<Answer, Error> {
        let inner = &*self.inner;
        let (_place, deadline) = match call.blocks() {
            Some(wait) => (Some(self.place_for_blocking().await?), wait + wait / 16 + inner.request_timeout),
            None => (None, inner.request_timeout),
        };
        let request = Outgoing {
            method: call.method.clone(),
            path_and_query,
            headers: self.headers(call.json).await?,
            body: call.body.clone(),
        };
        let incoming = inner.transport.send(request, deadline).await?;
        tracing::Span::current().record("http.response.status_code", incoming.status.as_u16());
        if incoming.status == StatusCode::FORBIDDEN {
            inner.token.refused();
        }
        if !incoming.status.is_server_error() {
            inner.recovered.notify_waiters();
        }
        let answer = Answer { method: call.method, path, incoming };
        if answer.incoming.status.is_success() || call.also.contains(&answer.incoming.status.as_u16()) {
            Ok(answer)
        } else {
            Err(answer.into_error())
        }
    }

    /// A taken-up cap must not hang a caller for ever, so waiting for a place has the deadline of a plain request.
    async fn place_for_blocking(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        let saturated = || Error::Saturated { limit: self.inner.max_blocking };
        tokio::time::timeout(self.inner.request_timeout, self.inner.blocking.acquire())
            .await
            .map_err(|_| saturated())?
            .map_err(|_| saturated())
    }

    async fn headers(&self, json: bool) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        if let Some(token) = self.inner.token.get().await? {
            headers.insert(TOKEN, token);
        }
        if let Some(namespace) = &self.inner.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if json {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(hook) = &self.hook {
            hook(&mut headers);
        }
        Ok(headers)
    }
}

/// One call of the API: method, path segments, query, body.
pub(super) struct Call<'a> {
    method: Method,
    path: String,
    query: Query,
    read: Option<&'a Read>,
    dc: Option<&'a str>,
    body: Bytes,
    json: bool,
    also: &'static [u16],
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

    fn blocks(&self) -> Option<Duration> {
        self.read.filter(|read| read.index > 0).map(|read| read.wait.unwrap_or(SERVER_DEFAULT_WAIT))
    }

    fn path_and_query(&self, default_dc: Option<&str>) -> String {
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
    method: Method,
    path: String,
    incoming: Incoming,
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
