//! Requests that a strict server refuses, and how: Kong's answers where hyper would give its own, nothing smuggled past the
//! framing, limits of heads and bodies, the PROXY protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::time::Duration;

use harness::{Gateway, config, raw};
use http::Method;
use plinth_testbed::upstream::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_be_read_in_two_ways_is_refused_and_reaches_nobody() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    for (what, head, body) in [
        (
            "both lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "0\r\n\r\n",
        ),
        (
            "both, the other way",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "0\r\n\r\n",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "hello!",
        ),
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "hello",
        ),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", "hello"),
        ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", "hello"),
        (
            "another coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "0\r\n\r\n",
        ),
        (
            "an unknown coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "0\r\n\r\n",
        ),
        ("a coding on 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
        ("a space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", "hello"),
        ("a continued line", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", ""),
        ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n", ""),
        ("one bare line feed", "GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n", ""),
        ("no host", "GET / HTTP/1.1\r\n\r\n", ""),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ""),
        ("no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("a bad target", "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("a bad version", "GET / HTTP/9.1\r\nHost: a\r\n\r\n", ""),
        ("a bad header name", "GET / HTTP/1.1\r\nHost: a\r\nX A: b\r\n\r\n", ""),
    ] {
        // what follows must not be taken for a request either
        let text = format!("{head}{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = raw(gateway.proxy, text.as_bytes(), LIMIT).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert!(answer.contains("Bad request\nrequest_id: "), "{what}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nserver: kong/"), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert_eq!(upstream.requests().len(), 0, "{what}");
    }
    for (size, what) in [
        ("x", "no size"),
        ("-1", "a negative size"),
        ("0x2", "a prefixed size"),
        ("2\nhi", "a bare line feed"),
    ] {
        let text = format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhi\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = raw(gateway.proxy, text.as_bytes(), LIMIT).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert!(!upstream.requests().iter().any(|request| request.uri() == "/smuggled"), "{what}");
    }
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_before_a_doubtful_one_is_answered_as_ever() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let text = b"PUT /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nPOST /two HTTP/1.1\r\nHost: a\r\n\
        Content-Length: 3\r\n\r\nabcGET /three HTTP/1.1\nHost: a\r\n\r\nGET /four HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(gateway.proxy, text, LIMIT).await;
    let statuses: Vec<&str> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answer}");
    let seen: Vec<_> = upstream.requests().iter().map(|request| request.uri().path().to_owned()).collect();
    assert_eq!(seen, ["/one", "/two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_have_limits_with_kongs_answers() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with(&config(&[upstream.addr], ""), &["--client-body-limit", "1000B"]).await;
    let long = |count: usize| "x".repeat(count);
    let many: String = (0..150).map(|number| format!("X-{number}: 1\r\n")).collect();
    for (what, head, wanted, message) in [
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(40_000)), 414, "URI too long"),
        (
            "a long header",
            format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", long(40_000)),
            494,
            "Request header or cookie too large",
        ),
        (
            "many headers",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
            494,
            "Request header or cookie too large",
        ),
        (
            "trace",
            "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            405,
            "Method not allowed",
        ),
        (
            "a large body",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{}", long(1001)),
            413,
            "Payload too large",
        ),
        (
            "a large body in pieces",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{}\r\n0\r\n\r\n",
                long(1024)
            ),
            413,
            "Payload too large",
        ),
    ] {
        let answer = raw(gateway.proxy, head.as_bytes(), LIMIT).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{what}: {answer}");
        assert!(answer.contains(message) && answer.contains("request_id"), "{what}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("x-kong-request-id: "), "{what}: {answer}");
    }
    assert!(upstream.requests().is_empty());
    let fits = gateway.send(Method::POST, "/", &[], long(1000)).await;
    assert_eq!(fits.status(), 200);
    // errors follow Accept where the head could be read
    let html = gateway.send(Method::POST, "/", &[("accept", "text/html")], long(1001)).await;
    assert_eq!(html.headers()["content-type"], "text/html; charset=utf-8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_is_told_to_continue() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[upstream.addr], "")).await;
    let mut stream = TcpStream::connect(gateway.proxy).await.unwrap();
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(upstream.requests()[0].body(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_protocol_names_the_client_behind_a_trusted_balancer() {
    let upstream = Upstream::start().await;
    let told = async |flags: &[&str], header: &[u8]| {
        let mut all = vec!["--proxy-listen", "127.0.0.1:0 proxy_protocol"];
        all.extend(flags);
        let gateway = Gateway::start_with(&config(&[upstream.addr], ""), &all).await;
        let request = [header, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat();
        let answer = raw(gateway.proxy, &request, LIMIT).await;
        if answer.is_empty() {
            return "closed".to_owned();
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        upstream.requests().pop().unwrap().headers()["x-real-ip"].to_str().unwrap().to_owned()
    };
    let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 5000 80\r\n";
    let v2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 9, 10, 0, 0, 1, 19, 136, 0, 80]].concat();
    let trusting = ["--trusted-ips", "127.0.0.0/8", "--real-ip-header", "proxy_protocol"];
    assert_eq!(told(&trusting, v1).await, "203.0.113.9");
    assert_eq!(told(&trusting, &v2).await, "203.0.113.9");
    assert_eq!(told(&trusting, b"PROXY UNKNOWN\r\n").await, "127.0.0.1");
    assert_eq!(told(&["--real-ip-header", "proxy_protocol"], v1).await, "127.0.0.1", "nobody is trusted");
    assert_eq!(told(&trusting, b"").await, "closed", "no header");
}
