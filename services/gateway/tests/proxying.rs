//! The gateway in front of upstreams that misbehave: retries, timeouts, reloads, shutdown, framing, websockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Client, Gateway, config, raw};
use http::{Method, Response};
use http_body_util::Full;
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::upstream::{RawUpstream, Upstream};
use plinth_testbed::{eventually, free_port, holds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn closed() -> std::net::SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_the_upstream_with_kongs_headers() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let answer = gateway
        .send(
            Method::POST,
            "/a/b?q=1",
            &[("x-forwarded-for", "9.9.9.9"), ("connection", "x-hop"), ("x-hop", "1"), ("x-stays", "1")],
            "hello",
        )
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["via"], "1.1 kong/3.9.3");
    assert!(answer.headers().contains_key("x-kong-upstream-latency"));
    assert!(answer.headers().contains_key("x-kong-proxy-latency"));
    assert!(!answer.headers().contains_key("x-kong-response-latency"));

    let request = upstream.requests().remove(0);
    assert_eq!(request.uri(), "/a/b?q=1");
    assert_eq!(request.body(), "hello");
    let headers = request.headers();
    assert_eq!(headers["host"], upstream.addr.to_string());
    assert_eq!(headers["x-forwarded-for"], "9.9.9.9, 127.0.0.1");
    assert_eq!(headers["x-real-ip"], "127.0.0.1");
    assert_eq!(headers["x-forwarded-path"], "/a/b");
    assert_eq!(headers["x-kong-request-id"], answer.headers()["x-kong-request-id"]);
    assert_eq!(headers["x-stays"], "1");
    assert!(!headers.contains_key("x-hop"));

    let missing = Gateway::start("_format_version: \"3.0\"").await;
    let answer = missing.get("/nothing").await;
    assert_eq!(answer.status(), 404);
    assert!(answer.headers().contains_key("x-kong-response-latency"));
    assert!(String::from_utf8_lossy(answer.body()).contains("no Route matched with those values"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_tried_elsewhere_whatever_the_method() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[closed(), upstream.addr], "")).await;
    for method in [Method::GET, Method::POST, Method::PUT] {
        for _ in 0..6 {
            let answer = gateway.send(method.clone(), "/", &[], "body").await;
            assert_eq!(answer.status(), 200, "{method}");
        }
    }
    assert!(gateway.metric("gateway_upstream_retries_total").await >= 8.0);
}

