//! A whole service in this process: standard routes, problems, limits, and its end in stages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plinth_kit::auth::{AuthSettings, Caller, TokenKey};
use plinth_kit::lifecycle::{Shutdown, ShutdownSettings};
use plinth_kit::problem::{Json, Problem};
use plinth_kit::settings::{Reader, Sources};
use plinth_kit::{App, AppBuilder, AppError, Context, Probe, Routes, Service, ServiceSettings, healthcheck};
use plinth_testbed::http_client::{get as fetch, send};
use plinth_testbed::{eventually, holds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use utoipa::OpenApi;

const SERVICE: Service = Service::new("test-service", "1.2.3").port(0);
const LIMIT: Duration = Duration::from_secs(5);

#[derive(OpenApi)]
#[openapi(info(title = "test-service"))]
struct Document;

#[derive(Serialize, Deserialize)]
struct Order {
    name: String,
    count: u16,
}

struct Running {
    app: App,
    base: String,
    gate: Arc<Notify>,
}

fn settings(args: &[&str]) -> ServiceSettings {
    let mut all = vec!["--register", "false", "--consul-address", "127.0.0.1:1"];
    if !args.contains(&"--shutdown-drain-delay") {
        all.extend(["--shutdown-drain-delay", "0"]);
    }
    all.extend(args);
    let args = all.iter().map(|arg| (*arg).to_owned()).collect();
    let mut reader = Reader::new(&Sources::new("test-service", args, Default::default(), None).unwrap());
    let settings = ServiceSettings::read(&mut reader, &SERVICE);
    reader.finish().unwrap();
    settings
}

async fn context_of(settings: ServiceSettings) -> Context {
    let shutdown = Shutdown::new(settings.shutdown);
    Context::new(&SERVICE, settings, shutdown, tokio::runtime::Handle::current()).await.unwrap()
}

fn routes(gate: Arc<Notify>) -> Router {
    let slow = move || async move {
        gate.notified().await;
        "done"
    };
    Router::new()
        .route("/orders", post(|Json(order): Json<Order>| async move { Json(order) }))
        .route("/orders/{id}", get(|| async { "order" }))
        .route("/slow", get(slow))
        .route("/panic", get(|| async { panic!("secret detail") as &'static str }))
        .route("/broken", get(|| async { Problem::internal(&std::io::Error::other("secret detail")) }))
        .route("/who", get(|caller: Caller| async move { caller.subject().to_owned() }))
        .route("/write", get(|caller: Caller| async move { caller.require("services", "write", Some("a")) }))
}

async fn start_with(context: &Context, build: impl FnOnce(AppBuilder) -> AppBuilder) -> Running {
    let gate = Arc::new(Notify::new());
    let listener = context.bind().await.unwrap();
    let base = format!("http://{}", listener.address());
    let router = context.router(Routes::new(routes(gate.clone())), Document::openapi()).unwrap();
    let app = build(AppBuilder::new(context).http(listener, router)).start().await.unwrap();
    Running { app, base, gate }
}

async fn start(args: &[&str]) -> Running {
    start_with(&context_of(settings(args)).await, |builder| builder).await
}

fn body_of(answer: &http::Response<bytes::Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|_| panic!("no JSON: {answer:?}"))
}

fn assert_problem(answer: &http::Response<bytes::Bytes>, status: u16) -> Value {
    assert_eq!(answer.status().as_u16(), status, "{answer:?}");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let body = body_of(answer);
    assert_eq!(body["status"], status);
    assert!(!body.to_string().contains("secret"), "details of a failure must stay in the log: {body}");
    body
}

#[tokio::test]
async fn answers_the_routes_that_every_service_has() {
    let context = context_of(settings(&[])).await;
    let database = context.readiness.condition("database");
    context.components.add("database", true, || async { Ok(json!({"pool": 3})) });
    let running = start_with(&context, |builder| builder).await;
    let base = &running.base;

    let health = fetch(&format!("{base}/health")).await.unwrap();
    let body = body_of(&health);
    assert_eq!(health.status(), 200);
    assert_eq!(body["status"], "degraded", "Consul is away, and not critical: {body}");
    assert_eq!(body["version"], "1.2.3");
    assert_eq!(body["checks"]["database"], json!({"status": "pass", "details": {"pool": 3}}));
    assert_eq!(body["checks"]["consul"]["status"], "fail");
    assert!(body["uptime"].is_f64());
    assert!(body["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    for part in ["cpu", "memory", "disk"] {
        assert!(body["metadata"]["system"][part].is_object(), "{body}");
    }

    assert_eq!(fetch(&format!("{base}/health/live")).await.unwrap().status(), 200);
    let ready = fetch(&format!("{base}/health/ready")).await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(body_of(&ready)["missing"], json!(["database"]));
    database.meet();
    assert_eq!(fetch(&format!("{base}/health/ready")).await.unwrap().status(), 200);

    context.components.add("database", true, || async { Err("away".to_owned()) });
    eventually("a failing critical component makes it unhealthy", LIMIT, || async {
        let answer = fetch(&format!("{base}/health")).await.unwrap();
        holds(answer.status() == 503 && body_of(&answer)["status"] == "unhealthy", format!("{answer:?}"))
    })
    .await;

    let document = body_of(&fetch(&format!("{base}/openapi.json")).await.unwrap());
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let docs = fetch(&format!("{base}/docs/")).await.unwrap();
    assert!(String::from_utf8_lossy(docs.body()).contains("swagger-ui"), "{docs:?}");
    let script = fetch(&format!("{base}/docs/swagger-ui-bundle.js")).await.unwrap();
    assert!(script.status() == 200 && script.body().len() > 100_000, "the interface comes from the binary");
}

#[tokio::test]
async fn the_status_listener_has_health_and_metrics_and_nothing_else() {
    let context = context_of(settings(&["--status-listen", "127.0.0.1:0"])).await;
    let database = context.readiness.condition("database");
    context.components.add("database", true, || async { Ok(json!({})) });
    let running = start_with(&context, |builder| builder).await;
    let names: Vec<_> = running.app.addresses().iter().map(|listening| listening.name).collect();
    assert_eq!(names, ["http", "status"]);
    let status = running.app.addresses()[1].address;
    let get = async |path: &str| fetch(&format!("http://{status}{path}")).await.unwrap();
    assert_eq!(get("/health/live").await.status(), 200);
    assert_eq!(get("/health/ready").await.status(), 503);
    assert_problem(&get("/orders/1").await, 404);
    assert_problem(&get("/openapi.json").await, 404);

    healthcheck(status, Probe::Live).await.unwrap();
    let why = plinth_kit::problem::chain(&healthcheck(status, Probe::Ready).await.unwrap_err());
    assert!(why.contains("503") && why.contains("database"), "{why}");
    let metrics = async || String::from_utf8(get("/metrics").await.body().to_vec()).unwrap();
    let text = metrics().await;
    assert!(
        text.contains(r#"plinth_component_up{component="database",plinth_service="test-service"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"plinth_component_up{component="consul",plinth_service="test-service"} 0"#),
        "{text}"
    );
    assert!(text.contains("plinth_ready{plinth_service=\"test-service\"} 0"), "{text}");
    database.meet();
    healthcheck(status, Probe::Ready).await.unwrap();
    assert!(metrics().await.contains("plinth_ready{plinth_service=\"test-service\"} 1"));
}

#[tokio::test]
async fn answers_every_error_with_a_problem() {
    let running = start(&["--server-max-body", "1KiB", "--server-request-timeout", "200ms"]).await;
    let base = &running.base;
    let at = |path: &str| format!("{base}{path}");
    assert_eq!(assert_problem(&fetch(&at("/nowhere?x=1")).await.unwrap(), 404)["instance"], "/nowhere");
    let method = send(Method::DELETE, &at("/orders"), &[], "").await.unwrap();
    assert_problem(&method, 405);
    assert_eq!(method.headers()["allow"], "POST");
    assert_problem(&fetch(&at("/panic")).await.unwrap(), 500);
    assert_problem(&fetch(&at("/broken")).await.unwrap(), 500);
    assert_problem(&fetch(&at("/slow")).await.unwrap(), 503);

    let json = [("content-type", "application/json")];
    let good = send(Method::POST, &at("/orders"), &json, r#"{"name":"a","count":1}"#).await.unwrap();
    assert_eq!(good.status(), 200);
    let wrong = send(Method::POST, &at("/orders"), &json, r#"{"name":"a","count":-1}"#).await.unwrap();
    assert_eq!(assert_problem(&wrong, 400)["errors"][0]["field"], "count");
    assert_problem(&send(Method::POST, &at("/orders"), &json, "{").await.unwrap(), 400);
    assert_problem(&send(Method::POST, &at("/orders"), &[], "{}").await.unwrap(), 415);
    let large = format!(r#"{{"name":"{}","count":1}}"#, "x".repeat(2000));
    assert_problem(&send(Method::POST, &at("/orders"), &json, large).await.unwrap(), 413);
}

#[tokio::test]
async fn counts_requests_with_bounded_labels() {
    let running = start(&[]).await;
    let base = &running.base;
    for path in ["/orders/1", "/orders/2", "/a", "/b"] {
        fetch(&format!("{base}{path}")).await.unwrap();
    }
    send(Method::from_bytes(b"BREW").unwrap(), &format!("{base}/orders/1"), &[], "").await.unwrap();
    let metrics = fetch(&format!("{base}/metrics")).await.unwrap();
    let text = String::from_utf8_lossy(metrics.body()).into_owned();
    for line in [
        r#"http_server_requests_total{method="GET",route="/orders/{id}",status="200",plinth_service="test-service"} 2"#,
        r#"http_server_requests_total{method="GET",route="unmatched",status="404",plinth_service="test-service"} 2"#,
        r#"http_server_requests_total{method="OTHER",route="/orders/{id}",status="405",plinth_service="test-service"} 1"#,
        r#"http_server_request_duration_seconds_count{method="GET",route="/orders/{id}",status="200",plinth_service="test-service"} 2"#,
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("/orders/1"), "paths are no labels");
}

#[tokio::test]
async fn asks_for_a_token_when_there_is_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(dir.path()).unwrap();
    let mut settings = settings(&[]);
    settings.auth = AuthSettings { keys_pem: vec![key.public_pem()], ..AuthSettings::default() };
    let running = start_with(&context_of(settings).await, |builder| builder).await;
    let ask = async |path: &str, token: Option<String>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        send(Method::GET, &format!("{}{path}", running.base), &headers, "").await.unwrap()
    };
    let token = |scope: &str| key.issue("ops", &[scope.parse().unwrap()], Duration::from_secs(60)).unwrap();

    let missing = ask("/who", None).await;
    assert_problem(&missing, 401);
    assert_eq!(missing.headers()["www-authenticate"], "Bearer realm=\"plinth\"");
    let junk = ask("/who", Some("junk".to_owned())).await;
    assert_problem(&junk, 401);
    assert!(junk.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    assert_eq!(ask("/who", Some(token("health:read"))).await.body(), "ops");
    let forbidden = ask("/write", Some(token("services:write:b"))).await;
    assert_problem(&forbidden, 403);
    assert!(forbidden.headers()["www-authenticate"].to_str().unwrap().contains("services:write:a"));
    assert_eq!(ask("/write", Some(token("services:write:a"))).await.status(), 200);
    assert_eq!(ask("/health", None).await.status(), 200, "health needs no token");
}

fn refused(base: &str) -> impl Future<Output = bool> + use<> {
    let address: SocketAddr = base.trim_start_matches("http://").parse().unwrap();
    async move { TcpStream::connect(address).await.is_err() }
}

#[tokio::test]
async fn drains_before_it_stops() {
    let running = start(&["--shutdown-drain-delay", "2s", "--shutdown-timeout", "10s"]).await;
    let base = running.base.clone();
    let slow = tokio::spawn({
        let url = format!("{base}/slow");
        async move { fetch(&url).await }
    });
    eventually("the slow request is under way", LIMIT, || async {
        holds(running.app.context().metrics.http.in_flight.get() > 0, "not yet")
    })
    .await;

    let begin = Instant::now();
    running.app.context().shutdown.request();
    eventually("not ready", LIMIT, || async {
        let ready = fetch(&format!("{base}/health/ready")).await.unwrap();
        holds(
            ready.status() == 503 && body_of(&ready)["missing"] == json!(["shutdown"]),
            format!("{ready:?}"),
        )
    })
    .await;
    let served = fetch(&format!("{base}/orders/1")).await.unwrap();
    assert_eq!(served.status(), 200, "still serves while it drains");
    assert_eq!(served.headers()["connection"], "close", "and asks clients to go elsewhere");

    eventually("the listener is closed", LIMIT, || async { holds(refused(&base).await, "still accepting") })
        .await;
    assert!(begin.elapsed() >= Duration::from_secs(2), "not before the drain delay");
    assert!(!slow.is_finished(), "the running request goes on");
    running.gate.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().body(), "done");
    tokio::time::timeout(LIMIT, running.app.finished()).await.unwrap().unwrap();
}

#[tokio::test]
async fn closes_idle_connections_politely() {
    let running = start(&[]).await;
    let mut idle = TcpStream::connect(running.base.trim_start_matches("http://")).await.unwrap();
    idle.write_all(b"GET /orders/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    running.app.context().shutdown.request();
    tokio::time::timeout(LIMIT, running.app.finished())
        .await
        .expect("an idle connection holds nothing up")
        .unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed, not reset");
}

#[tokio::test]
async fn cuts_off_what_does_not_end() {
    let running = start(&["--shutdown-timeout", "300ms"]).await;
    let url = format!("{}/slow", running.base);
    let stuck = tokio::spawn(async move { fetch(&url).await });
    eventually("the request is under way", LIMIT, || async {
        holds(running.app.context().metrics.http.in_flight.get() > 0, "not yet")
    })
    .await;
    let shutdown = running.app.context().shutdown.clone();
    let metrics = running.app.context().metrics.clone();
    shutdown.request();
    tokio::time::timeout(LIMIT, running.app.finished()).await.unwrap().unwrap();
    assert!(stuck.await.unwrap().is_err(), "cut off");
    eventually("nothing is counted as running", LIMIT, || async {
        let count = metrics.http.in_flight.get();
        holds(count == 0, count.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_failed_or_panicked_task_ends_the_service() {
    for panics in [false, true] {
        let context = context_of(settings(&[])).await;
        let running = start_with(&context, |builder| {
            builder
                .task("good", |stop| async move {
                    stop.cancelled().await;
                    Ok::<_, std::io::Error>(())
                })
                .task("bad", move |_| async move {
                    assert!(!panics, "out of luck");
                    Err(std::io::Error::other("disk full"))
                })
        })
        .await;
        let error = tokio::time::timeout(LIMIT, running.app.finished()).await.unwrap().unwrap_err();
        match error {
            AppError::Task { name: "bad", source } => assert!(!panics && source.to_string() == "disk full"),
            AppError::Panicked { name: "bad", message } => assert!(panics && message == "out of luck"),
            other => panic!("{other:?}"),
        }
        assert!(refused(&running.base).await, "the listener is gone");
    }
}

#[tokio::test]
async fn tasks_end_after_the_last_request() {
    let context = context_of(settings(&[])).await;
    let metrics = context.metrics.clone();
    let (seen, in_flight_at_stop) = tokio::sync::oneshot::channel();
    let running = start_with(&context, |builder| {
        builder.task("watch", |stop| async move {
            stop.cancelled().await;
            let _ = seen.send(metrics.http.in_flight.get());
            Ok::<_, std::io::Error>(())
        })
    })
    .await;
    let url = format!("{}/slow", running.base);
    let slow = tokio::spawn(async move { fetch(&url).await });
    eventually("the request is under way", LIMIT, || async {
        holds(context.metrics.http.in_flight.get() > 0, "not yet")
    })
    .await;
    context.shutdown.request();
    eventually("the listener is closed", LIMIT, || async {
        holds(refused(&running.base).await, "accepting")
    })
    .await;
    running.gate.notify_one();
    slow.await.unwrap().unwrap();
    running.app.finished().await.unwrap();
    assert_eq!(in_flight_at_stop.await.unwrap(), 0);
}

#[tokio::test]
async fn speaks_http2_without_tls() {
    let running = start(&[]).await;
    let stream = TcpStream::connect(running.base.trim_start_matches("http://")).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::get(format!("{}/orders/1", running.base)).body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "order");
}

#[tokio::test]
async fn gives_slow_heads_no_place_and_limits_connections() {
    let running = start(&["--server-header-timeout", "200ms", "--server-max-connections", "1"]).await;
    let address = running.base.trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"GET /orders/1 HTTP/1.1\r\nhost:").await.unwrap();
    // The only place is taken; the next one waits until the slow one is thrown out, then is served.
    let begin = Instant::now();
    let next =
        tokio::time::timeout(LIMIT, fetch(&format!("{}/orders/1", running.base))).await.unwrap().unwrap();
    assert_eq!(next.status(), 200);
    assert!(begin.elapsed() >= Duration::from_millis(100), "it had to wait: {:?}", begin.elapsed());
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, slow.read_to_end(&mut rest)).await.expect("the slow one is closed").ok();
}

#[test]
fn settings_refuse_what_is_unsafe() {
    for (args, setting) in [
        (&["--listen", "0.0.0.0:1", "--auth-secret", "0123456789abcdef0123456789abcdef"][..], "advertise"),
        (&["--listen", "10.0.0.1:1"], "auth.key_file"),
        (&["--status-listen", "8007"], "--status-listen"),
        (&["--listen", "10.0.0.1:1", "--auth-disabled"], "--auth-disabled"),
        (&["--auth-secret", "short"], "--auth-secret"),
        (&["--auth-key-file", "/nowhere"], "--auth-key-file"),
        (&["--tls-cert", "/nowhere"], "tls.key"),
        (&["--shutdown-timeout", "1s"], "--shutdown-timeout"),
        (&["--advertise", "http://x"], "--advertise"),
        (&["--log-level", "a=b=c"], "--log-level"),
        (&["--telemetry-otlp-endpoint", "collector:4317"], "--telemetry-otlp-endpoint"),
        (&["--consul-address", "ftp://x"], "--consul-address"),
    ] {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut reader = Reader::new(&Sources::new("test-service", args, Default::default(), None).unwrap());
        ServiceSettings::read(&mut reader, &SERVICE);
        let faults = reader.finish().unwrap_err();
        assert!(faults.iter().any(|fault| fault.setting == setting), "{setting} is not among {faults}");
    }
}

#[test]
fn settings_follow_the_environment_of_consul_and_kubernetes() {
    let env = [
        ("POD_IP", "10.1.2.3"),
        ("CONSUL_HTTP_ADDR", "https://consul:8501"),
        ("CONSUL_HTTP_TOKEN", "abc"),
        ("PLINTH_TEST__AUTH__SECRET", "0123456789abcdef0123456789abcdef"),
        ("PLINTH_TEST__LISTEN", "0.0.0.0:8510"),
    ];
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut reader = Reader::new(&Sources::new("test-service", vec![], env, None).unwrap());
    let settings = ServiceSettings::read(&mut reader, &SERVICE);
    reader.finish().unwrap();
    assert_eq!(settings.advertise.endpoint(settings.listen.unwrap()).unwrap(), ("10.1.2.3".to_owned(), 8510));
    assert_eq!(settings.consul.address.to_string(), "https://consul:8501");
    assert_eq!(settings.consul.token.unwrap().expose(), "abc");
    assert_eq!(settings.shutdown, ShutdownSettings::default());
}
