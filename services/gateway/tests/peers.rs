//! Real peers on both sides of the gateway: gRPC by grpcio, websockets by Python's `websockets`, HTTP/2 by nghttp2; and what
//! HTTP/2 connections are told when they have lasted long enough.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use harness::{Gateway, config};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, tools};
use serde_json::{Value, json};
use tokio::net::TcpStream;

fn python(arguments: &[&str]) -> Command {
    let candidates = [tools::folder().join("peers/bin/python3")];
    let program = tools::program(
        "plinth-peers-python",
        "PLINTH_TEST_PEERS_PYTHON",
        &candidates,
        "a Python with the packages grpcio and websockets (cargo xtask test makes one)",
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/peers.py");
    let mut command = Command::new(program);
    command.arg(script).args(arguments);
    command
}

/// Starts a server and waits for the port it prints.
async fn server(what: &str, folder: &Path) -> (Process, u16) {
    server_with(what, &[], folder).await
}

async fn server_with(what: &str, arguments: &[&str], folder: &Path) -> (Process, u16) {
    let mut process = Process::spawn(what, python(&[&[what], arguments].concat()), folder);
    let port = eventually("the server prints its port", Duration::from_secs(30), || {
        process.assert_running();
        let output = process.output();
        async move { output.lines().find_map(|line| line.trim().parse().ok()).ok_or(output) }
    })
    .await;
    (process, port)
}

/// What a client printed.
async fn client(what: &str, port: u16) -> Value {
    let mut command = python(&[what, &port.to_string()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{what}: {printed}\n{errors}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_passes_in_all_four_kinds_and_errors_are_grpcs() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, port) = server("grpc-server", folder.path()).await;
    let config = json!({
        "_format_version": "3.0",
        "services": [{
            "name": "echo", "protocol": "grpc", "host": "127.0.0.1", "port": port,
            "routes": [
                {"name": "echo", "protocols": ["grpc"], "paths": ["/demo.Echo/"], "strip_path": false},
                {"name": "secure", "protocols": ["grpcs"], "paths": ["/secure.Echo/"], "strip_path": false},
            ],
        }],
    });
    let flags = ["--proxy-listen", "127.0.0.1:0 http2"];
    let gateway = Gateway::start_with(&config.to_string(), &flags).await;
    let seen = client("grpc-client", gateway.proxy.port()).await;
    assert_eq!(seen["unary"], json!(["hello!", "yes", "yes"]));
    assert_eq!(seen["fail"], json!(["FAILED_PRECONDITION", "not now: 100%", "asked"]));
    assert_eq!(seen["refused"], json!(["NOT_FOUND", "no Route matched with those values", null]));
    assert_eq!((&seen["down"], &seen["up"], &seen["many"]), (&json!(200), &json!(1_000_000), &json!(200)));
    assert_eq!(seen["both"], json!(["A", "B", "C"]));

    // what is not gRPC, or not over HTTP/2
    let grpc = [("content-type", "application/grpc")];
    for (headers, wanted) in [(&[][..], 415), (&[("content-type", "application/json")], 415), (&grpc, 426)] {
        let answer = gateway.send(http::Method::POST, "/demo.Echo/Unary", headers, "").await;
        assert_eq!(answer.status(), wanted, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_reaches_upstreams_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let files = [cert_file.to_str().unwrap(), key_file.to_str().unwrap()];
    let (_server, port) = server_with("grpc-server", &files, folder.path()).await;
    let config = json!({
        "_format_version": "3.0",
        "services": [{
            "name": "echo", "protocol": "grpcs", "host": "localhost", "port": port,
            "routes": [{"name": "echo", "protocols": ["grpc"], "paths": ["/demo.Echo/"], "strip_path": false}],
        }],
    });
    let flags = ["--proxy-listen", "127.0.0.1:0 http2"];
    let gateway = Gateway::start_with(&config.to_string(), &flags).await;
    let seen = client("grpc-client", gateway.proxy.port()).await;
    assert_eq!(seen["unary"], json!(["hello!", "yes", "yes"]));
    assert_eq!(seen["fail"], json!(["FAILED_PRECONDITION", "not now: 100%", "asked"]));
    assert_eq!((&seen["down"], &seen["up"], &seen["many"]), (&json!(200), &json!(1_000_000), &json!(200)));
    assert_eq!(seen["both"], json!(["A", "B", "C"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_upstreams_that_are_away_are_unavailable() {
    let closed = plinth_testbed::free_port();
    let config = json!({
        "_format_version": "3.0",
        "services": [{
            "name": "echo", "protocol": "grpc", "host": "127.0.0.1", "port": closed, "retries": 1,
            "routes": [{"name": "echo", "protocols": ["grpc"], "paths": ["/"], "strip_path": false}],
        }],
    });
    let flags = ["--proxy-listen", "127.0.0.1:0 http2"];
    let gateway = Gateway::start_with(&config.to_string(), &flags).await;
    let mut sender = over_http2(&gateway).await;
    let request = Request::post(format!("http://{}/demo.Echo/Unary", gateway.proxy));
    let request = request.header("content-type", "application/grpc").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers()["grpc-status"], "2");
    assert_eq!(answer.headers()["grpc-message"], "An invalid response was received from the upstream server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, port) = server("websocket-server", folder.path()).await;
    let gateway = Gateway::start(&config(&[([127, 0, 0, 1], port).into()], "")).await;
    let seen = client("websocket-client", gateway.proxy.port()).await;
    assert_eq!(seen, json!({"subprotocol": "demo", "echoed": true, "code": 4000}));
}

type Sender = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn over_http2(gateway: &Gateway) -> Sender {
    let stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp2s_load_generator_gets_all_its_answers() {
    let upstream = Upstream::start().await;
    let flags = ["--proxy-listen", "127.0.0.1:0 http2"];
    let gateway = Gateway::start_with(&config(&[upstream.addr], ""), &flags).await;
    let program: PathBuf =
        tools::program("h2load", "PLINTH_TEST_H2LOAD_BIN", &[], "the package nghttp2-client");
    let mut command = Command::new(program);
    command.args(["-n", "2000", "-c", "4", "-m", "100"]).arg(format!("http://{}/", gateway.proxy));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("2000 succeeded, 0 failed, 0 errored"), "{printed}");
    assert!(printed.contains("2000 2xx"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worn_http2_connection_is_told_to_go_and_loses_nothing() {
    let upstream = Upstream::start().await;
    let flags = ["--proxy-listen", "127.0.0.1:0 http2", "--client-h2-max-requests", "20"];
    let gateway = Gateway::start_with(&config(&[upstream.addr], ""), &flags).await;
    let mut sender = over_http2(&gateway).await;
    let mut served = 0;
    while sender.ready().await.is_ok() {
        let request = Request::get(format!("http://{}/", gateway.proxy)).body(Empty::new()).unwrap();
        let Ok(answer) = sender.send_request(request).await else { break };
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        served += 1;
        assert!(served < 100, "the connection is never told to go");
    }
    assert!((17..=23).contains(&served), "{served}: about 20");
    assert_eq!(upstream.requests().len(), served, "what was not answered was not begun");
}
