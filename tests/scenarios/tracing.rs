//! One trace from a caller through the gateway and registry-service to Consul, as an OTLP receiver gets it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::Full;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, holds, http_client};
use serde_json::json;

use crate::support::backend::{Backend, Kind};
use crate::support::collector::{Collector, Received, hex};
use crate::support::platform::{gateway, ready};
use crate::support::program::{Program, command};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_on_the_embedded_agent() {
    one_trace(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_on_real_consul() {
    one_trace(Kind::Consul).await;
}

async fn one_trace(kind: Kind) {
    let (backend, collector) = (Backend::start(kind).await, Collector::start().await);
    let folder = tempfile::tempdir().unwrap();
    let flags = collector.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let consul = recorder(backend.address()).await;
    let mut registry = command("registry-service");
    registry.env("CONSUL_HTTP_ADDR", consul.addr.to_string());
    registry.args(["--listen", "127.0.0.1:0"]).args(&flags);
    let registry = Program::start("registry", registry, folder.path(), &["http"]).await;
    ready(&registry, "http").await;
    let file = folder.path().join("kong.yml");
    std::fs::write(&file, KONG).unwrap();
    let gateway = gateway(&backend, folder.path(), "gateway", &file, &flags).await;

    eventually("the registry is reached through the gateway", LIMIT, || async {
        let answer = http_client::get(&gateway.url("proxy", "/registry/health/ready")).await.unwrap();
        holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
    })
    .await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let body =
        json!({ "service_name": "traced", "service_id": "traced-1", "address": "127.0.0.1", "port": 9 });
    let register = gateway.url("proxy", "/registry/api/v1/services/register");
    let headers = [("traceparent", parent.as_str()), ("content-type", "application/json")];
    let answer = http_client::send(Method::POST, &register, &headers, body.to_string()).await.unwrap();
    assert_eq!(answer.status(), 201, "{:?}", answer.body());

    let ours = |spans: Vec<Received>| -> Vec<Received> {
        spans.into_iter().filter(|received| hex(&received.span.trace_id) == TRACE).collect()
    };
    let (edge, server) = eventually("both server spans arrive", LIMIT, || async {
        let spans = ours(collector.spans());
        let edge = spans.iter().find(|received| hex(&received.span.parent_span_id) == CALLER).cloned();
        let server = edge.as_ref().and_then(|edge| {
            spans.iter().find(|received| received.span.parent_span_id == edge.span.span_id).cloned()
        });
        edge.zip(server).ok_or(format!("{spans:?}"))
    })
    .await;
    assert!(edge.service.contains("gateway"), "{edge:?}");
    assert!(server.service.contains("registry-service"), "{server:?}");
    assert_eq!(server.span.name, "POST /api/v1/services/register");

    // What the registry asked Consul for this request carries the trace, below the registry's span.
    let told: Vec<String> = consul
        .requests()
        .iter()
        .filter_map(|request| Some(request.headers().get("traceparent")?.to_str().ok()?.to_owned()))
        .filter(|parent| parent.contains(TRACE))
        .collect();
    assert!(!told.is_empty(), "Consul saw the trace");
    let writes = consul.requests();
    let write = writes.iter().find(|request| {
        request.method() == Method::PUT
            && request.uri().path() == "/v1/txn"
            && request
                .headers()
                .get("traceparent")
                .is_some_and(|parent| parent.to_str().is_ok_and(|parent| parent.contains(TRACE)))
    });
    let write =
        write.unwrap_or_else(|| panic!("the registration's own transaction carries the trace: {told:?}"));
    let span = write.headers()["traceparent"].to_str().unwrap().split('-').nth(2).unwrap().to_owned();
    eventually("the span of the Consul call hangs below the registry's", LIMIT, || async {
        let spans = ours(collector.spans());
        let mut at = spans.iter().find(|received| hex(&received.span.span_id) == span);
        while let Some(received) = at {
            if received.span.span_id == server.span.span_id {
                return Ok(());
            }
            at = spans.iter().find(|other| other.span.span_id == received.span.parent_span_id);
        }
        Err(format!("{spans:?}"))
    })
    .await;

    // Without a caller's trace the gateway begins one.
    let found = gateway.url("proxy", "/registry/api/v1/services/discover/traced");
    assert_eq!(http_client::get(&found).await.unwrap().status(), 200);
    eventually("a trace that begins at the gateway", LIMIT, || async {
        let spans = collector.spans();
        let roots = spans.iter().filter(|received| {
            received.service.contains("gateway") && received.span.parent_span_id.is_empty()
        });
        let mut ids = roots.map(|root| &root.span.span_id);
        let continued = ids.any(|id| {
            spans.iter().any(|received| {
                received.service.contains("registry-service")
                    && received.span.parent_span_id == *id
                    && received.span.name.contains("discover")
            })
        });
        holds(continued, format!("{} spans", spans.len()))
    })
    .await;
}

const KONG: &str = "_format_version: \"3.0\"
services:
  - name: registry
    url: http://registry-service.service.consul:8510
    routes:
      - name: registry
        paths: [/registry]
";

/// Passes everything on to `target` and keeps the requests.
async fn recorder(target: SocketAddr) -> Upstream {
    let upstream = Upstream::start().await;
    upstream.respond(move |request: Request<bytes::Bytes>| async move {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let headers: Vec<(&str, &str)> = request
            .headers()
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding"))
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
            .collect();
        let url = format!("http://{target}{path}");
        let sent = http_client::send(request.method().clone(), &url, &headers, request.body().clone()).await;
        let (mut head, body) = sent.unwrap_or_else(|error| panic!("{url}: {error}")).into_parts();
        head.headers.remove("transfer-encoding");
        head.headers.remove("connection");
        Response::from_parts(head, Full::new(body))
    });
    upstream
}
