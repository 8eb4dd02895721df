//! The HTTP surface: one function from request to answer, with Consul's manners.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use plinth_core::Secret;

use crate::engine::Engine;
use crate::engine::watch::Interest;
use crate::state::{State, Table};
use crate::timers::Timers;

mod agent;
mod agent_check;
mod agent_health;
mod cache;
mod cached;
mod catalog;
pub(crate) mod chain;
mod compress;
mod config_entry;
mod connect;
mod coordinates;
mod decode;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzed;
mod go_json;
mod health;
mod intentions;
mod json;
mod kv;
mod membership;
mod misc;
mod prepared;
mod query;
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
use filter::Filter;
use filter::fields::Fields;
use query::{Query, ReadOptions};
use reply::{Handled, Reply};
use route::{Elsewhere, Endpoint as E, Found, Route};

/// The version whose shapes and behaviour are served: clients switch features by it.
pub(crate) const VERSION: &str = "1.8.7";

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

pub(crate) struct Server {
    pub engine: Arc<Engine>,
    pub timers: Arc<Timers>,
    pub identity: Identity,
    pub token: Option<Secret>,
    /// Largest request body in bytes where Consul has no limit of its own.
    pub max_body: usize,
    pub cache: Cache,
    asked: Asked,
    leaves: Leaves,
    /// Whether the mesh endpoints answer.
    connect: bool,
    /// What a new certificate authority's trust domain is called after; by default a new id.
    pub cluster: Option<uuid::Uuid>,
    compressor: Compressor,
    pub runners: tokio::sync::watch::Sender<u64>,
    events: tokio::sync::watch::Sender<Vec<misc::Event>>,
}

