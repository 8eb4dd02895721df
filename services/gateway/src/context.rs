//! One request as plugins see it: the head that goes upstream, who sent it, what it matched, the clocks, and
//! what becomes of it.
//!
//! A `RequestContext` lives on one worker thread and is never shared, so nothing in it needs a lock. It is made
//! after routing, passes through the access phase, the proxying, the header phase, and is kept by the response
//! body until the last byte left (or the client went away): then the log phase runs.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request};

use crate::snapshot::{RouteEntry, ServiceEntry, Snapshot};

/// A TLS session, in the words of nginx and OpenSSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLSv1.3`
    pub version: &'static str,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: &'static str,
    /// The client showed a certificate, which was verified.
    pub verified: bool,
}

/// Facts of the client's connection, made once per connection.
#[derive(Debug)]
pub struct ClientConnection {
    /// The peer of the TCP connection.
    pub peer: std::net::SocketAddr,
    /// `peer`'s address as text, for `X-Real-IP` and `X-Forwarded-For`.
    pub peer_ip_text: HeaderValue,
    /// The peer is in `trusted_ips`, so its `X-Forwarded-*` headers are believed.
    pub trusted: bool,
    /// The port the listener is bound to.
    pub local_port: u16,
    /// What the handshake of a TLS connection agreed on.
    pub tls: Option<TlsSession>,
    /// The server name of the TLS handshake.
    pub sni: Option<Arc<str>>,
    /// Whom the PROXY protocol names as the client.
    pub proxied: Option<IpAddr>,
}

/// Sixteen random bytes as 32 lower-case hex digits: `X-Kong-Request-Id`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// A new random id.
    #[must_use]
    pub fn new() -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let random = fastrand::u128(..);
        let mut digits = [0_u8; 32];
        for (at, digit) in digits.iter_mut().enumerate() {
            *digit = HEX[((random >> (at * 4)) & 15) as usize];
        }
        Self(digits)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The digits as a header value.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static(""))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The credential an authentication plugin accepted. No secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The credential entity's id: what rate limiting by credential counts and the log calls `authenticated_entity`.
    pub id: Arc<str>,
    /// What `X-Credential-Identifier` shows (jwt: the key; key-auth: the id; basic and hmac: the user name).
    pub identifier: Arc<str>,
}

/// When the phases of a request happened. All latencies Kong reports come from these.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The request head was complete.
    pub start: Instant,
    /// The same moment on the wall clock (log `started_at`, rate-limiting windows, token expiry).
    pub started_at: SystemTime,
    /// The last try's request began to be sent.
    pub upstream_start: Option<Instant>,
    /// The upstream's response head was complete.
    pub upstream_head: Option<Instant>,
    /// The response's last byte was handed to the client's connection.
    pub end: Option<Instant>,
}

impl Timing {
    /// Starts the clocks.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            started_at: SystemTime::now(),
            upstream_start: None,
            upstream_head: None,
            end: None,
        }
    }

    /// Time in the gateway before the upstream was contacted (`X-Kong-Proxy-Latency`, log `kong`); for an answer
    /// of the gateway itself the whole time up to now (`X-Kong-Response-Latency`).
    #[must_use]
    pub fn gateway(&self) -> Duration {
        let until = self.upstream_start.or(self.end).unwrap_or_else(Instant::now);
        until.saturating_duration_since(self.start)
    }

    /// Time from sending the request upstream to its response head (`X-Kong-Upstream-Latency`, log `proxy`).
    #[must_use]
    pub fn upstream(&self) -> Option<Duration> {
        Some(self.upstream_head?.saturating_duration_since(self.upstream_start?))
    }

    /// Time from the upstream's response head to the response's end (log `receive`).
    #[must_use]
    pub fn receive(&self) -> Option<Duration> {
        Some(self.end?.saturating_duration_since(self.upstream_head?))
    }

    /// The whole time so far (log `request`).
    #[must_use]
    pub fn total(&self) -> Duration {
        self.end.unwrap_or_else(Instant::now).saturating_duration_since(self.start)
    }
}

