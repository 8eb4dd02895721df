//! What the gateway tells others about requests: log receivers, trace receivers, Prometheus, the access log. All receivers are real
//! sockets; what must not get lost is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use harness::{Binary, Gateway, config};
use http::Method;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{PortLease, eventually, holds, http_client};
use prost::Message;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(20);

/// One service at `upstream` with these plugins.
fn with_plugins(upstream: SocketAddr, plugins: &str) -> String {
    format!("{}plugins:\n{plugins}", config(&[upstream], ""))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// Paths in the request lines of entries.
fn paths<'v>(entries: impl IntoIterator<Item = &'v Value>) -> Vec<String> {
    entries.into_iter().map(|entry| entry["request"]["uri"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_log_sends_kongs_entry_with_its_headers() {
    let (upstream, receiver) = (Upstream::start().await, Upstream::start().await);
    let plugins = format!(
        "- name: http-log
  config: {{http_endpoint: 'http://us%20er:pass@{}/in?x=1', method: PUT, headers: {{X-Token: t}}}}",
        receiver.addr
    );
    let gateway = Gateway::start(&with_plugins(upstream.addr, &plugins)).await;
    gateway.send(Method::GET, "/one?a=1", &[("authorization", "Bearer s3cret")], "").await;
    eventually("the entry arrives", PATIENCE, || async {
        holds(receiver.requests().len() == 1, format!("{} requests", receiver.requests().len()))
    })
    .await;
    let request = receiver.requests().remove(0);
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::PUT, "/in?x=1"));
    let headers = request.headers();
    assert_eq!(headers["authorization"], "Basic dXMgZXI6cGFzcw==");
    assert_eq!(
        (&headers["x-token"], &headers["content-type"]),
        (&"t".parse().unwrap(), &"application/json".parse().unwrap())
    );
    let entry = json(request.body());
    assert_eq!(entry["request"]["uri"], "/one?a=1");
    assert_eq!(entry["request"]["headers"]["authorization"], "REDACTED");
    assert_eq!((&entry["response"]["status"], &entry["service"]["name"]), (&200.into(), &"s".into()));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_log_gathers_batches_and_outlasts_a_dead_receiver() {
    let upstream = Upstream::start().await;
    let lease = PortLease::take();
    let address = SocketAddr::from(([127, 0, 0, 1], lease.port()));
    let plugins = format!(
        "- name: http-log
  config: {{http_endpoint: 'http://{address}/', timeout: 2000,
           queue: {{max_batch_size: 7, max_coalescing_delay: 0.2, max_retry_delay: 0.2}}}}"
    );
    let gateway = Gateway::start(&with_plugins(upstream.addr, &plugins)).await;
    for number in 0..20 {
        gateway.get(&format!("/{number}")).await;
    }
    eventually("tries fail", PATIENCE, || async {
        let failures = gateway.metric("gateway_export_failures_total").await;
        holds(failures >= 3.0, format!("{failures} failures"))
    })
    .await;
    let receiver = Upstream::start_on(address).await;
    let sent = async || gateway.metric("gateway_export_sent_total").await;
    eventually("everything arrives", PATIENCE, || async {
        holds(sent().await == 20.0, sent().await.to_string())
    })
    .await;
    let batches: Vec<Value> = receiver.requests().iter().map(|request| json(request.body())).collect();
    let got: Vec<String> = batches.iter().flat_map(|batch| paths(batch.as_array().unwrap())).collect();
    assert_eq!(got, (0..20).map(|number| format!("/{number}")).collect::<Vec<_>>(), "all, once, in order");
    assert!(batches.iter().all(|batch| batch.as_array().unwrap().len() <= 7));
    assert_eq!(gateway.metric("gateway_export_lost_total").await, 0.0);

    // A receiver that refuses is tried again as well, and a stop sends what still waits.
    receiver.respond_status(500);
    gateway.get("/refused").await;
    eventually("it was refused", PATIENCE, || async {
        holds(receiver.requests().len() > batches.len(), receiver.requests().len().to_string())
    })
    .await;
    receiver.respond_status(204);
    gateway.get("/last").await;
    gateway.stop().await;
    let last = receiver.requests().last().map(|request| json(request.body())).unwrap();
    assert_eq!(paths(last.as_array().unwrap()).last().unwrap(), "/last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_loses_the_oldest_and_counts_them() {
    let upstream = Upstream::start().await;
    let lease = PortLease::take();
    let address = SocketAddr::from(([127, 0, 0, 1], lease.port()));
    let plugins = format!(
        "- name: http-log
  config: {{http_endpoint: 'http://{address}/', queue: {{max_entries: 3, max_retry_delay: 0.1}}}}"
    );
    let gateway = Gateway::start(&with_plugins(upstream.addr, &plugins)).await;
    gateway.get("/first").await;
    let failures = async || gateway.metric("gateway_export_failures_total").await;
    eventually("the first is under way", PATIENCE, || async {
        holds(failures().await > 0.0, "no failure yet")
    })
    .await;
    for number in 0..10 {
        gateway.get(&format!("/{number}")).await;
    }
    let lost =
        async || gateway.metric("gateway_export_lost_total{plugin=\"http-log\",reason=\"queue_full\"}").await;
    eventually("drops are counted", PATIENCE, || async {
        holds(lost().await == 7.0, lost().await.to_string())
    })
    .await;
    let receiver = Upstream::start_on(address).await;
    eventually("the rest arrives", PATIENCE, || async {
        holds(receiver.requests().len() == 4, receiver.requests().len().to_string())
    })
    .await;
    let entries: Vec<Value> = receiver.requests().iter().map(|request| json(request.body())).collect();
    assert_eq!(paths(&entries), ["/first", "/7", "/8", "/9"]);
    gateway.stop().await;
}

/// Passes on each line of every connection.
fn lines(reader: impl AsyncRead + Send + Unpin + 'static, out: mpsc::UnboundedSender<Value>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = out.send(json(line.as_bytes()));
        }
    });
}

