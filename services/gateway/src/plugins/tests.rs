//! Chains as a whole: order, scopes, phases. Also the small gateway other plugin tests run in.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, response};
use plinth_kong::{Config, Format, load};

use super::*;
use crate::context::{
    ClientConnection, EarlyBody, EarlyResponse, Outcome, RequestContext, RequestId, Source, Timing,
};
use crate::offload::{Offload, OffloadSettings};
use crate::router::Router;
use crate::snapshot::Snapshot;

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
    /// From the file's YAML, format 3.0 put in front.
    pub fn new(body: &str) -> Gateway {
        Gateway::with(body, Options::default())
    }

    pub fn with(body: &str, options: Options) -> Gateway {
        let registry = prometheus::Registry::new();
        let control = tokio::runtime::Handle::current();
        let offload = Offload::new(control.clone(), OffloadSettings::default(), &registry).unwrap();
        let env = Env { registry: registry.clone(), control, options, offload };
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
                tls: false,
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
            reply_headers: HeaderMap::new(),
            carried: http::Extensions::new(),
            timing: Timing::start(),
            tries: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    pub fn get(&self, uri: &str, headers: &[(&'static str, &str)]) -> RequestContext {
        self.request(Method::GET, uri, headers)
    }

    /// The access phase of the first route.
    pub async fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        self.compiled.chain(0).access(ctx).await
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
        routes: Vec::new(),
        unmatched,
        upstreams: Default::default(),
    }
}

/// Status and JSON body of an answer.
pub(super) fn told(answer: &EarlyResponse) -> (u16, String) {
    let body = match &answer.body {
        EarlyBody::Empty => String::new(),
        EarlyBody::Error(message) => format!("error: {message}"),
        EarlyBody::Verbatim(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
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
        gateway.compiled.chain(route).access(&mut ctx).await.unwrap().status.as_u16()
    };
    assert_eq!(status(0, "b").await, 502, "route before service before global");
    assert_eq!(status(0, "a").await, 503, "consumer before route");
    assert_eq!(status(1, "b").await, 501, "a disabled one hides nothing");
}

#[tokio::test]
async fn termination_messages_and_triggers() {
    for (config, expected) in [
        ("{}", (503, "{\"message\":\"Service unavailable\"}")),
        ("{status_code: 404}", (404, "{\"message\":\"Not found\"}")),
        ("{status_code: 418}", (418, "")),
        ("{status_code: 200, message: hi}", (200, "{\"message\":\"hi\"}")),
        ("{status_code: 200, body: <a/>, content_type: text/xml}", (200, "<a/>")),
    ] {
        let gateway = with_route(&format!("plugins: [{{name: request-termination, config: {config}}}]"));
        let answer = gateway.access(&mut gateway.get("/", &[])).await.unwrap();
        assert_eq!(told(&answer), (expected.0, expected.1.to_owned()), "{config}");
    }
    let gateway = with_route("plugins: [{name: request-termination, config: {trigger: stop}}]");
    assert!(gateway.access(&mut gateway.get("/", &[])).await.is_none());
    assert!(gateway.access(&mut gateway.get("/?stop=1", &[])).await.is_some());
    assert!(gateway.access(&mut gateway.get("/", &[("stop", "1")])).await.is_some());
}

#[tokio::test]
async fn key_auth_finds_hides_and_refuses() {
    let gateway = with_route(
        "plugins: [{name: key-auth, config: {hide_credentials: true, realm: x}}]
consumers: [{username: u, custom_id: c, keyauth_credentials: [{key: k}]}]",
    );
    let mut ctx = gateway
        .get("/?a=1&apikey=k&b=2", &[("x-consumer-username", "forged"), ("x-anonymous-consumer", "true")]);
    assert!(gateway.access(&mut ctx).await.is_none());
    assert_eq!(ctx.upstream_query.as_deref(), Some("a=1&b=2"));
    assert_eq!(ctx.head.headers["x-consumer-username"], "u");
    assert_eq!(ctx.head.headers["x-consumer-custom-id"], "c");
    assert!(!ctx.head.headers.contains_key("x-anonymous-consumer"));
    let refused = async |uri: &str, headers: &[(&'static str, &str)]| {
        let answer = gateway.access(&mut gateway.get(uri, headers)).await.unwrap();
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Key realm=\"x\"");
        told(&answer).1
    };
    assert_eq!(refused("/", &[]).await, "error: No API key found in request");
    assert_eq!(refused("/?apikey=no", &[]).await, "error: Unauthorized");
    assert_eq!(refused("/?apikey=a&apikey=b", &[]).await, "error: Duplicate API key found");
    assert_eq!(refused("/?apikey=k", &[("apikey", "no")]).await, "error: Unauthorized");
}

#[tokio::test]
async fn anonymous_goes_on_without_a_credential() {
    let gateway =
        with_route("plugins: [{name: key-auth, config: {anonymous: guest}}]\nconsumers: [{username: guest}]");
    let mut ctx = gateway.get("/", &[("x-credential-identifier", "forged")]);
    assert!(gateway.access(&mut ctx).await.is_none());
    assert_eq!(ctx.head.headers["x-anonymous-consumer"], "true");
    assert_eq!(ctx.head.headers["x-consumer-username"], "guest");
    assert!(!ctx.head.headers.contains_key("x-credential-identifier"));
    assert!(ctx.credential.is_none());
    let broken = with_route("plugins: [{name: key-auth, config: {anonymous: nobody}}]");
    let answer = broken.access(&mut broken.get("/", &[])).await.unwrap();
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn correlation_ids_are_kept_or_made() {
    let gateway = with_route("plugins: [{name: correlation-id, config: {echo_downstream: true}}]");
    let mut ctx = gateway.get("/", &[("kong-request-id", "mine")]);
    gateway.access(&mut ctx).await;
    assert_eq!(ctx.reply_headers["kong-request-id"], "mine");
    let mut ctx = gateway.get("/", &[]);
    gateway.access(&mut ctx).await;
    assert!(ctx.head.headers["kong-request-id"].to_str().unwrap().ends_with("#1"));
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
        (answer, ctx.reply_headers)
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
    let again = gateway.runtime.compile(&config).unwrap();
    let mut next = gateway.get("/", &[("who", "a")]);
    next.timing = ctx.timing;
    again.chain(0).access(&mut next).await;
    assert_eq!(next.reply_headers["x-ratelimit-remaining-minute"], "1");
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
    assert!(chain.logs() && chain.wants_response_headers());
    let mut ctx =
        gateway.get("/a?x=1&x=2&y=z", &[("host", "api.example"), ("authorization", "Bearer s3cret")]);
    ctx.outcome.status = StatusCode::TOO_MANY_REQUESTS;
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
    assert_eq!(entry["latencies"]["proxy"], -1);
    assert_eq!((&entry["route"]["name"], &entry["service"]["name"]), (&"r".into(), &"s".into()));
    assert_eq!((&entry["client_ip"], &entry["source"]), (&"192.0.2.7".into(), &"kong".into()));
}
