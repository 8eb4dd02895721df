//! Probes against real listeners.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use plinth_core::health::{OUTPUT_LIMIT, ProbeOutcome, ProbeTarget, Prober, Status};
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::upstream::{RawUpstream, Upstream};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SECOND: Duration = Duration::from_secs(1);

async fn look(target: &ProbeTarget) -> ProbeOutcome {
    Prober::new().probe(target, SECOND).await
}

fn url(upstream: &Upstream) -> String {
    format!("http://{}/health", upstream.addr)
}

#[tokio::test]
async fn http_statuses_follow_consuls_rules() {
    let upstream = Upstream::start().await;
    for (status, expected) in [
        (200, Status::Passing),
        (204, Status::Passing),
        (429, Status::Warning),
        (302, Status::Critical),
        (404, Status::Critical),
        (500, Status::Critical),
    ] {
        upstream.respond_status(status);
        let outcome = look(&ProbeTarget::http(url(&upstream))).await;
        assert_eq!((outcome.status, outcome.http_status), (expected, Some(status)), "{outcome:?}");
    }
    assert_eq!(upstream.requests().len(), 6, "a redirect is not followed");
}

#[tokio::test]
async fn http_output_reads_as_consuls() {
    let upstream = Upstream::start().await;
    let outcome = look(&ProbeTarget::http(url(&upstream))).await;
    assert_eq!(outcome.output, format!("HTTP GET {}: 200 OK Output: ok", url(&upstream)));
    upstream.respond(|_| async { Response::new(Full::from("x".repeat(1 << 20))) });
    let outcome = look(&ProbeTarget::http(url(&upstream))).await;
    let output = format!("HTTP GET {}: 200 OK Output: {}", url(&upstream), "x".repeat(OUTPUT_LIMIT));
    assert_eq!((outcome.status, outcome.output), (Status::Passing, output));
}

#[tokio::test]
async fn http_sends_what_it_was_told() {
    let upstream = Upstream::start().await;
    let target = ProbeTarget::Http {
        url: format!("http://{}/deep/path?full=1", upstream.addr),
        method: "POST".to_owned(),
        headers: vec![
            ("Host".to_owned(), "shop.internal".to_owned()),
            ("X-Probe".to_owned(), "a".to_owned()),
            ("X-Probe".to_owned(), "b".to_owned()),
        ],
        body: "ping".to_owned(),
        tls_skip_verify: false,
        ca: None,
    };
    assert_eq!(look(&target).await.status, Status::Passing);
    let request = &upstream.requests()[0];
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/deep/path"));
    assert_eq!(request.uri().query(), Some("full=1"));
    assert_eq!(request.headers()["host"], "shop.internal");
    assert_eq!(request.headers().get_all("x-probe").iter().count(), 2);
    assert_eq!(request.headers()["connection"], "close");
    assert_eq!(&request.body()[..], b"ping");
}

#[tokio::test]
async fn credentials_of_a_url_are_sent() {
    let upstream = Upstream::start().await;
    look(&ProbeTarget::http(format!("http://u%3A:p@{}/", upstream.addr))).await;
    let own = ProbeTarget::Http {
        url: format!("http://u:p@{}/", upstream.addr),
        method: "GET".to_owned(),
        headers: vec![("Authorization".to_owned(), "Bearer t".to_owned())],
        body: String::new(),
        tls_skip_verify: false,
        ca: None,
    };
    look(&own).await;
    let sent: Vec<_> = upstream.requests().iter().map(|r| r.headers()["authorization"].clone()).collect();
    // "u::p", and a header that was asked for goes first
    assert_eq!(sent, ["Basic dTo6cA==", "Bearer t"]);
}

#[tokio::test]
async fn what_does_not_answer_is_critical_in_time() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(upstream.addr).await;
    let target = ProbeTarget::http(format!("http://{}/health", proxy.addr()));
    for (mode, times_out) in [
        (Mode::Refuse, false),
        (Mode::Reset, false),
        (Mode::BlackHole, true),
        (Mode::Latency(3 * SECOND), true),
    ] {
        proxy.set(mode);
        let started = Instant::now();
        let outcome = look(&target).await;
        assert_eq!(
            (outcome.status, outcome.timed_out),
            (Status::Critical, times_out),
            "{mode:?}: {outcome:?}"
        );
        assert!(outcome.output.starts_with("HTTP GET http://"), "{outcome:?}");
        assert!(started.elapsed() < 2 * SECOND);
    }
    proxy.set(Mode::Pass);
    assert_eq!(look(&target).await.status, Status::Passing);
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_no_http_is_survived() {
    let half = RawUpstream::start(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let outcome = look(&ProbeTarget::http(format!("http://{}/", half.addr))).await;
    assert_eq!(outcome.status, Status::Passing, "the status has decided: {outcome:?}");
    let noise = RawUpstream::start(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt;
        stream.write_all(b"\x00\xff\x00SSH-2.0\r\n\r\n").await.unwrap();
    })
    .await;
    let outcome = look(&ProbeTarget::http(format!("http://{}/", noise.addr))).await;
    assert_eq!(outcome.status, Status::Critical, "{outcome:?}");
}