async fn next(inbox: &mut mpsc::UnboundedReceiver<Value>) -> Value {
    tokio::time::timeout(PATIENCE, inbox.recv()).await.expect("an entry arrives").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_log_writes_lines_and_connects_again() {
    let upstream = Upstream::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plugins = format!("- name: tcp-log\n  config: {{host: 127.0.0.1, port: {port}}}");
    let gateway = Gateway::start(&with_plugins(upstream.addr, &plugins)).await;
    let (out, mut inbox) = mpsc::unbounded_channel();
    gateway.get("/one").await;
    let (first, _) = listener.accept().await.unwrap();
    let mut reader = BufReader::new(first);
    let mut line = String::new();
    reader.read_line(&mut line).await.unwrap();
    assert_eq!(json(line.as_bytes())["request"]["uri"], "/one");
    gateway.get("/two").await;
    line.clear();
    reader.read_line(&mut line).await.unwrap();
    assert_eq!(json(line.as_bytes())["request"]["uri"], "/two", "over the same connection");
    drop(reader);
    gateway.get("/three").await;
    let (second, _) = listener.accept().await.unwrap();
    lines(second, out);
    assert_eq!(next(&mut inbox).await["request"]["uri"], "/three", "a closed connection costs no entry");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_log_speaks_tls_with_the_configured_name() {
    let upstream = Upstream::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = rcgen::generate_simple_self_signed(vec!["logs.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (names, mut sni) = mpsc::unbounded_channel();
    let (out, mut inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let _ = names.send(stream.get_ref().1.server_name().map(str::to_owned));
            lines(stream, out.clone());
        }
    });
    let plugins = format!(
        "- name: tcp-log\n  config: {{host: 127.0.0.1, port: {port}, tls: true, tls_sni: logs.example}}"
    );
    let gateway = Gateway::start(&with_plugins(upstream.addr, &plugins)).await;
    for path in ["/one", "/two", "/three"] {
        gateway.get(path).await;
        assert_eq!(next(&mut inbox).await["request"]["uri"], path);
    }
    assert_eq!(sni.recv().await.unwrap().as_deref(), Some("logs.example"));
    assert!(sni.try_recv().is_err(), "one connection for all");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_log_and_syslog_send_datagrams() {
    let upstream = Upstream::start().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let syslog = UnixDatagram::bind(&path).unwrap();
    let plugins = format!(
        "- name: udp-log
  config: {{host: localhost, port: {}}}
- name: syslog
  config: {{facility: local3, client_errors_severity: warning, successful_severity: debug}}
- name: request-termination
  config: {{status_code: 403, trigger: stop}}",
        udp.local_addr().unwrap().port()
    );
    let flags = ["--syslog-socket", path.to_str().unwrap()];
    let gateway = Gateway::start_with(&with_plugins(upstream.addr, &plugins), &flags).await;
    gateway.get("/fine").await;
    gateway.get("/no?stop=1").await;
    let mut buffer = vec![0; 65_536];
    let received = async |socket: &UdpSocket, buffer: &mut [u8]| {
        let length = tokio::time::timeout(PATIENCE, socket.recv(buffer)).await.expect("a datagram").unwrap();
        json(&buffer[..length])
    };
    assert_eq!(received(&udp, &mut buffer).await["request"]["uri"], "/fine");
    assert_eq!(received(&udp, &mut buffer).await["response"]["status"], 403);
    // The successful one is less urgent than log_level.
    let length = tokio::time::timeout(PATIENCE, syslog.recv(&mut buffer)).await.expect("a message").unwrap();
    let text = std::str::from_utf8(&buffer[..length]).unwrap();
    // local3 is 19, warning 4
    let rest = text.strip_prefix("<156>").unwrap_or_else(|| panic!("{text}"));
    let (head, entry) = rest.split_once("]: ").unwrap();
    assert!(head.ends_with(&format!(" kong[{}", std::process::id())), "{head}");
    assert_eq!(head.split_whitespace().count(), 4, "month, day, time, name: {head}");
    assert_eq!(json(entry.as_bytes())["request"]["uri"], "/no?stop=1");

    // A daemon that is started anew gets the next message.
    drop(syslog);
    std::fs::remove_file(&path).unwrap();
    gateway.get("/again?stop=1").await;
    eventually("it cannot be delivered", PATIENCE, || async {
        holds(gateway.metric("gateway_export_failures_total{plugin=\"syslog\"}").await > 0.0, "no failure")
    })
    .await;
    let syslog = UnixDatagram::bind(&path).unwrap();
    let length = tokio::time::timeout(PATIENCE, syslog.recv(&mut buffer)).await.expect("a message").unwrap();
    assert!(std::str::from_utf8(&buffer[..length]).unwrap().contains("/again?stop=1"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zipkin_spans_form_one_trace_with_callers_and_upstreams() {
    let (upstream, receiver) = (Upstream::start().await, Upstream::start().await);
    let plugins = format!(
        "- name: zipkin
  config: {{http_endpoint: 'http://{}/api/v2/spans', sample_ratio: 1, http_span_name: method_path,
           static_tags: [{{name: env, value: test}}], http_response_header_for_traceid: X-Trace,
           queue: {{max_batch_size: 3, max_coalescing_delay: 5}}}}",
        receiver.addr
    );
    let gateway = Gateway::start(&with_plugins(upstream.addr, &plugins)).await;
    let (trace, span, parent) = ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312", "0020000000000001");
    let caller = [
        ("x-b3-traceid", trace),
        ("x-b3-spanid", span),
        ("x-b3-parentspanid", parent),
        ("x-b3-sampled", "1"),
        ("zipkin-tags", "team=a; bad"),
    ];
    let answer = gateway.send(Method::GET, "/x", &caller, "").await;
    assert_eq!(answer.headers()["x-trace"], trace);
    let sent = upstream.requests().remove(0);
    assert_eq!(sent.headers()["x-b3-traceid"], trace);
    assert_eq!(sent.headers()["x-b3-parentspanid"], span, "the caller's span is shared");
    let upstreams_parent = sent.headers()["x-b3-spanid"].to_str().unwrap().to_owned();
    eventually("spans arrive", PATIENCE, || async {
        holds(receiver.requests().len() == 1, receiver.requests().len().to_string())
    })
    .await;
    let spans = json(receiver.requests()[0].body());
    let named = |name: &str| {
        let spans = spans.as_array().unwrap();
        spans
            .iter()
            .find(|span| span["name"] == name)
            .unwrap_or_else(|| panic!("{name} in {spans:#?}"))
            .clone()
    };
    let (request, proxy, attempt) =
        (named("GET /x"), named("GET /x (proxy)"), named("GET /x (balancer try 1)"));
    assert!(spans.as_array().unwrap().iter().all(|span| span["traceId"] == trace));
    assert_eq!(
        (&request["id"], &request["parentId"], &request["kind"]),
        (&span.into(), &parent.into(), &"SERVER".into())
    );
    assert_eq!(request["tags"]["http.status_code"], "200");
    assert_eq!((&request["tags"]["env"], &request["tags"]["team"]), (&"test".into(), &"a".into()));
    assert_eq!((&proxy["id"], &proxy["parentId"]), (&upstreams_parent.into(), &span.into()));
    assert_eq!(proxy["tags"]["kong.service_name"], "s");
    assert_eq!(
        (&attempt["parentId"], &attempt["remoteEndpoint"]["port"]),
        (&span.into(), &upstream.addr.port().into())
    );
    let marks: BTreeSet<&str> =
        proxy["annotations"].as_array().unwrap().iter().map(|mark| mark["value"].as_str().unwrap()).collect();
    assert_eq!(marks, BTreeSet::from(["kas", "kaf", "khs", "khf", "kbs", "kbf"]));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opentelemetry_exports_spans_and_records() {
    let (upstream, receiver) = (Upstream::start().await, Upstream::start().await);
    let plugins = format!(
        "- name: opentelemetry
  config: {{endpoint: 'http://{0}/v1/traces', logs_endpoint: 'http://{0}/v1/logs', headers: {{X-Key: k}},
           resource_attributes: {{service.name: edge}}, batch_flush_delay: 1}}",
        receiver.addr
    );
    let text = with_plugins(upstream.addr, &plugins);
    let gateway = Gateway::start_with(&text, &["--tracing-instrumentations", "all"]).await;
    let (trace, parent) = ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312");
    let traceparent = format!("00-{trace}-{parent}-01");
    gateway.send(Method::GET, "/x?y=1", &[("traceparent", &traceparent)], "").await;
    let sent = upstream.requests().remove(0).headers()["traceparent"].to_str().unwrap().to_owned();
    eventually("both arrive", PATIENCE, || async {
        holds(receiver.requests().len() == 2, receiver.requests().len().to_string())
    })
    .await;
    let requests = receiver.requests();
    let at = |path: &str| requests.iter().find(|request| request.uri().path() == path).unwrap().clone();
    let request = at("/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    assert_eq!(request.headers()["x-key"], "k");
    let export = ExportTraceServiceRequest::decode(request.into_body()).unwrap();
    let resource = export.resource_spans[0].resource.clone().unwrap();
    let text = format!("{resource:?}");
    assert!(text.contains("edge") && text.contains("service.instance.id"), "{text}");
    let spans = &export.resource_spans[0].scope_spans[0].spans;
    let root = spans.iter().find(|span| span.name == "kong").unwrap();
    let attempt = spans.iter().find(|span| span.name == "kong.balancer").unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((hex(&root.trace_id), hex(&root.parent_span_id)), (trace.to_owned(), parent.to_owned()));
    assert_eq!(attempt.parent_span_id, root.span_id);
    assert_eq!(
        sent,
        format!("00-{trace}-{}-01", hex(&attempt.span_id)),
        "the upstream continues the try's span"
    );
    assert!(root.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= root.end_time_unix_nano);
    let logs = ExportLogsServiceRequest::decode(at("/v1/logs").into_body()).unwrap();
    let record = &logs.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!((hex(&record.trace_id), hex(&record.span_id)), (trace.to_owned(), hex(&root.span_id)));
    assert!(format!("{:?}", record.body).contains("/x?y=1"));
    gateway.stop().await;

    // Without instrumentations context still passes, marked as not sampled, and no spans are made.
    let gateway = Gateway::start(&with_plugins(
        upstream.addr,
        &format!("- name: opentelemetry\n  config: {{traces_endpoint: 'http://{}/quiet'}}", receiver.addr),
    ))
    .await;
    gateway.send(Method::GET, "/z", &[("traceparent", &traceparent)], "").await;
    let sent = upstream.requests().last().unwrap().headers()["traceparent"].to_str().unwrap().to_owned();
    assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with("-00"), "{sent}");
    gateway.stop().await;
    assert!(receiver.requests().iter().all(|request| request.uri().path() != "/quiet"));
}

/// What promtool says about Kong's own names, which are what dashboards ask for.
const KONGS_NAMES: [&str; 6] = [
    "kong_nginx_connections_total",
    "kong_nginx_requests_total",
    "kong_bandwidth_bytes",
    "kong_request_latency_ms",
    "kong_upstream_latency_ms",
    "kong_kong_latency_ms",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_kongs_metrics_on_both_apis() {
    let upstream = Upstream::start().await;
    let plugins = "- name: prometheus
  config: {per_consumer: true, status_code_metrics: true, latency_metrics: true, bandwidth_metrics: true,
           upstream_health_metrics: true}";
    let gateway = Gateway::start(&with_plugins(upstream.addr, plugins)).await;
    gateway.get("/").await;
    for address in [gateway.status, gateway.admin] {
        let answer = http_client::get(&format!("http://{address}/metrics")).await.unwrap();
        let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
        for line in [
            "kong_http_requests_total{code=\"200\",consumer=\"\",route=\"r\",service=\"s\",source=\"service\",workspace=\"default\"} 1",
            "kong_datastore_reachable 1",
            "kong_nginx_metric_errors_total 0",
            "kong_nginx_timers{state=\"running\"} 0",
            &format!(
                "kong_upstream_target_health{{address=\"{0}\",state=\"healthchecks_off\",subsystem=\"http\",target=\"{0}\",upstream=\"up\"}} 1",
                upstream.addr
            ),
        ] {
            assert!(text.contains(line), "{line} missing in\n{text}");
        }
        for (name, least) in [
            ("kong_nginx_connections_total{node_id=", 0.0),
            ("kong_nginx_requests_total{node_id=", 1.0),
            ("kong_memory_workers_lua_vms_bytes{kong_subsystem=\"http\"", 1_000_000.0),
            ("kong_node_info{node_id=", 1.0),
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("{name} in\n{text}"));
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= least, "{line}");
        }
        check(&text);
    }
    gateway.stop().await;
}

/// `promtool check metrics`: the format is right, and its remarks are about names Kong chose.
fn check(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the package prometheus: cargo xtask test installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let foreign: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("kong_") || line.contains("error"))
        .filter(|line| !KONGS_NAMES.iter().any(|name| line.starts_with(name)))
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_route_takes_its_series_along() {
    let upstream = Upstream::start().await;
    let plugins = "- name: prometheus\n  config: {status_code_metrics: true, latency_metrics: true}";
    let text = with_plugins(upstream.addr, plugins);
    let gateway = Gateway::start(&text).await;
    // a request is counted when its answer has been sent
    let counted = async |wanted: f64| {
        eventually("requests are counted", PATIENCE, || async {
            let counted = gateway.metric("kong_http_requests_total").await;
            holds(counted == wanted, format!("{counted} of {wanted}"))
        })
        .await;
    };
    gateway.get("/").await;
    counted(1.0).await;
    std::fs::write(&gateway.file, text.replace("name: r\n", "name: renamed\n")).unwrap();
    counted(0.0).await;
    gateway.get("/").await;
    counted(1.0).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_is_opened_anew_on_sigusr1() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut gateway =
        Binary::start(&config(&[upstream.addr], ""), &["--access-log", path.to_str().unwrap()]).await;
    let get = async |path: &str| http_client::get(&format!("http://{}{path}", gateway.proxy)).await.unwrap();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    get("/one").await;
    eventually("a line is written", PATIENCE, || async {
        holds(read(&path).contains("\"GET /one HTTP/1.1\" 200 2 "), read(&path))
    })
    .await;
    std::fs::rename(&path, &rotated).unwrap();
    gateway.process.signal(Signal::USR1);
    eventually("the file is there again", PATIENCE, || async { holds(path.exists(), "no file") }).await;
    get("/two").await;
    eventually("lines go to the new file", PATIENCE, || async {
        holds(read(&path).contains("/two"), read(&path))
    })
    .await;
    assert!(!read(&rotated).contains("/two"));
    assert!(gateway.process.terminate(PATIENCE).success());
}
