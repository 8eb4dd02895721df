//! One trace from a caller through a service to Consul, as an OTLP receiver gets it. The subscriber is process-wide,
//! so this file has one test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use http::{HeaderMap, Method};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use parking_lot::Mutex;
use plinth_kit::lifecycle::{Shutdown, ShutdownSettings};
use plinth_kit::server::{BoundListener, Stop, serve};
use plinth_kit::settings::{Reader, Sources};
use plinth_kit::telemetry::{Telemetry, TelemetrySettings};
use plinth_kit::{AppBuilder, Context, Routes, Service, ServiceSettings};
use plinth_testbed::http_client::send;
use plinth_testbed::{eventually, holds};
use prost::Message;
use utoipa::OpenApi;

const SERVICE: Service = Service::new("traced-service", "1.0.0").port(0);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const LIMIT: Duration = Duration::from_secs(10);

#[derive(OpenApi)]
struct Document;

/// A listener on a free port that serves `router`.
async fn host(router: Router) -> String {
    let listener = BoundListener::bind("test", "127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let address = listener.address().to_string();
    tokio::spawn(serve(listener, router, Default::default(), Stop::default()));
    address
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.map(|attribute| format!("{:?}", attribute.value)).unwrap_or_default()
}

/// All spans received so far, each with its resource.
fn spans(received: &Mutex<Vec<ExportTraceServiceRequest>>) -> Vec<(Span, Resource)> {
    let received = received.lock();
    let groups = received.iter().flat_map(|request| &request.resource_spans);
    groups
        .flat_map(|group| {
            let resource = group.resource.clone().unwrap();
            let spans = group.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.map(move |span| (span.clone(), resource.clone()))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_through_a_service_to_consul() {
    let received = Arc::new(Mutex::new(Vec::<ExportTraceServiceRequest>::new()));
    let sink = received.clone();
    let receive = move |headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        sink.lock().push(ExportTraceServiceRequest::decode(body).unwrap());
    };
    let receiver = host(Router::new().route("/v1/traces", post(receive))).await;

    let asked = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = asked.clone();
    let leader = move |headers: HeaderMap| async move {
        let parent = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        seen.lock().extend(parent);
        "\"127.0.0.1:8300\""
    };
    let consul = host(Router::new().route("/v1/status/leader", get(leader))).await;

    let settings = TelemetrySettings {
        otlp_endpoint: Some(format!("http://{receiver}/")),
        export_interval: Duration::from_millis(50),
        ..TelemetrySettings::new("the-process", "1.0.0")
    };
    let telemetry = Telemetry::init(&settings, &tokio::runtime::Handle::current()).unwrap();
    assert!(telemetry.exports_traces());

    let args =
        ["--register", "false", "--consul-address", &consul, "--listen", "127.0.0.1:0"].map(str::to_owned);
    let mut reader =
        Reader::new(&Sources::new("traced-service", args.to_vec(), Default::default(), None).unwrap());
    let settings = ServiceSettings::read(&mut reader, &SERVICE);
    reader.finish().unwrap();
    let shutdown = Shutdown::new(ShutdownSettings::default());
    let context =
        Context::new(&SERVICE, settings, shutdown, tokio::runtime::Handle::current()).await.unwrap();
    let client = context.consul.clone();
    let ask = move || async move { client.status().leader().await.unwrap().unwrap() };
    let listener = context.bind().await.unwrap();
    let url = format!("http://{}/leader", listener.address());
    let router =
        context.router(Routes::new(Router::new().route("/leader", get(ask))), Document::openapi()).unwrap();
    let background = context.consul.clone();
    let (done, twice) = tokio::sync::oneshot::channel();
    let task = |_| async move {
        for _ in 0..2 {
            background.status().leader().await?;
        }
        let _ = done.send(());
        Ok::<_, plinth_core::Error>(())
    };
    let app =
        AppBuilder::new(&context).http(listener, router).task("background", task).start().await.unwrap();
    twice.await.unwrap();
    asked.lock().clear();

    let parent = format!("00-{TRACE}-{CALLER}-01");
    let answer = send(Method::GET, &url, &[("traceparent", &parent)], "").await.unwrap();
    assert_eq!(answer.body(), "127.0.0.1:8300");

    let (span, resource) = eventually("the span arrives", LIMIT, || async {
        spans(&received).into_iter().find(|(span, _)| span.name == "GET /leader").ok_or("no such span")
    })
    .await;
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), CALLER);
    assert_eq!(span.kind, SpanKind::Server as i32);
    assert!(attribute(&span, "plinth.service").contains("traced-service"), "{span:?}");
    assert!(attribute(&span, "http.route").contains("/leader"), "{span:?}");
    assert!(attribute(&span, "http.response.status_code").contains("200"), "{span:?}");
    let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert!(format!("{:?}", name.value).contains("the-process"), "{resource:?}");

    // Consul got the same trace; the parent it was given is the span of the call, below the service's span.
    let to_consul = asked.lock().first().cloned().expect("a traceparent went to Consul");
    let parts: Vec<&str> = to_consul.split('-').collect();
    assert_eq!((parts[1], parts[3]), (TRACE, "01"), "{to_consul}");
    let (call, _) = eventually("the span of the call arrives", LIMIT, || async {
        let found = spans(&received).into_iter().find(|(call, _)| hex(&call.span_id) == parts[2]);
        found.ok_or("no such span")
    })
    .await;
    assert_eq!(call.parent_span_id, span.span_id);

    // A caller that decided against sampling is followed.
    let before = received.lock().len();
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    send(Method::GET, &url, &[("traceparent", &unsampled)], "").await.unwrap();
    assert!(asked.lock().last().unwrap().ends_with("-00"), "{:?}", asked.lock());

    // What is left is sent at the end.
    send(Method::GET, &url, &[], "").await.unwrap();
    context.shutdown.request();
    context.shutdown.abort();
    app.finished().await.unwrap();
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await.unwrap();
    let after = received.lock().len();
    holds(after > before, format!("{before} then {after}")).unwrap();
    let all = spans(&received);
    let requests = all.iter().filter(|(span, _)| span.name == "GET /leader");
    let traces: Vec<String> = requests.map(|(span, _)| hex(&span.trace_id)).collect();
    assert_eq!(traces.len(), 2, "the unsampled one is not exported: {traces:?}");
    assert_ne!(traces[1], TRACE, "a request without a trace begins one");

    // What a task does is no part of one endless trace: each of its calls begins its own.
    let names: Vec<&str> = all.iter().map(|(span, _)| span.name.as_str()).collect();
    assert!(!names.contains(&"task") && !names.contains(&"service"), "{names:?}");
    let alone = all.iter().filter(|(span, _)| span.name != "GET /leader" && span.parent_span_id.is_empty());
    let alone: BTreeSet<String> = alone.map(|(span, _)| hex(&span.trace_id)).collect();
    assert_eq!(alone.len(), 2, "two calls of the task, two traces: {names:?}");
}
