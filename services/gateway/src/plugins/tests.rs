//! Chains as a whole: order, scopes, phases. Also the small gateway other plugin tests run in.

mod auth;
mod traffic;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, response};
use http_body_util::{BodyExt, Full};
use plinth_kong::{Config, Format, load};

use super::*;
use crate::client::RequestBody;
use crate::context::{
    ClientConnection, Credential, EarlyBody, EarlyResponse, Outcome, ReplyHeaders, RequestContext, RequestId,
    Source, Timing, Try, TryState,
};
use crate::router::Router;
use crate::snapshot::Snapshot;

/// The headers that plugins have set for the answer.
pub(super) fn replies(ctx: &RequestContext) -> HeaderMap {
    let mut headers = HeaderMap::new();
    ctx.reply_headers.clone().move_to(&mut headers);
    headers
}

/// A compiled file, without sockets.
pub(super) struct Gateway {
    pub registry: prometheus::Registry,
    pub runtime: Runtime,
    pub compiled: Compiled,
    // The shape RequestContext has it in.
    #[allow(clippy::redundant_allocation)]
    snapshot: Rc<Arc<Snapshot>>,
}

impl Gateway {
    /// From the file's YAML, format 3.0 put in front. A Redis that answers is in time, however busy the machine is.
    pub fn new(body: &str) -> Gateway {
        Gateway::with(body, Options { redis_deadline: Duration::from_secs(5), ..Options::default() })
    }

    pub fn with(body: &str, options: Options) -> Gateway {
        let registry = prometheus::Registry::new();
        let control = tokio::runtime::Handle::current();
        let env = Env { registry: registry.clone(), control, options };
        let runtime = Runtime::new(env).unwrap();
        let loaded = load(&format!("_format_version: \"3.0\"\n{body}"), Format::Yaml);
        let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
        let compiled = runtime.compile(&config).unwrap_or_else(|faults| panic!("{faults:?}"));
        let snapshot = snapshot(config, compiled.unmatched());
        Gateway { registry, runtime, compiled, snapshot: Rc::new(Arc::new(snapshot)) }
    }

