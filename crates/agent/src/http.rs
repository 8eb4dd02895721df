//! The HTTP surface: one function from request to answer, with Consul's manners.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use plinth_core::Secret;

use crate::engine::Engine;
use crate::timers::Timers;

mod agent;
mod agent_check;
mod agent_health;
mod body;
mod cache;
mod cached;
mod catalog;
pub(crate) mod chain;
mod compress;
mod config_entry;
mod connect;
mod coordinates;
mod decode;
mod dispatch;
mod events;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzed;
mod go_json;
mod health;
mod host;
pub(crate) mod host_header;
mod intentions;
mod json;
mod kv;
mod membership;
mod misc;
mod path;
mod prefix;
mod prepared;
mod query;
mod reading;
mod reply;
mod route;
mod session;
mod sidecar;
mod snapshot;
mod txn;
mod ui;

use cache::Cache;
use cached::Asked;
use compress::Compressor;
use connect::Leaves;
use path::{detach, escapes_are_whole, may_block, moved, path_of};
use prefix::PrefixIndexes;
use query::{Query, ReadOptions};
pub(crate) use reply::Answer;
use reply::{Handled, Reply};
use route::{Elsewhere, Endpoint as E, Found, Route};

/// The version whose shapes and behaviour are served: clients switch features by it.
pub(crate) const VERSION: &str = "1.8.7";

static NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");

/// Who the agent is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub node: String,
    pub id: String,
    /// Of the node, Consul's own entry included.
    pub meta: BTreeMap<String, String>,
    pub address: IpAddr,
    pub http_port: u16,
    pub datacenter: String,
    /// RFC 3339.
    pub started: String,
}

/// One for each thread that serves: each has its own way into the engine, and shares all else.
#[derive(Clone)]
pub(crate) struct Server {
    pub engine: Arc<Engine>,
    pub timers: Arc<Timers>,
    pub identity: Identity,
    pub token: Option<Secret>,
    /// Largest request body in bytes where Consul has no limit of its own.
    pub max_body: usize,
    pub cache: Arc<Cache>,
    asked: Arc<Asked>,
    leaves: Arc<Leaves>,
    /// Whether the mesh endpoints answer.
    connect: bool,
    /// What a new certificate authority's trust domain is called after; by default a new id.
    pub cluster: Option<uuid::Uuid>,
    compressor: Arc<Compressor>,
    prefixes: Arc<PrefixIndexes>,
    pub runners: tokio::sync::watch::Sender<u64>,
    events: tokio::sync::watch::Sender<events::Events>,
}

/// A request without its body.
#[derive(Clone, Copy)]
struct Head<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
}

/// One request, taken apart.
struct Call<'a> {
    endpoint: E,
    method: &'a Method,
    headers: &'a HeaderMap,
    query: Query,
    /// The path behind the route's pattern, decoded.
    rest: &'a str,
    body: Bytes,
    pretty: bool,
}