/// A client that is in the middle of sending would see its connection reset instead of the answer: what it sends is read,
/// until it pauses for a quarter of a second or has sent 16 MiB.
async fn discard(mut body: Incoming) {
    const PAUSE: Duration = Duration::from_millis(250);
    const MOST: usize = 16 << 20;
    let mut read = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(PAUSE, body.frame()).await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MOST {
            break;
        }
    }
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
        let (events, _) = tokio::sync::watch::channel(Vec::new());
        Server {
            engine,
            timers,
            identity,
            token,
            max_body,
            cache: Cache::default(),
            asked: Asked::default(),
            leaves: Leaves::default(),
            connect,
            cluster: None,
            compressor: Compressor::default(),
            runners,
            events,
        }
    }

    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = match self.read_body(body, parts.uri.path(), &parts.headers).await {
            Ok(body) => body,
            Err(reply) => return reply.into_response(),
        };
        let reply = self.answer(&parts, body).await.unwrap_or_else(|early| early);
        self.compressor.apply(&parts.headers, reply).into_response()
    }

    /// Reads the whole body first, so that the connection survives an error answer. Only a body over the limit
    /// ends the connection.
    async fn read_body(&self, body: Incoming, path: &str, headers: &HeaderMap) -> Result<Bytes, Reply> {
        use hyper::body::Body as _;
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let limit = match path {
            "/v1/snapshot" => snapshot::LARGEST,
            path if path.starts_with("/v1/kv/") => kv::LARGEST_VALUE,
            _ => self.max_body,
        };
        let too_large = |size: u64| {
            let text = format!(
                "Request body({size} bytes) too large, max size: {limit} bytes. See https://www.consul.io/docs/agent/options.html#kv_max_value_size."
            );
            Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text).with_header("connection", "close")
        };
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|l| l.to_str().ok())
            .and_then(|l| l.parse::<u64>().ok())
            .filter(|l| *l > limit as u64);
        if let Some(size) = announced {
            if !headers.contains_key(header::EXPECT) {
                discard(body).await;
            }
            return Err(too_large(size));
        }
        match Limited::new(body, limit).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit as u64 + 1)),
            Err(error) => Err(Reply::bad(&format!("cannot read the body: {error}"))),
        }
    }

    async fn answer(&self, parts: &http::request::Parts, body: Bytes) -> Handled {
        let raw = parts.uri.path();
        if !escapes_are_whole(raw) {
            let reply = Reply::text(StatusCode::BAD_REQUEST, "400 Bad Request");
            return Err(reply.with_header("connection", "close"));
        }
        let decoded = percent_decode_str(raw).decode_utf8_lossy();
        if decoded.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(Reply::empty(StatusCode::BAD_REQUEST));
        }
        if let Some(clean) = cleaned(&decoded) {
            return Err(moved(parts, &clean));
        }
        let raw_query = parts.uri.query().unwrap_or_default();
        let query = Query::parse(raw_query);
        self.authorize(&parts.headers, &query)?;
        let route = match route::find(&decoded) {
            Found::Route(route) => route,
            Found::Slash => return Err(moved(parts, &format!("{decoded}/"))),
            Found::Nothing => return Err(Reply::empty(StatusCode::NOT_FOUND)),
        };
        if route.endpoint == E::Root {
            return Ok(Reply::text(StatusCode::OK, "Consul Agent"));
        }
        let handled = match allowed(&parts.method, &route) {
            Some(reply) => Ok(reply),
            // as Consul: what it cannot write to its log it does not answer
            None if !escapes_are_whole(raw_query) => Ok(Reply::empty(StatusCode::INTERNAL_SERVER_ERROR)),
            None => {
                let pretty = query.has("pretty");
                let (method, headers) = (&parts.method, &parts.headers);
                let endpoint = route.endpoint;
                let call = Call { endpoint, method, headers, query, rest: route.rest, body, pretty };
                match self.check_manners(route.endpoint, &call) {
                    Ok(()) => self.dispatch(route.endpoint, &call).await,
                    Err(reply) => Err(reply),
                }
            }
        };
        let reply = handled.unwrap_or_else(|early| early);
        Ok(reply.with_header("vary", "Accept-Encoding"))
    }

    /// What Consul looks at before it looks at the request itself.
    fn check_manners(&self, endpoint: E, call: &Call<'_>) -> Result<(), Reply> {
        let manners = endpoint.manners();
        if manners.parses {
            ReadOptions::parse(&call.query)?;
            if call.query.has("cached") {
                cached::check_header(call.headers)?;
            }
        }
        if manners.namespaced {
            let refused = |what: &str| {
                Reply::bad(&format!(
                    "Bad request: Invalid {what} - Namespaces are a Consul Enterprise feature"
                ))
            };
            if call.headers.get("x-consul-namespace").is_some_and(|v| !v.is_empty()) {
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

    async fn dispatch(&self, endpoint: E, call: &Call<'_>) -> Handled {
        use crate::state::model::Status;
        match endpoint {
            E::Kv => self.kv(call).await,
            E::HealthService => self.health_service(call, false).await,
            E::HealthConnect => self.health_service(call, true).await,
            E::HealthNode => self.health_node(call).await,
            E::HealthChecks => self.health_checks(call).await,
            E::HealthState => self.health_state(call).await,
            E::Txn => Box::pin(self.txn(call)).await,
            E::CatalogNodes => self.catalog_nodes(call).await,
            E::CatalogServices => self.catalog_services(call).await,
            E::CatalogService => self.catalog_service(call, false).await,
            E::CatalogConnect => self.catalog_service(call, true).await,
            E::CatalogNode => self.catalog_node(call, false).await,
            E::CatalogNodeServices => self.catalog_node(call, true).await,
            E::CatalogRegister => Box::pin(self.catalog_register(call)).await,
            E::CatalogDeregister => self.catalog_deregister(call).await,
            E::CatalogDatacenters => self.catalog_datacenters(call),
            E::SessionCreate => self.session_create(call).await,
            E::SessionDestroy => self.session_destroy(call).await,
            E::SessionRenew => self.session_renew(call).await,
            E::SessionInfo => self.session_info(call).await,
            E::SessionList => self.session_list(call).await,
            E::SessionNode => self.session_node(call).await,
            E::AgentServices => self.agent_services(call),
            E::AgentService => self.agent_service(call).await,
            E::AgentServiceRegister => Box::pin(self.agent_service_register(call)).await,
            E::AgentServiceDeregister => self.agent_service_deregister(call).await,
            E::AgentServiceMaintenance => self.agent_service_maintenance(call).await,
            E::AgentMaintenance => self.agent_maintenance(call).await,
            E::AgentChecks => self.agent_checks(call),
            E::AgentCheckRegister => Box::pin(self.agent_check_register(call)).await,
            E::AgentCheckDeregister => self.agent_check_deregister(call).await,
            E::AgentCheckPass => self.agent_check_report(call, Status::Passing).await,
            E::AgentCheckWarn => self.agent_check_report(call, Status::Warning).await,
            E::AgentCheckFail => self.agent_check_report(call, Status::Critical).await,
            E::AgentCheckUpdate => self.agent_check_update(call).await,
            E::AgentHealthById => self.agent_health(call, false),
            E::AgentHealthByName => self.agent_health(call, true),
            E::EventList => self.event_list(call).await,
            E::Queries => self.queries(call).await,
            E::Query => Box::pin(self.query(call)).await,
            E::ConfigApply => Box::pin(self.config_apply(call)).await,
            E::Config => self.config(call).await,
            E::CatalogGatewayServices => self.catalog_gateway_services(call).await,
            E::Intentions => Box::pin(self.intentions(call)).await,
            E::Intention => Box::pin(self.intention(call)).await,
            E::ConnectRoots => self.connect_roots(call, false).await,
            E::ConnectAgentRoots => self.connect_roots(call, true).await,
            E::ConnectConfiguration => Box::pin(self.connect_configuration(call)).await,
            E::ConnectLeaf => Box::pin(self.connect_leaf(call)).await,
            E::OperatorAutopilot => Box::pin(self.operator_autopilot(call)).await,
            E::HealthIngress => self.health_ingress(call).await,
            E::DiscoveryChain => self.discovery_chain(call).await,
            E::Snapshot => Box::pin(self.snapshot(call)).await,
            E::CoordinateNodes => self.coordinate_nodes(call).await,
            E::CoordinateNode => self.coordinate_node(call).await,
            E::CoordinateUpdate => Box::pin(self.coordinate_update(call)).await,
            E::UiNodes => self.ui_nodes(call).await,
            E::UiNode => self.ui_node(call).await,
            E::UiServices => self.ui_services(call).await,
            other => self.dispatch_small(other, call),
        }
    }

    fn dispatch_small(&self, endpoint: E, call: &Call<'_>) -> Handled {
        match endpoint {
            E::Acl => Err(Reply::text(StatusCode::UNAUTHORIZED, "ACL support disabled")),
            E::StatusLeader => self.status_leader(call),
            E::StatusPeers => self.status_peers(call),
            E::AgentSelf => self.agent_self(call),
            E::AgentMembers => self.agent_members(call),
            E::AgentMetrics => self.agent_metrics(call),
            E::EventFire => self.event_fire(call),
            E::CoordinateDatacenters => self.coordinate_datacenters(call),
            E::OperatorRaft => self.operator_raft(call),
            E::OperatorHealth => self.operator_health(call),
            E::IntentionMatch => self.intention_match(call),
            E::IntentionCheck => self.intention_check(call),
            E::ConnectAuthorize => self.connect_authorize(call),
            E::OperatorRaftPeer => self.operator_raft_peer(call),
            E::OperatorKeyring => self.operator_keyring(),
            E::AgentReload => Ok(Reply::ok()),
            E::AgentForceLeave => self.agent_force_leave(call),
            E::AgentJoin => self.agent_join(call),
            E::AgentLeave => Err(Reply::internal("this agent is single-node: it cannot leave a cluster")),
            E::AgentMonitor => self.agent_monitor(call),
            // everything above is named; a route without a handler is a fault of this program
            other => {
                tracing::error!(endpoint = ?other, "a route leads nowhere");
                Err(Reply::empty(StatusCode::NOT_FOUND))
            }
        }
    }

    /// With a token set, every request must carry it.
    fn authorize(&self, headers: &HeaderMap, query: &Query) -> Result<(), Reply> {
        let Some(token) = &self.token else { return Ok(()) };
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let bearer =
            text("authorization").and_then(|v| v.strip_prefix("Bearer ").or(v.strip_prefix("bearer ")));
        let given = query.filled("token").or(text("x-consul-token")).or(bearer).unwrap_or_default();
        if token.matches(given.as_bytes()) {
            Ok(())
        } else {
            Err(Reply::text(StatusCode::FORBIDDEN, "Permission denied"))
        }
    }

    fn own_datacenter(&self, named: &str) -> Result<(), Reply> {
        if named.is_empty() || named == self.identity.datacenter {
            Ok(())
        } else {
            Err(Reply::internal("No path to datacenter"))
        }
    }

    fn same_datacenter(&self, call: &Call<'_>) -> Result<(), Reply> {
        self.own_datacenter(call.query.get("dc").unwrap_or_default())
    }

    fn datacenter(&self) -> &str {
        &self.identity.datacenter
    }

    fn node_name(&self) -> &str {
        &self.identity.node
    }

    /// The version a read answers from, after blocking if it asked for that.
    async fn wait(
        &self,
        options: &ReadOptions,
        interest: impl FnOnce() -> Interest,
        index_of: impl Fn(&State) -> u64,
    ) -> Arc<State> {
        if options.index == 0 {
            return self.engine.state();
        }
        self.engine.wait(&interest(), options.index, options.wait, index_of).await
    }

    /// Starts the time of TTL checks anew and lets the runners look at what is registered.
    fn checks_changed(&self, ids: &[String]) {
        let state = self.engine.state();
        for id in ids {
            if let Some(crate::state::local::Runner::Ttl(ttl)) = state.local_check(id).map(|c| &c.runner) {
                self.timers.arm_check(id, *ttl);
            }
        }
        self.runners.send_modify(|n| *n += 1);
    }

    fn filter(&self, call: &Call<'_>, fields: Fields) -> Result<Filter, Reply> {
        match call.query.filled("filter") {
            None => Ok(Filter::All),
            Some(text) => Filter::parse(text, fields).map_err(|why| Reply::internal(&unusable_filter(&why))),
        }
    }

    /// The answer to a read whose body is made of the question and of what moves `index`, and of nothing else: it is
    /// encoded once per change and shared by all who ask or wait for it.
    fn shared(&self, call: &Call<'_>, index: u64, make: impl FnOnce() -> Handled) -> Handled {
        let encode = || match make() {
            Ok(reply) if reply.status == StatusCode::OK => Ok(reply.body),
            Ok(reply) | Err(reply) => Err(reply),
        };
        let mut question = call.question();
        if call.query.has("near") {
            // what is near moves without what is asked for
            question
                .push_str(itoa::Buffer::new().format(self.engine.state().table_index(Table::Coordinates)));
        }
        self.cache.get_or_encode(&question, index, encode).map(Reply::encoded)
    }

    /// The same for a read that the catalog answers: a refusal has its headers.
    fn read_filter(&self, call: &Call<'_>, fields: Fields) -> Result<Filter, Reply> {
        self.filter(call, fields).map_err(Reply::without_answer)
    }

    /// A list, with the request's filter.
    fn listing<T: serde::Serialize>(&self, call: &Call<'_>, filter: &Filter, items: &[T]) -> Reply {
        if matches!(filter, Filter::All) {
            return Reply::json(items, call.pretty);
        }
        let chosen: Vec<&T> = items.iter().filter(|i| filter.accepts(*i)).collect();
        Reply::json(&chosen, call.pretty)
    }
}

impl Call<'_> {
    /// The question without what does not change its answer. Parts have their lengths before them: they come from the
    /// client and may hold any character, and no two questions may share an answer.
    fn question(&self) -> String {
        let mut key = String::with_capacity(64);
        let mut part = |text: &str| {
            key.push_str(itoa::Buffer::new().format(text.len()));
            key.push(':');
            key.push_str(text);
        };
        part(itoa::Buffer::new().format(self.endpoint as usize));
        part(self.rest);
        for (name, value) in self.query.pairs() {
            if !ASKING.contains(&name) {
                part(name);
                part(value);
            }
        }
        key
    }
}

/// Parameters that say how to ask, not for what.
const ASKING: [&str; 10] =
    ["index", "wait", "stale", "consistent", "leader", "max_stale", "cached", "token", "dc", "hash"];
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

/// Whether every `%` is followed by two hexadecimal digits.
fn escapes_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|part| {
        let digits = part.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

fn value_fits(size: usize) -> Result<(), Reply> {
    if size <= kv::LARGEST_VALUE {
        return Ok(());
    }
    let text = format!("Value for key is too large ({size} > {} bytes)", kv::LARGEST_VALUE);
    Err(Reply::text(StatusCode::PAYLOAD_TOO_LARGE, &text))
}

/// The path without empty, `.` and `..` parts, if it has any.
fn cleaned(path: &str) -> Option<String> {
    let dirty = path.contains("//")
        || path.contains("/./")
        || path.contains("/../")
        || path.ends_with("/.")
        || path.ends_with("/..");
    if !dirty {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    Some(clean)
}

fn moved(parts: &http::request::Parts, path: &str) -> Reply {
    const KEEP: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b',')
        .remove(b':')
        .remove(b';')
        .remove(b'=')
        .remove(b'@');
    let mut location = percent_encoding::utf8_percent_encode(path, KEEP).to_string();
    if let Some(query) = parts.uri.query() {
        location = format!("{location}?{query}");
    }
    let mut reply = Reply::empty(StatusCode::MOVED_PERMANENTLY).with_header("location", &location);
    if parts.method == Method::GET || parts.method == Method::HEAD {
        reply = reply.with_header("content-type", "text/html; charset=utf-8");
        let shown = location.replace('&', "&amp;").replace('"', "&#34;");
        reply.body = Bytes::from(format!("<a href=\"{shown}\">Moved Permanently</a>.\n\n"));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(endpoint: E, rest: &str, query: &str) -> String {
        let (method, headers) = (Method::GET, HeaderMap::new());
        let (query, body) = (Query::parse(query), Bytes::new());
        Call { endpoint, method: &method, headers: &headers, query, rest, body, pretty: false }.question()
    }

    #[test]
    fn no_two_questions_share_an_answer() {
        let all = [
            question(E::HealthService, "web", ""),
            question(E::CatalogService, "web", ""),
            question(E::HealthService, "we", "b"),
            question(E::HealthService, "web", "passing"),
            question(E::HealthService, "web", "pretty"),
            question(E::HealthService, "web", "tag=a&tag=b"),
            question(E::HealthService, "web", "tag=b&tag=a"),
            question(E::HealthService, "web", "tag=a%001:tag1:b"),
            question(E::HealthService, "web", "tag=a3:tag1:b"),
            question(E::HealthService, "web", "tag=a&node-meta=b:c"),
            question(E::HealthService, "web", "tag=a&node-meta=b&c"),
            question(E::HealthService, "web", "filter=Node.Node==a"),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }

    #[test]
    fn how_one_asks_makes_no_other_question() {
        let plain = question(E::HealthService, "web", "passing");
        assert_eq!(question(E::HealthService, "web", "index=7&passing&wait=5m&stale&token=x&dc=dc1"), plain);
    }

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(cleaned("/v1/kv/a//b").as_deref(), Some("/v1/kv/a/b"));
        assert_eq!(cleaned("/v1/kv//a/").as_deref(), Some("/v1/kv/a/"));
        assert_eq!(cleaned("/v1/kv/a/../b").as_deref(), Some("/v1/kv/b"));
        assert_eq!(cleaned("/v1/kv/a.b/..c"), None);
    }
}