    pub fn request(&self, method: Method, uri: &str, headers: &[(&'static str, &str)]) -> RequestContext {
        let (mut head, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        for (name, value) in headers {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
        RequestContext {
            head,
            client: Rc::new(ClientConnection {
                peer,
                peer_ip_text: HeaderValue::from_static("192.0.2.7"),
                trusted: false,
                local_port: 8000,
                tls: None,
                sni: None,
                proxied: None,
            }),
            client_ip: peer.ip(),
            request_id: RequestId::new(),
            snapshot: Rc::clone(&self.snapshot),
            route: None,
            captures: Vec::new(),
            upstream_path: None,
            upstream_query: None,
            upstream_host: None,
            stripped_prefix: None,
            consumer: None,
            credential: None,
            reply_headers: ReplyHeaders::default(),
            bodies: Default::default(),
            carried: http::Extensions::new(),
            timing: Timing::start(),
            tries: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    pub fn get(&self, uri: &str, headers: &[(&'static str, &str)]) -> RequestContext {
        self.request(Method::GET, uri, headers)
    }

    /// The access phase of the first route, of a request without a body.
    pub async fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        self.access_on(0, ctx).await
    }

    /// The access phase of any route.
    pub async fn access_on(&self, route: usize, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        self.access_with(route, ctx, &mut RequestBody::empty(false)).await
    }

    async fn access_with(
        &self,
        route: usize,
        ctx: &mut RequestContext,
        body: &mut RequestBody,
    ) -> Option<EarlyResponse> {
        let mut source = BodySource { body, limit: 1024, timeout: Duration::from_secs(5) };
        self.compiled.chain(route).access(ctx, &mut source).await
    }

    /// The access phase of a request with a body; the body as it goes upstream.
    pub async fn send(&self, ctx: &mut RequestContext, body: &str) -> Result<String, Box<EarlyResponse>> {
        let full = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {});
        let mut body = RequestBody::boxed(full.boxed_unsync(), 1024);
        if let Some(answer) = self.access_with(0, ctx, &mut body).await {
            return Err(Box::new(answer));
        }
        let bytes = body.gather(4096, Duration::from_secs(5)).await.unwrap();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// The header phase on an answer of the upstream.
    pub fn answer(&self, ctx: &mut RequestContext, headers: &[(&'static str, &str)]) -> response::Parts {
        let (mut head, ()) = http::Response::new(()).into_parts();
        for (name, value) in headers {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        self.compiled.chain(0).header(ctx, &mut head);
        head
    }
}

fn snapshot(config: Config, unmatched: Chain) -> Snapshot {
    Snapshot {
        generation: 1,
        hash: String::new(),
        router: Router::new(&config).unwrap(),
        config: Arc::new(config),
        routes: Default::default(),
        unmatched,
        upstreams: Default::default(),
    }
}

/// Status and JSON body of an answer.
pub(super) fn told(answer: &EarlyResponse) -> (u16, String) {
    let body = match &answer.body {
        EarlyBody::Empty => String::new(),
        EarlyBody::Error(message) => format!("error: {message}"),
        EarlyBody::Verbatim(bytes) | EarlyBody::Kept(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
    };
    (answer.status.as_u16(), body)
}

const ROUTE: &str = "services: [{name: s, host: h, routes: [{name: r, paths: [/]}]}]\n";

fn with_route(plugins: &str) -> Gateway {
    Gateway::new(&format!("{ROUTE}{plugins}"))
}

#[tokio::test]
async fn priority_orders_not_the_file() {
    let gateway = with_route(
        "plugins: [{name: request-termination, config: {status_code: 418}}, {name: key-auth}, {name: correlation-id}]",
    );
    let mut ctx = gateway.get("/", &[]);
    let refused = gateway.access(&mut ctx).await.unwrap();
    assert_eq!(told(&refused), (401, "error: No API key found in request".to_owned()));
    assert!(ctx.head.headers.contains_key("kong-request-id"), "correlation-id runs before authentication");
}

#[tokio::test]
async fn the_most_specific_configuration_runs_alone() {
    let gateway = Gateway::new(
        "
services:
- name: s
  host: h
  plugins: [{name: request-termination, config: {status_code: 501}}]
  routes:
  - {name: r, paths: [/], plugins: [{name: request-termination, config: {status_code: 502}}]}
  - {name: q, paths: [/q], plugins: [{name: request-termination, enabled: false, config: {status_code: 505}}]}
plugins:
- {name: request-termination, config: {status_code: 500}}
- {name: key-auth}
consumers:
- {username: special, keyauth_credentials: [{key: a}], plugins: [{name: request-termination, config: {status_code: 503}}]}
- {username: normal, keyauth_credentials: [{key: b}]}
",
    );
    let status = async |route: usize, key: &str| {
        let mut ctx = gateway.get("/", &[("apikey", key)]);
        gateway.access_on(route, &mut ctx).await.unwrap().status.as_u16()
    };
    assert_eq!(status(0, "b").await, 502, "route before service before global");
    assert_eq!(status(0, "a").await, 503, "consumer before route");
    assert_eq!(status(1, "b").await, 501, "a disabled one hides nothing");
}

#[tokio::test]
async fn correlation_ids_are_kept_or_made() {
    let gateway = with_route("plugins: [{name: correlation-id, config: {echo_downstream: true}}]");
    let mut ctx = gateway.get("/", &[("kong-request-id", "mine")]);
    gateway.access(&mut ctx).await;
    assert_eq!(replies(&ctx)["kong-request-id"], "mine");
    let mut ctx = gateway.get("/", &[]);
    gateway.access(&mut ctx).await;
    assert!(ctx.head.headers["kong-request-id"].to_str().unwrap().ends_with("#1"));
    assert!(gateway.access(&mut gateway.get("/", &[("kong-request-id", "")])).await.is_none());
    for (generator, pattern) in [
        ("uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
        ("uuid#counter", "^[0-9a-f-]{36}#1$"),
        ("tracker", r"^192\.0\.2\.7-8000-\d+-4711-1-\d{10}\.\d{3}$"),
    ] {
        let gateway = with_route(&format!(
            "plugins: [{{name: correlation-id, config: {{generator: '{generator}', header_name: X-Trace}}}}]"
        ));
        let mut ctx = gateway.get("/", &[]);
        gateway.access(&mut ctx).await;
        let made = ctx.head.headers["x-trace"].to_str().unwrap();
        assert!(regex::Regex::new(pattern).unwrap().is_match(made), "{generator}: {made}");
        assert!(!replies(&ctx).contains_key("x-trace"), "not echoed unless asked for");
    }
}

const LIMITS: &str =
    "plugins: [{name: rate-limiting, config: {minute: 3, hour: 100, limit_by: header, header_name: who}}]";

#[tokio::test]
async fn limits_are_exact_and_headers_kongs() {
    let gateway = with_route(LIMITS);
    let now = Timing::start();
    let ask = async |who: &str| {
        let mut ctx = gateway.get("/", &[("who", who)]);
        ctx.timing = now;
        let answer = gateway.access(&mut ctx).await;
        (answer, replies(&ctx))
    };
    for left in ["2", "1", "0"] {
        let (answer, headers) = ask("a").await;
        assert!(answer.is_none());
        assert_eq!(headers["x-ratelimit-limit-minute"], "3");
        assert_eq!(headers["x-ratelimit-remaining-minute"], left);
        assert_eq!(headers["x-ratelimit-limit-hour"], "100");
        assert_eq!(
            (&headers["ratelimit-limit"], &headers["ratelimit-remaining"]),
            (&HeaderValue::from(3), &HeaderValue::from_str(left).unwrap())
        );
        assert!(headers["ratelimit-reset"].to_str().unwrap().parse::<u64>().unwrap() <= 60);
    }
    for _ in 0..3 {
        let (answer, headers) = ask("a").await;
        let answer = answer.unwrap();
        assert_eq!(told(&answer), (429, "error: API rate limit exceeded".to_owned()));
        assert_eq!(answer.headers[header::RETRY_AFTER], headers["ratelimit-reset"]);
        assert_eq!(headers["x-ratelimit-remaining-hour"], "97", "a refused request costs nothing");
    }
    assert!(ask("b").await.0.is_none(), "another client is not affected");
}

#[tokio::test]
async fn counters_survive_a_new_configuration() {
    let gateway = with_route(LIMITS);
    let mut ctx = gateway.get("/", &[("who", "a")]);
    gateway.access(&mut ctx).await;
    let config = load(&format!("_format_version: \"3.0\"\n{ROUTE}{LIMITS}"), Format::Yaml).unwrap().config;
    let again = Gateway { compiled: gateway.runtime.compile(&config).unwrap(), ..gateway };
    let mut next = again.get("/", &[("who", "a")]);
    next.timing = ctx.timing;
    again.access(&mut next).await;
    assert_eq!(replies(&next)["x-ratelimit-remaining-minute"], "1");
}

#[tokio::test]
async fn hidden_limits_still_refuse() {
    let gateway = with_route(
        "plugins: [{name: rate-limiting, config: {year: 1, hide_client_headers: true, error_code: 418, error_message: slow}}]",
    );
    assert!(gateway.access(&mut gateway.get("/", &[])).await.is_none());
    let mut ctx = gateway.get("/", &[]);
    let answer = gateway.access(&mut ctx).await.unwrap();
    assert_eq!(told(&answer), (418, "error: slow".to_owned()));
    assert!(ctx.reply_headers.is_empty() && answer.headers.is_empty());
}

#[tokio::test]
async fn metrics_have_kongs_names_and_labels() {
    let gateway = with_route(
        "plugins: [{name: prometheus, config: {per_consumer: true, status_code_metrics: true, latency_metrics: true, bandwidth_metrics: true}}]",
    );
    let mut ctx = gateway.get("/x", &[]);
    ctx.outcome.status = StatusCode::OK;
    ctx.outcome.source = Source::Upstream;
    ctx.outcome.response_body_bytes = 10;
    ctx.timing.end = Some(ctx.timing.start);
    for _ in 0..2 {
        gateway.compiled.chain(0).log(&ctx);
    }
    // Requests without a route are not counted.
    gateway.compiled.unmatched().log(&ctx);
    let text = prometheus::TextEncoder::new().encode_to_string(&gateway.registry.gather()).unwrap();
    for line in [
        "kong_http_requests_total{code=\"200\",consumer=\"\",route=\"r\",service=\"s\",source=\"service\",workspace=\"default\"} 2",
        "kong_bandwidth_bytes{consumer=\"\",direction=\"egress\",route=\"r\",service=\"s\",workspace=\"default\"} 20",
        "kong_request_latency_ms_bucket{route=\"r\",service=\"s\",workspace=\"default\",le=\"25\"} 2",
        "kong_kong_latency_ms_count{route=\"r\",service=\"s\",workspace=\"default\"} 2",
    ] {
        assert!(text.contains(line), "{line} missing in\n{text}");
    }
}

#[tokio::test]
async fn log_lines_are_kongs_entries_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let gateway = with_route(&format!(
        "plugins: [{{name: file-log, config: {{path: {}, reopen: true}}}}]",
        path.display()
    ));
    let chain = gateway.compiled.chain(0);
    assert!(chain.logs());
    let mut ctx =
        gateway.get("/a?x=1&x=2&y=z", &[("host", "Api.example:80"), ("authorization", "Bearer s3cret")]);
    ctx.outcome.status = StatusCode::TOO_MANY_REQUESTS;
    let mut answered = HeaderMap::new();
    for (name, value) in [("x-a", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=\"2\"")] {
        answered.append(name, HeaderValue::from_static(value));
    }
    ctx.outcome.response_headers = chain.logged_headers(&answered);
    for (state, status) in [(TryState::TimedOut, None), (TryState::Answered, Some(StatusCode::OK))] {
        let (address, after) = ("192.0.2.9:80".parse().unwrap(), Duration::from_millis(5));
        ctx.tries.push(Try { address, after, state, status });
    }
    let id = uuid::Uuid::new_v4();
    let (username, tags) = (Some("b\"b".to_owned()), Vec::new());
    ctx.consumer = Some(Arc::new(plinth_kong::Consumer { id, username, custom_id: None, tags }));
    ctx.credential = Some(Credential { id: "key".into(), identifier: "key".into() });
    chain.log(&ctx);
    gateway.runtime.flush();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n') && !text.contains("s3cret"));
    let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(entry["request"]["uri"], "/a?x=1&x=2&y=z");
    assert_eq!(entry["request"]["url"], "http://api.example:8000/a?x=1&x=2&y=z");
    assert_eq!(entry["request"]["querystring"], serde_json::json!({"x": ["1", "2"], "y": "z"}));
    assert_eq!(entry["request"]["headers"]["authorization"], "REDACTED");
    assert_eq!(entry["response"]["status"], 429);
    assert_eq!(
        entry["response"]["headers"],
        serde_json::json!({"x-a": "1", "set-cookie": ["a=1", "b=\"2\""]})
    );
    assert_eq!(entry["upstream_status"], "504, 200");
    let tried = &entry["tries"][0];
    assert_eq!(
        (&tried["ip"], &tried["port"], &tried["code"]),
        (&"192.0.2.9".into(), &80.into(), &504.into())
    );
    let began = entry["started_at"].as_u64().unwrap() + 5;
    assert_eq!(tried["balancer_start"].as_u64().map(|at| at.abs_diff(began) <= 1), Some(true), "{tried}");
    assert_eq!(entry["consumer"]["username"], "b\"b");
    assert_eq!(entry["authenticated_entity"]["id"], "key");
    assert_eq!(entry["latencies"]["proxy"], -1);
    assert_eq!((&entry["route"]["name"], &entry["service"]["name"]), (&"r".into(), &"s".into()));
    assert_eq!((&entry["client_ip"], &entry["source"]), (&"192.0.2.7".into(), &"kong".into()));
}