impl Server {
    pub(crate) fn new(
        engine: Arc<Engine>,
        timers: Arc<Timers>,
        identity: Identity,
        token: Option<Secret>,
        max_body: usize,
        connect: bool,
    ) -> Server {
        let (runners, _) = tokio::sync::watch::channel(0);
        let (events, _) = tokio::sync::watch::channel(events::Events::default());
        Server {
            engine,
            timers,
            identity,
            token,
            max_body,
            cache: Arc::default(),
            asked: Arc::default(),
            leaves: Arc::default(),
            connect,
            cluster: None,
            compressor: Arc::default(),
            prefixes: Arc::default(),
            runners,
            events,
        }
    }

    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<Answer> {
        let (mut parts, body) = request.into_parts();
        if may_block(&parts.method, &parts.uri) {
            detach(&mut parts);
        }
        let body = match self.read_body(body, parts.uri.path(), &parts.headers).await {
            Ok(body) => body,
            Err(reply) => return reply.into_response(),
        };
        let head = Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers };
        let reply = self.answer(head, body).await.unwrap_or_else(|early| early);
        self.compressor.apply(&parts.headers, reply).into_response()
    }

    /// The answer to a plain read of what is asked for most; none: it takes the long way. It is not worth a future: that of
    /// all endpoints is large, and it would be copied to where the connection keeps it.
    pub(crate) fn at_once(&self, request: &Request<Incoming>) -> Option<Response<Answer>> {
        use hyper::body::Body as _;
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let path = uri.path();
        let frequent = path.starts_with("/v1/kv/") || path.starts_with("/v1/health/service/");
        if !frequent || *method != Method::GET || !request.body().is_end_stream() || may_block(method, uri) {
            return None;
        }
        let head = Head { method, uri, headers };
        let found = path_of(method, uri).and_then(|decoded| {
            let call = self.begin(head, &decoded, Bytes::new())?;
            let handled = match call.endpoint {
                E::Kv => self.kv_at_once(&call),
                E::HealthService => self.health_service_at_once(&call),
                _ => return Ok(None),
            };
            Ok(handled.map(finished))
        });
        let reply = found.unwrap_or_else(Some)?;
        Some(self.compressor.apply(headers, reply).into_response())
    }

    async fn answer(&self, head: Head<'_>, body: Bytes) -> Handled {
        let decoded = path_of(head.method, head.uri)?;
        let call = self.begin(head, &decoded, body)?;
        Ok(finished(self.dispatch(call.endpoint, &call).await))
    }

    /// All that comes before the endpoint: who asks, for what, and whether it is asked as the endpoint wants it.
    fn begin<'a>(&self, head: Head<'a>, decoded: &'a str, body: Bytes) -> Result<Call<'a>, Reply> {
        let Head { method, uri, headers } = head;
        let raw_query = uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        self.authorize(headers, &query)?;
        let route = match route::find(decoded) {
            Found::Route(route) => route,
            Found::Slash => return Err(moved(method, uri, &format!("{decoded}/"))),
            Found::Nothing => return Err(Reply::empty(StatusCode::NOT_FOUND)),
        };
        if route.endpoint == E::Root {
            return Err(Reply::text(StatusCode::OK, "Consul Agent"));
        }
        if let Some(reply) = allowed(method, &route) {
            return Err(reply.vary());
        }
        // as Consul: what it cannot write to its log it does not answer
        if !escapes_are_whole(raw_query) {
            return Err(Reply::empty(StatusCode::INTERNAL_SERVER_ERROR).vary());
        }
        let pretty = query.has("pretty");
        let endpoint = route.endpoint;
        let call = Call { endpoint, method, headers, query, rest: route.rest, body, pretty };
        self.check_manners(endpoint, &call).map_err(Reply::vary)?;
        Ok(call)
    }

    /// What Consul looks at before it looks at the request itself.
    fn check_manners(&self, endpoint: E, call: &Call<'_>) -> Result<(), Reply> {
        let manners = endpoint.manners();
        if manners.parses {
            ReadOptions::parse(&call.query)?;
            cached::check_header(call.headers)?;
        }
        if manners.namespaced {
            let refused = |what: &str| {
                Reply::bad(&format!(
                    "Bad request: Invalid {what} - Namespaces are a Consul Enterprise feature"
                ))
            };
            if call.headers.get(&NAMESPACE).is_some_and(|v| !v.is_empty()) {
                return Err(refused("header: \"X-Consul-Namespace\""));
            }
            if call.query.filled("ns").is_some() {
                return Err(refused("query parameter: \"ns\""));
            }
        }
        // the key store looks at the key first
        if endpoint == E::Kv && call.rest.is_empty() && !call.query.has("keys") && !call.query.has("recurse")
        {
            return Ok(());
        }
        match manners.elsewhere {
            Elsewhere::Ignored => Ok(()),
            Elsewhere::Refused => self.same_datacenter(call),
            // what changes something is decoded first, and its handler looks then
            Elsewhere::RefusedAsRead if *call.method != Method::GET => Ok(()),
            Elsewhere::RefusedAsRead => self.same_datacenter(call).map_err(Reply::without_answer),
        }
    }
}

/// An endpoint's answer, early or not.
fn finished(handled: Handled) -> Reply {
    handled.unwrap_or_else(|early| early).vary()
}

/// Several faults as Consul lists them.
fn several(faults: &[String]) -> String {
    let noun = if faults.len() == 1 { "error" } else { "errors" };
    let mut text = format!("{} {noun} occurred:\n", faults.len());
    for fault in faults {
        text.push_str(&format!("\t* {fault}\n"));
    }
    text.push('\n');
    text
}

fn unusable_filter(why: &str) -> String {
    format!("Failed to create boolean expression evaluator: {why}")
}

/// The answer that needs no handler: which methods there are, and that this is none of them.
fn allowed(method: &Method, route: &Route<'_>) -> Option<Reply> {
    // some endpoints answer for their methods themselves
    if route.methods.is_empty() {
        return None;
    }
    if *method != Method::OPTIONS && route.methods.split(',').any(|m| m == method.as_str()) {
        return None;
    }
    let methods = format!("OPTIONS,{}", route.methods);
    if *method == Method::OPTIONS {
        return Some(Reply::ok().with_header("allow", &methods));
    }
    let text = format!("method {method} not allowed");
    Some(Reply::text(StatusCode::METHOD_NOT_ALLOWED, &text).with_header("allow", &methods))
}

fn value_fits(size: usize) -> Result<(), Reply> {
    if size <= kv::LARGEST_VALUE {
        return Ok(());
    }
    let text = format!("Value for key is too large ({size} > {} bytes)", kv::LARGEST_VALUE);
    Err(Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text))
}