/// Reads the request and closes, for ever; counts the requests.
async fn slams(requests: Arc<AtomicUsize>) -> RawUpstream {
    RawUpstream::start(move |mut stream, _| {
        let requests = requests.clone();
        async move {
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                requests.fetch_add(1, SeqCst);
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_reset_before_headers_is_tried_retries_plus_one_times_and_a_post_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let upstream = slams(requests.clone()).await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.status(), 502);
    assert!(
        String::from_utf8_lossy(answer.body())
            .starts_with("An invalid response was received from the upstream")
    );
    assert!(answer.headers().contains_key("x-kong-upstream-latency"));
    assert_eq!(requests.swap(0, SeqCst), 4);
    assert_eq!(gateway.send(Method::POST, "/", &[], "x").await.status(), 502);
    assert_eq!(requests.swap(0, SeqCst), 1);
    assert_eq!(gateway.send(Method::PUT, "/", &[], "x").await.status(), 502);
    assert_eq!(requests.load(SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_in_its_body_is_never_asked_for_again() {
    let upstream = Upstream::start().await;
    upstream.respond(|_| async { Response::new(Full::from(vec![b'x'; 100_000])) });
    let chaos = Proxy::start(upstream.addr).await;
    chaos.set(Mode::ResetAfter(20_000));
    let gateway = Gateway::start(&config(&[chaos.addr()], "")).await;
    let mut client = Client::connect(gateway.proxy).await;
    assert!(client.get("/").await.is_err(), "a short body must not look complete");
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(gateway.metric("gateway_upstream_retries_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_times_out_and_the_next_target_answers() {
    let upstream = Upstream::start().await;
    let hole = Proxy::start(upstream.addr).await;
    hole.set(Mode::BlackHole);
    let impatient = |targets: &[std::net::SocketAddr]| {
        config(targets, "").replace("read_timeout: 10000", "read_timeout: 300")
    };
    let gateway = Gateway::start(&impatient(&[hole.addr(), upstream.addr])).await;
    for _ in 0..4 {
        let start = Instant::now();
        assert_eq!(gateway.get("/").await.status(), 200);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    let alone = Gateway::start(&impatient(&[hole.addr()]).replace("retries: 3", "retries: 0")).await;
    let start = Instant::now();
    let answer = alone.get("/").await;
    assert_eq!(answer.status(), 504);
    assert!(String::from_utf8_lossy(answer.body()).starts_with("The upstream server is timing out"));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_targets_is_503_in_kongs_words() {
    let gateway = Gateway::start(&config(&[], "").replace("  targets:\n", "")).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.status(), 503);
    assert!(String::from_utf8_lossy(answer.body()).contains("failure to get a peer from the ring-balancer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_upstream_are_kept() {
    let upstream = Upstream::start().await;
    let chaos = Proxy::start(upstream.addr).await;
    let gateway = Gateway::start(&config(&[chaos.addr()], "")).await;
    let mut client = Client::connect(gateway.proxy).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.unwrap().0, 200);
    }
    assert_eq!(chaos.accepted(), 1);
}

/// Asks over kept connections until told to stop; counts answers other than 200 and requests lost.
async fn load(proxy: std::net::SocketAddr, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut done, mut bad) = (0, Vec::new());
    let mut client = Client::connect(proxy).await;
    while !stop.load(SeqCst) {
        match client.get("/").await {
            Ok((200, ..)) => done += 1,
            Ok((status, _, body)) => bad.push(format!("{status} {}", String::from_utf8_lossy(&body))),
            Err(error) => bad.push(error.to_string()),
        }
    }
    (done, bad)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_drop_nothing_and_keep_connections() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::start(&config(&[one.addr], "")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(load(gateway.proxy, stop.clone()))).collect();
    for round in 0_u32..20 {
        let target = if round % 2 == 0 { two.addr } else { one.addr };
        let text = format!("{}\n# {round}\n", config(&[target], ""));
        let swap = gateway.file.with_extension("new");
        std::fs::write(&swap, text).unwrap();
        std::fs::rename(&swap, &gateway.file).unwrap();
        let wanted = f64::from(round) + 2.0;
        eventually("the new configuration runs", Duration::from_secs(10), || async {
            let generation = gateway.metric("gateway_config_generation").await;
            holds(generation >= wanted, generation.to_string())
        })
        .await;
    }
    stop.store(true, SeqCst);
    let mut done = 0;
    for client in clients {
        let (ok, bad) = client.await.unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        done += ok;
    }
    assert!(done > 100, "{done}");
    assert!(!two.requests().is_empty() && !one.requests().is_empty());
    assert!(gateway.metric("gateway_connections_accepted_total").await <= 8.0, "connections were kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_leaves_the_running_configuration_and_is_reported() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    std::fs::write(&gateway.file, "_format_version: \"3.0\"\nservices: [{name: x}]\n").unwrap();
    let url = format!("http://{}/status", gateway.admin);
    eventually("the refusal shows", Duration::from_secs(10), || async {
        let status = plinth_testbed::http_client::get(&url).await.unwrap();
        let said = String::from_utf8_lossy(status.body()).into_owned();
        holds(said.contains("required field missing"), said)
    })
    .await;
    assert_eq!(gateway.metric("gateway_config_last_reload_successful").await, 0.0);
    assert_eq!(gateway.get("/").await.status(), 200);

    let url = format!("http://{}/config", gateway.admin);
    let good = config(&[upstream.addr], "") + "# posted\n";
    let post = async |query: &str| {
        let (url, kind) = (format!("{url}{query}"), [("content-type", "text/yaml")]);
        plinth_testbed::http_client::send(Method::POST, &url, &kind, good.clone()).await
    };
    assert_eq!(post("").await.unwrap().status(), 201);
    assert_eq!(post("?check_hash=1").await.unwrap().status(), 304);
    let bad = plinth_testbed::http_client::send(Method::POST, &url, &[], "services: 3").await.unwrap();
    assert_eq!(bad.status(), 400);
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_loses_no_request_that_was_accepted() {
    let upstream = Upstream::start().await;
    upstream.respond(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Response::new(Full::from("slow"))
    });
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let proxy = gateway.proxy;
    let clients: Vec<_> = (0..16)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(proxy).await;
                let mut done = 0;
                loop {
                    match client.get("/").await {
                        Ok((200, headers, _)) => {
                            done += 1;
                            if headers.get("connection").is_some_and(|value| value == "close") {
                                return Ok(done);
                            }
                        }
                        Ok((status, ..)) => return Err(format!("status {status}")),
                        // between two requests the connection may close; within one it may not
                        Err(error) if error.is_closed() || error.is_canceled() => return Ok(done),
                        Err(error) => return Err(format!("{error:?}")),
                    }
                }
            })
        })
        .collect();
    eventually("load runs", Duration::from_secs(10), || async {
        holds(upstream.requests().len() > 32, "not yet")
    })
    .await;
    let start = Instant::now();
    gateway.stop().await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for client in clients {
        assert!(client.await.unwrap().unwrap() > 0);
    }
    assert!(TcpStream::connect(proxy).await.is_err(), "the listener is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubtful_framing_is_refused_and_nothing_is_smuggled() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let limit = Duration::from_secs(10);
    for request in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n",
    ] {
        let answer = raw(gateway.proxy, request, limit).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
            "{}\n{answer}",
            String::from_utf8_lossy(request)
        );
    }
    assert_eq!(upstream.requests().len(), 0);
    let answer = raw(gateway.proxy, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", limit).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");

    // both lengths: only the chunked one counts, and only it goes upstream
    let both = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                 5\r\nhello\r\n0\r\n\r\n";
    raw(gateway.proxy, both, limit).await;
    for request in upstream.requests() {
        assert_eq!(request.body(), "hello");
        assert_ne!(request.headers().get("content-length").map(|length| length.as_bytes()), Some(&b"4"[..]));
    }
}

/// What the upstream gets before the client has sent its last byte, and what the head says of the body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_buffered_unless_the_route_streams() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limit = Duration::from_secs(10);
    let head = async |stream: &mut TcpStream| {
        let mut text = Vec::new();
        while !text.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(tokio::time::timeout(limit, stream.read_buf(&mut text)).await.unwrap().unwrap(), 0);
        }
        String::from_utf8(text).unwrap().to_ascii_lowercase()
    };
    let begin = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let streaming = config(&[upstream.local_addr().unwrap()], "")
        .replace("    paths: [/]", "    request_buffering: false\n    paths: [/]");
    assert!(streaming.contains("request_buffering"), "{streaming}");
    let gateway = Gateway::start(&streaming).await;
    let mut client = TcpStream::connect(gateway.proxy).await.unwrap();
    client.write_all(begin).await.unwrap();
    let (mut stream, _) = tokio::time::timeout(limit, upstream.accept()).await.unwrap().unwrap();
    let seen = head(&mut stream).await;
    assert!(seen.contains("transfer-encoding: chunked") && !seen.contains("content-length"), "{seen}");

    let gateway = Gateway::start(&config(&[upstream.local_addr().unwrap()], "")).await;
    let mut client = TcpStream::connect(gateway.proxy).await.unwrap();
    client.write_all(begin).await.unwrap();
    client.write_all(b"2\r\nde\r\n0\r\n\r\n").await.unwrap();
    let (mut stream, _) = tokio::time::timeout(limit, upstream.accept()).await.unwrap().unwrap();
    let seen = head(&mut stream).await;
    assert!(seen.contains("content-length: 5\r\n") && !seen.contains("transfer-encoding"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_bodies_stream_through() {
    let upstream = Upstream::start().await;
    upstream.respond(|request| async move { Response::new(Full::from(request.into_body())) });
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let proxy = gateway.proxy;
    let clients: Vec<_> = (0..10_usize)
        .map(|client| {
            tokio::spawn(async move {
                let stream = TcpStream::connect(proxy).await.unwrap();
                let io = hyper_util::rt::TokioIo::new(stream);
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                for round in 0..1000_usize {
                    let length = (client * 7919 + round * 104_729) % 40_000;
                    let body = vec![b'a' + u8::try_from(round % 26).unwrap(); length];
                    let request = http::Request::post("/")
                        .header("host", "h")
                        .body(Full::new(Bytes::from(body.clone())))
                        .unwrap();
                    sender.ready().await.unwrap();
                    let answer = sender.send_request(request).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    let echoed: Bytes =
                        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
                    assert!(
                        echoed == body,
                        "client {client} round {round}: {} of {length} bytes",
                        echoed.len()
                    );
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_both_ways_and_other_upgrades_do_not() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut head = Vec::new();
        let mut byte = [0; 1];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_exact(&mut byte).await.is_err() {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        if !head.contains("upgrade: websocket\r\n") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").await;
            return;
        }
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi ",
            )
            .await
            .unwrap();
        let mut buffer = [0; 100];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => stream.write_all(&buffer[..length].to_ascii_uppercase()).await.unwrap(),
            }
        }
    })
    .await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\nhi ") {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        seen.push(byte[0]);
    }
    assert!(String::from_utf8_lossy(&seen).starts_with("HTTP/1.1 101"));
    for _ in 0..3 {
        stream.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"PING");
    }
    let h2c = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n";
    let answer = raw(gateway.proxy, h2c, Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("plain"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_head_is_cut_off_and_readiness_follows_configuration() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start_with(&config(&[upstream.addr], ""), &["--client-header-timeout", "200ms"]).await;
    let start = Instant::now();
    raw(gateway.proxy, b"GET / HTTP/1.1\r\nHo", Duration::from_secs(5)).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let url = format!("http://{}/status/ready", gateway.status);
    eventually("ready", Duration::from_secs(5), || async {
        let status = plinth_testbed::http_client::get(&url).await.unwrap().status();
        holds(status == 200, status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_within_the_limit_passes_and_one_above_it_reaches_nobody() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let ask = async |bytes: usize| {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {}\r\n\r\n",
            "x".repeat(bytes)
        );
        let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
        // the gateway may close before it has taken all of it
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(ask(30_000).await.starts_with("HTTP/1.1 200"));
    let seen = upstream.requests().pop().unwrap();
    assert_eq!(seen.headers()["cookie"].len(), 30_000);
    for bytes in [33_000, 500_000] {
        let answer = ask(bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 494 "), "{bytes}: {answer}");
    }
    assert_eq!(upstream.requests().len(), 1);
}
