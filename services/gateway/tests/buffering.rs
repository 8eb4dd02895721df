//! Slow clients: their answers are read ahead of them, so that upstreams are done, but only so far.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use harness::{Gateway, config};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use plinth_testbed::upstream::RawUpstream;
use plinth_testbed::{eventually, holds};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;

const LIMIT: Duration = Duration::from_secs(30);
/// More than the kernel keeps for three sockets.
const LARGE: usize = 40 << 20;
const PIECE: usize = 64 << 10;

fn piece(number: usize) -> Vec<u8> {
    (0..PIECE).map(|byte| ((number * 31 + byte) % 251) as u8).collect()
}

/// What an upstream has done.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    written: AtomicUsize,
    finished: AtomicUsize,
}

/// `/length` and `/chunked`: a large answer; everything else: a small one. Connections are kept.
async fn upstream(seen: &Arc<Seen>) -> RawUpstream {
    let seen = seen.clone();
    RawUpstream::start(move |stream, _| {
        let seen = seen.clone();
        seen.connections.fetch_add(1, SeqCst);
        async move {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let mut path = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(rest) = line.strip_prefix("GET ") {
                    path = rest.split(' ').next().unwrap_or_default().to_owned();
                }
                if !line.is_empty() {
                    continue;
                }
                if answer(&mut write, &path, &seen).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

async fn answer(write: &mut tokio::net::tcp::OwnedWriteHalf, path: &str, seen: &Seen) -> std::io::Result<()> {
    let chunked = match path {
        "/length" => false,
        "/chunked" => true,
        _ => return write.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await,
    };
    let framing =
        if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {LARGE}") };
    write.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes()).await?;
    for number in 0..LARGE / PIECE {
        if chunked {
            write.write_all(format!("{PIECE:x}\r\n").as_bytes()).await?;
        }
        write.write_all(&piece(number)).await?;
        if chunked {
            write.write_all(b"\r\n").await?;
        }
        seen.written.fetch_add(PIECE, SeqCst);
    }
    if chunked {
        write.write_all(b"0\r\n\r\n").await?;
    }
    seen.finished.fetch_add(1, SeqCst);
    Ok(())
}

/// A client that has asked and reads nothing of the body.
async fn slow(address: SocketAddr, path: &str) -> Response<Incoming> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "h").body(Full::<Bytes>::default()).unwrap();
    sender.send_request(request).await.unwrap()
}

/// The upstream can write no more.
async fn stalls(seen: &Seen) -> usize {
    let last = AtomicUsize::new(0);
    let same = AtomicUsize::new(0);
    eventually("the upstream has to wait", LIMIT, || async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = seen.written.load(SeqCst);
        if now == last.swap(now, SeqCst) && now > 0 {
            same.fetch_add(1, SeqCst);
        } else {
            same.store(0, SeqCst);
        }
        holds(same.load(SeqCst) > 40, now.to_string())
    })
    .await;
    seen.written.load(SeqCst)
}

async fn whole(body: Incoming) {
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), LARGE);
    for (number, given) in body.chunks(PIECE).enumerate() {
        assert!(given == piece(number), "piece {number} is another");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_does_not_hold_the_upstream() {
    let seen = Arc::new(Seen::default());
    let upstream = upstream(&seen).await;
    let flags = ["--workers", "1", "--upstream-read-ahead", "48MiB", "--upstream-read-ahead-total", "64MiB"];
    let text = config(&[upstream.addr], "").replace("read_timeout: 10000", "read_timeout: 20000");
    let gateway = Gateway::start_with(&text, &flags).await;
    for (round, path) in ["/length", "/chunked"].into_iter().enumerate() {
        let response = slow(gateway.proxy, path).await;
        eventually("the upstream is done", LIMIT, || async {
            holds(seen.finished.load(SeqCst) > round, seen.written.load(SeqCst).to_string())
        })
        .await;
        eventually("its connection is free", LIMIT, || async {
            holds(gateway.metric("gateway_upstream_connections_idle").await == 1.0, "not yet")
        })
        .await;
        eventually("the answer is held", LIMIT, || async {
            holds(gateway.metric("gateway_response_read_ahead_bytes").await > 0.0, "nothing")
        })
        .await;
        assert_eq!(gateway.get("/small").await.body(), "ok");
        assert_eq!(seen.connections.load(SeqCst), 1, "{path}: the connection serves others");
        whole(response.into_body()).await;
        eventually("nothing is held any more", LIMIT, || async {
            holds(gateway.metric("gateway_response_read_ahead_bytes").await == 0.0, "something")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_ahead_is_bounded_and_nothing_is_without_buffering() {
    for buffering in [true, false] {
        let seen = Arc::new(Seen::default());
        let upstream = upstream(&seen).await;
        let text = config(&[upstream.addr], "")
            .replace("read_timeout: 10000", "read_timeout: 20000")
            .replace("    paths: [/]", &format!("    response_buffering: {buffering}\n    paths: [/]"));
        let gateway = Gateway::start_with(&text, &["--workers", "1"]).await;
        let response = slow(gateway.proxy, "/length").await;
        let written = stalls(&seen).await;
        assert!(written < LARGE, "{written} of {LARGE}");
        assert_eq!(seen.finished.load(SeqCst), 0);
        let held = gateway.metric("gateway_response_read_ahead_bytes").await;
        // a read may bring more than was missing
        let most = f64::from(3 * 64 * 1024);
        assert!(if buffering { held > 0.0 && held <= most } else { held == 0.0 }, "{buffering}: {held}");
        assert_eq!(gateway.get("/small").await.body(), "ok");
        assert_eq!(seen.connections.load(SeqCst), 2, "the first connection is still in use");
        whole(response.into_body()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_breaks_off_while_the_client_is_slow_is_noticed() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut head = [0; 1024];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
        let _ =
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").as_bytes()).await;
        for number in 0..LARGE / PIECE / 2 {
            if stream.write_all(&piece(number)).await.is_err() {
                return;
            }
        }
    })
    .await;
    let flags = ["--workers", "1", "--upstream-read-ahead", "48MiB", "--upstream-read-ahead-total", "64MiB"];
    let text = config(&[upstream.addr], "").replace("read_timeout: 10000", "read_timeout: 20000");
    let gateway = Gateway::start_with(&text, &flags).await;
    let response = slow(gateway.proxy, "/length").await;
    eventually("the end is read ahead", LIMIT, || async {
        let held = gateway.metric("gateway_response_read_ahead_bytes").await;
        holds(held > 0.0, held.to_string())
    })
    .await;
    assert!(response.into_body().collect().await.is_err(), "half a body must not look complete");
}