/// How one try at an upstream endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryState {
    /// It answered.
    Answered,
    /// Connecting failed, the connection broke, or the answer was not HTTP.
    Failed,
    /// A timeout passed.
    TimedOut,
}

/// One try at an upstream endpoint, for the log.
#[derive(Clone, Debug)]
pub struct Try {
    /// The endpoint's address.
    pub address: std::net::SocketAddr,
    /// Time from the request's start to this try's start.
    pub after: Duration,
    /// How it ended.
    pub state: TryState,
    /// The status when it answered.
    pub status: Option<StatusCode>,
}

/// Who made the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Source {
    /// The gateway (a plugin, no route, no endpoint).
    #[default]
    Gateway,
    /// The upstream (also 502 and 504 of a failed one).
    Upstream,
}

/// What is known at the log phase, filled in as the request goes on.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Status sent to the client.
    pub status: StatusCode,
    /// Who made the answer.
    pub source: Source,
    /// The upstream's own status.
    pub upstream_status: Option<StatusCode>,
    /// Path and query as sent upstream.
    pub upstream_uri: String,
    /// Body bytes received from the client.
    pub request_body_bytes: u64,
    /// Body bytes sent to the client.
    pub response_body_bytes: u64,
    /// Bytes of the client's head, near enough: plugins may have edited it. Only when the chain logs.
    pub request_head_bytes: u64,
    /// Bytes of the head sent to the client, near enough (names, values and separators).
    pub response_head_bytes: u64,
    /// The headers sent to the client as the log shows them; only when the chain has a log phase that does
    /// ([`crate::plugins::Chain::logged_headers`]).
    pub response_headers: Option<Vec<u8>>,
    /// The client went away before the response's end.
    pub aborted: bool,
    /// A cookie made for consistent hashing, on its way to the client.
    pub set_cookie: Option<HeaderValue>,
}

/// What plugins have to do with bodies. Empty for the routes none of whose plugins looks into one: their bodies are streamed.
#[derive(Debug, Default)]
pub struct Bodies {
    /// The client's body, read whole before the first plugin that looks into it runs, up to
    /// [`crate::worker::DataPlane::plugin_body_bytes`].
    pub request: Option<Bytes>,
    /// `request` was changed: it goes upstream instead of what the client sent ([`RequestContext::replace_body`]).
    pub replaced: bool,
    /// Takes the place of the answer's body; to be set in the header phase.
    pub reply: Option<Bytes>,
    /// Sees the answer's body as it goes to the client; to be set in the header phase.
    pub tap: Option<Box<dyn Tap>>,
}

/// Watches an answer's body on its way to the client, without holding it up.
pub trait Tap: std::fmt::Debug {
    /// Bytes that went to the client.
    fn data(&mut self, data: &Bytes);
    /// The end; `complete` is false when the upstream or the client broke off.
    fn end(self: Box<Self>, complete: bool);
}

/// Headers for the answer, one value for each name, the last one set. A list, not a map: they are written once and moved once.
#[derive(Clone, Debug, Default)]
pub struct ReplyHeaders(Vec<(HeaderName, HeaderValue)>);

impl ReplyHeaders {
    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.0.reserve(more);
    }

    /// Sets one.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts them in place of those that `headers` has by the same names.
    pub fn move_to(&mut self, headers: &mut HeaderMap) {
        headers.reserve(self.0.len());
        for (name, value) in std::mem::take(&mut self.0) {
            headers.insert(name, value);
        }
    }
}