#[tokio::test]
async fn bad_targets_say_why() {
    for (url, reason) in [
        ("not a url", "not a URL"),
        ("ftp://host/", "not an http or https URL"),
        ("http://name.invalid/", "HTTP GET http://name.invalid/: "),
    ] {
        let outcome = look(&ProbeTarget::http(url)).await;
        assert_eq!(outcome.status, Status::Critical);
        assert!(outcome.output.contains(reason), "{outcome:?}");
    }
    let mut target = ProbeTarget::http("http://127.0.0.1:1/");
    if let ProbeTarget::Http { headers, .. } = &mut target {
        headers.push(("Authorization".to_owned(), "secret\n".to_owned()));
    }
    let outcome = look(&target).await;
    assert!(outcome.output.contains("authorization") && !outcome.output.contains("secret"), "{outcome:?}");
}

#[tokio::test]
async fn tcp_connects_or_not() {
    let upstream = Upstream::start().await;
    let addr = upstream.addr.to_string();
    let outcome = look(&ProbeTarget::Tcp { addr: addr.clone() }).await;
    assert_eq!((outcome.status, outcome.output), (Status::Passing, format!("TCP connect {addr}: Success")));
    upstream.kill();
    let outcome = plinth_testbed::eventually("the listener is gone", 5 * SECOND, || async {
        let outcome = look(&ProbeTarget::Tcp { addr: addr.clone() }).await;
        if outcome.status == Status::Critical { Ok(outcome) } else { Err("still there") }
    })
    .await;
    assert!(outcome.output.starts_with(&format!("TCP connect {addr}: ")), "{outcome:?}");
}

/// An HTTPS server with a certificate for `localhost`; its certificate as PEM.
async fn https() -> (u16, String) {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = issued.cert.pem();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("secure")))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (port, pem)
}

#[tokio::test]
async fn https_is_verified_unless_told_otherwise() {
    let (port, pem) = https().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let target = |skip, ca| ProbeTarget::Http {
        url: format!("https://localhost:{port}/"),
        method: "GET".to_owned(),
        headers: Vec::new(),
        body: String::new(),
        tls_skip_verify: skip,
        ca,
    };
    let outcome = look(&target(true, None)).await;
    assert_eq!(outcome.status, Status::Passing, "{outcome:?}");
    let outcome = look(&target(false, Some(file))).await;
    assert_eq!(outcome.status, Status::Passing, "{outcome:?}");
    let outcome = look(&target(false, None)).await;
    assert_eq!(outcome.status, Status::Critical, "unknown authority: {outcome:?}");
    let outcome = look(&target(false, Some(folder.path().join("missing.pem")))).await;
    assert!(outcome.output.contains("missing.pem"), "{outcome:?}");
}

/// What a gRPC health server answers: the framed message, then `grpc-status`.
fn grpc(upstream: &Upstream, serving: u8, status: &'static str) {
    upstream.respond(move |request| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let known = request.body().is_empty() || !request.body().ends_with(b"unknown");
        let mut answer = Response::new(Full::from(vec![0, 0, 0, 0, 2, 8, serving]));
        let status = if known { status } else { "5" };
        answer.headers_mut().insert("grpc-status", status.parse().unwrap());
        answer
    });
}

#[tokio::test]
async fn grpc_health_is_asked_over_http2() {
    let upstream = Upstream::start().await;
    let addr = upstream.addr.to_string();
    let target = |service: &str| ProbeTarget::Grpc {
        addr: addr.clone(),
        service: service.to_owned(),
        tls: false,
        tls_skip_verify: false,
    };
    grpc(&upstream, 1, "0");
    let outcome = look(&target("orders")).await;
    assert_eq!(
        (outcome.status, outcome.output),
        (Status::Passing, format!("gRPC check {addr}/orders: success"))
    );
    let request = &upstream.requests()[0];
    assert_eq!(request.version(), http::Version::HTTP_2);
    assert_eq!(&request.body()[..], b"\x00\x00\x00\x00\x08\x0a\x06orders");

    grpc(&upstream, 2, "0");
    let outcome = look(&target("")).await;
    assert_eq!(
        (outcome.status, outcome.output),
        (Status::Critical, format!("gRPC check {addr}: status NOT_SERVING"))
    );
    let outcome = look(&target("unknown")).await;
    assert!(outcome.status == Status::Critical && outcome.output.contains("grpc-status 5"), "{outcome:?}");
    upstream.respond(|_| async {
        Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).unwrap()
    });
    let outcome = look(&target("")).await;
    assert!(outcome.status == Status::Critical && outcome.output.contains("404"), "{outcome:?}");
}