/// A request on its way through the gateway.
#[derive(Debug)]
pub struct RequestContext {
    /// The head: method, URI as received, headers. Headers edited here go upstream. Forwarding headers, `Host`,
    /// `Via` and hop-by-hop handling are applied while writing and need not be touched.
    pub head: request::Parts,
    /// The connection the request came on.
    pub client: Rc<ClientConnection>,
    /// The client's address: the peer's, or what a trusted peer says in the real-ip header.
    pub client_ip: IpAddr,
    /// The request's id.
    pub request_id: RequestId,
    /// The configuration this request runs with, from first to last byte.
    pub snapshot: Rc<Arc<Snapshot>>,
    /// Index into `snapshot.routes`.
    pub route: Option<usize>,
    /// Named captures of the route's regex.
    pub captures: Vec<(Arc<str>, String)>,
    /// The path sent upstream (escaped, without query), when it differs from `head.uri`'s.
    pub upstream_path: Option<String>,
    /// The query sent upstream (without `?`), when a plugin changed it.
    pub upstream_query: Option<String>,
    /// `Host` sent upstream, when a plugin changed it.
    pub upstream_host: Option<HeaderValue>,
    /// What was stripped from the path: `X-Forwarded-Prefix`.
    pub stripped_prefix: Option<String>,
    /// Who is asking, once an authentication plugin knows.
    pub consumer: Option<Arc<plinth_kong::Consumer>>,
    /// The credential accepted.
    pub credential: Option<Credential>,
    /// Headers every answer to the client gets (they replace those of the same name), whether it comes from the
    /// upstream or the gateway. Applied before the header phase.
    pub reply_headers: ReplyHeaders,
    /// Bodies, as far as plugins look into them.
    pub bodies: Bodies,
    /// Values a plugin carries from one of its phases to another, by type.
    pub carried: http::Extensions,
    /// The clocks.
    pub timing: Timing,
    /// Tries so far; filled only on failure or when the chain logs.
    pub tries: Vec<Try>,
    /// The result so far.
    pub outcome: Outcome,
}

impl RequestContext {
    /// The matched route.
    #[must_use]
    pub fn route(&self) -> Option<&RouteEntry> {
        self.snapshot.routes.get(self.route?)
    }

    /// The matched route's service.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceEntry> {
        self.route()?.service.as_deref()
    }

    /// Sends this body upstream instead of the client's.
    pub fn replace_body(&mut self, bytes: Bytes) {
        self.bodies.request = Some(bytes);
        self.bodies.replaced = true;
    }

    /// A request header as text; `None` when absent or not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// The host the client asked for, with its port: the one in the target (`:authority` of HTTP/2) before `Host`.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.head.uri.authority().map(http::uri::Authority::as_str).or_else(|| self.header(&header::HOST))
    }

    /// The scheme the client used: the connection's, or `X-Forwarded-Proto` of a trusted peer.
    #[must_use]
    pub fn https(&self) -> bool {
        forwarded_https(&self.client, &self.head.headers)
    }
}

/// Whether the client's request counts as https: a TLS connection, or a trusted peer's `X-Forwarded-Proto`.
#[must_use]
pub fn forwarded_https(client: &ClientConnection, headers: &HeaderMap) -> bool {
    if client.tls.is_some() {
        return true;
    }
    client.trusted
        && headers
            .get("x-forwarded-proto")
            .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The body of an answer the gateway makes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EarlyBody {
    /// None (`Content-Length: 0`).
    Empty,
    /// Kong's error shape: the message, formatted by the request's `Accept`, with the request id.
    Error(std::borrow::Cow<'static, str>),
    /// These bytes as they are; the content type is in the headers.
    Verbatim(Bytes),
    /// An upstream's answer kept from before, with its headers: it counts as proxied.
    Kept(Bytes),
}

/// An answer the gateway makes itself instead of asking the upstream.
#[derive(Clone, Debug)]
pub struct EarlyResponse {
    /// Status.
    pub status: StatusCode,
    /// Headers, besides those the gateway adds to each answer.
    pub headers: HeaderMap,
    /// Body.
    pub body: EarlyBody,
}

impl EarlyResponse {
    /// Kong's error answer: format by `Accept`, with the request id.
    #[must_use]
    pub fn error(status: StatusCode, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { status, headers: HeaderMap::new(), body: EarlyBody::Error(message.into()) }
    }

    /// A plain exit: `{"message": ...}` as JSON whatever `Accept` says, without request id (jwt's 401s).
    #[must_use]
    pub fn message(status: StatusCode, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "message": message }))
    }

    /// Any JSON document as it is.
    #[must_use]
    pub fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        Self { status, headers, body: EarlyBody::Verbatim(Bytes::from(body.to_string())) }
    }

    /// An answer without body.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: EarlyBody::Empty }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}
