//! Plugins that look into bodies, end requests or keep answers, in a real gateway before a real upstream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::time::Duration;

use bytes::Bytes;
use harness::{Gateway, raw};
use http::{HeaderMap, Method, Response};
use http_body_util::Full;
use plinth_testbed::upstream::{RawUpstream, Upstream};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One service, reached at every path; `more` are further fields of the file.
fn config(upstream: &Upstream, more: &str) -> String {
    format!(
        "_format_version: \"3.0\"\nservices:\n- name: s\n  url: http://{}\n  routes:\n  - {{name: r, paths: ['/', '~/re/(?<id>\\d+)'], strip_path: false}}\n{more}",
        upstream.addr
    )
}

async fn gateway(upstream: &Upstream, more: &str) -> Gateway {
    Gateway::start(&config(upstream, more)).await
}

fn answer(
    kind: &'static str,
    body: impl Into<Bytes> + Clone + Send + Sync + 'static,
) -> impl Fn(http::Request<Bytes>) -> std::future::Ready<Response<Full<Bytes>>> {
    move |_| {
        let response = Response::builder().header("content-type", kind).body(Full::new(body.clone().into()));
        std::future::ready(response.unwrap())
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_the_upstream_transformed() {
    let upstream = Upstream::start().await;
    let gateway = gateway(
        &upstream,
        "plugins:
- name: request-transformer
  config:
    http_method: PUT
    replace: {uri: '/v2/$(uri_captures.id)', headers: ['Host:other.example'], body: ['a:$(headers.x_h)']}
    add: {headers: ['X-Q: $(query_params.q or \"none\")'], body: ['b:2'], querystring: ['r:x y']}
    remove: {headers: [x-gone], querystring: [q]}",
    )
    .await;
    let sent = [("content-type", "application/json"), ("x-h", "new"), ("x-gone", "1")];
    let answer = gateway.send(Method::POST, "/re/42?q=7&s=1", &sent, r#"{"a": "old", "k" : 1.50}"#).await;
    assert_eq!(answer.status(), 200);
    let request = upstream.requests().remove(0);
    assert_eq!(
        (request.method().as_str(), request.uri().to_string().as_str()),
        ("PUT", "/v2/42?s=1&r=x%20y")
    );
    assert_eq!(request.body(), r#"{"a":"new","k":1.50,"b":"2"}"#);
    let headers = request.headers();
    assert_eq!(
        (text(headers, "host"), text(headers, "x-q"), text(headers, "x-gone")),
        (Some("other.example"), Some("7"), None)
    );
    assert_eq!(text(headers, "content-length"), Some("28"));
    // A chunked body is gathered and sent with its length.
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
                   4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n";
    assert!(
        raw(gateway.proxy, chunked.as_bytes(), Duration::from_secs(10)).await.starts_with("HTTP/1.1 200")
    );
    let request = upstream.requests().remove(1);
    assert_eq!(
        (request.body(), text(request.headers(), "transfer-encoding")),
        (&Bytes::from(r#"{"a":"","b":"2"}"#), None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_plugins_may_not_hold_are_refused_and_others_stream() {
    let upstream = Upstream::start().await;
    let text = config(
        &upstream,
        "plugins: [{name: key-auth, config: {key_in_body: true}}]\nconsumers: [{username: u, keyauth_credentials: [{key: k}]}]",
    );
    let gateway = Gateway::start_with(&text, &["--plugin-body-limit", "1000"]).await;
    let json = ("content-type", "application/json");
    let body = |bytes: usize| format!(r#"{{"apikey":"k","x":"{}"}}"#, "x".repeat(bytes));
    assert_eq!(gateway.send(Method::POST, "/", &[json], body(900)).await.status(), 200);
    assert_eq!(upstream.requests()[0].body(), &Bytes::from(body(900)));
    let refused = gateway.send(Method::POST, "/", &[json], body(1000)).await;
    assert_eq!(refused.status(), 413);
    assert!(String::from_utf8_lossy(refused.body()).contains("Payload too large"));
    // A kind of body the plugin does not look into is not held.
    let octets = [("content-type", "application/octet-stream"), ("apikey", "k")];
    assert_eq!(gateway.send(Method::POST, "/", &octets, vec![b'x'; 300_000]).await.status(), 200);
    assert_eq!(upstream.requests()[1].body().len(), 300_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_bodies_are_counted_too() {
    let upstream = Upstream::start().await;
    let limited =
        "plugins: [{name: request-size-limiting, config: {allowed_payload_size: 10, size_unit: bytes}}]";
    let gateway = gateway(&upstream, limited).await;
    let chunked = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
    };
    let asked =
        async |body: &str| raw(gateway.proxy, chunked(body).as_bytes(), Duration::from_secs(10)).await;
    assert!(asked("0123456789").await.starts_with("HTTP/1.1 200"));
    let refused = asked("0123456789a").await;
    assert!(
        refused.starts_with("HTTP/1.1 413") && refused.contains("Request size limit exceeded"),
        "{refused}"
    );
    assert_eq!(gateway.send(Method::POST, "/", &[], "0123456789a").await.status(), 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_reach_the_client_transformed() {
    let upstream = Upstream::start().await;
    upstream.respond(answer("application/json", r#"{"secret":1,"kept":[1.0]}"#));
    let plugins = "plugins: [{name: response-transformer, config: {remove: {json: [secret]}, add: {json: ['made:5'], json_types: [number], headers: ['X-Made:yes']}}}]";
    let gateway = gateway(&upstream, plugins).await;
    let found = gateway.get("/").await;
    assert_eq!(
        (found.body(), text(found.headers(), "content-length")),
        (&Bytes::from(r#"{"kept":[1.0],"made":5}"#), Some("23"))
    );
    assert_eq!(text(found.headers(), "x-made"), Some("yes"));
    upstream.respond(answer("text/plain", r#"{"secret":1}"#));
    assert_eq!(gateway.get("/").await.body(), r#"{"secret":1}"#);
    // On the gateway's own answers, too.
    upstream.killed().await;
    let own = gateway.send(Method::GET, "/", &[("accept", "application/json")], "").await;
    assert_eq!((own.status().as_u16(), text(own.headers(), "x-made")), (502, Some("yes")));
    let own: serde_json::Value = serde_json::from_slice(own.body()).unwrap_or(json!(null));
    assert!(own["message"].as_str().is_some_and(|message| message.starts_with("An invalid response")));
}

/// An answer in pieces, larger than what plugins may hold, or broken off: a clean 502 instead of half an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_cannot_be_gathered_are_502() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut request = [0; 4096];
        let length = stream.read(&mut request).await.unwrap_or(0);
        let path = String::from_utf8_lossy(&request[..length]).split(' ').nth(1).unwrap_or("").to_owned();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = match path.as_str() {
            "/good" => "4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n".to_owned(),
            "/large" => format!("{:x}\r\n{}\r\n0\r\n\r\n", 5000, "x".repeat(5000)),
            _ => "4\r\n{\"a\"\r\n".to_owned(),
        };
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    })
    .await;
    let text = format!(
        "_format_version: \"3.0\"\nservices: [{{name: s, url: 'http://{}', retries: 0, routes: [{{paths: [/], strip_path: false}}]}}]
plugins: [{{name: response-transformer, config: {{add: {{json: ['b:2']}}}}}}]",
        upstream.addr
    );
    let gateway = Gateway::start_with(&text, &["--plugin-body-limit", "1000"]).await;
    assert_eq!(gateway.get("/good").await.body(), r#"{"a":1,"b":"2"}"#);
    for path in ["/large", "/short"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), 502, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_answers_look_like_the_upstreams() {
    let upstream = Upstream::start().await;
    upstream.respond(|request| {
        let body = format!("{} times", request.uri());
        let response = Response::builder()
            .header("content-type", "text/plain")
            .header("server", "up")
            .header("x-own", "1");
        std::future::ready(response.body(Full::from(body)).unwrap())
    });
    let plugins = "plugins:
- {name: proxy-cache, config: {strategy: memory}}
- {name: response-transformer, config: {append: {headers: ['X-Own:2']}}}
- {name: rate-limiting, config: {year: 1000}}";
    let gateway = gateway(&upstream, plugins).await;
    let first = gateway.get("/a?b").await;
    assert_eq!(text(first.headers(), "x-cache-status"), Some("Miss"));
    let second = gateway.get("/a?b").await;
    assert_eq!((second.body(), upstream.requests().len()), (first.body(), 1));
    let headers = second.headers();
    assert_eq!(text(headers, "x-cache-status"), Some("Hit"));
    assert_eq!(text(headers, "x-cache-key"), text(first.headers(), "x-cache-key"));
    assert_eq!(text(headers, "x-cache-key").unwrap().len(), 64);
    assert!(text(headers, "age").unwrap().parse::<u64>().unwrap() < 60);
    assert_eq!((text(headers, "server"), text(headers, "via")), (Some("up"), Some("1.1 kong/3.9.3")));
    assert!(headers.contains_key("x-kong-proxy-latency") && !headers.contains_key("x-kong-response-latency"));
    assert_ne!(text(headers, "x-kong-request-id"), text(first.headers(), "x-kong-request-id"));
    let own: Vec<_> = headers.get_all("x-own").iter().collect();
    assert_eq!(own, ["1", "2"], "plugins change a kept answer once");
    assert_eq!(text(headers, "x-ratelimit-remaining-year"), Some("998"));
    let head = gateway.send(Method::HEAD, "/a?b", &[], "").await;
    assert_eq!((text(head.headers(), "x-cache-status"), head.body().len()), (Some("Miss"), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_up_answers_become_429_without_body() {
    let upstream = Upstream::start().await;
    upstream.respond(|_| {
        let response = Response::builder().header("x-kong-limit", "video=1").body(Full::from("movie"));
        std::future::ready(response.unwrap())
    });
    let gateway =
        gateway(&upstream, "plugins: [{name: response-ratelimiting, config: {limits: {video: {year: 1}}}}]")
            .await;
    assert_eq!(gateway.get("/").await.body(), "movie");
    let refused = gateway.get("/").await;
    assert_eq!((refused.status().as_u16(), refused.body().len()), (429, 0));
    assert_eq!(text(refused.headers(), "x-ratelimit-remaining-video-year"), Some("0"));
    assert_eq!(upstream.requests().len(), 2, "the upstream was asked");
    assert_eq!(text(upstream.requests()[1].headers(), "x-ratelimit-remaining-video"), Some("0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_bodies_are_checked() {
    let upstream = Upstream::start().await;
    let plugins = "plugins: [{name: hmac-auth, config: {validate_request_body: true}}]
consumers: [{username: u, hmacauth_credentials: [{username: bob, secret: secret}]}]";
    let gateway = gateway(&upstream, plugins).await;
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let sign = |text: &str, arguments: &str| {
        let script =
            format!("printf '%s' \"$1\" | openssl dgst -sha256 {arguments} -binary | openssl base64 -A");
        let output = std::process::Command::new("sh").args(["-c", &script, "sh", text]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let digest = format!("SHA-256={}", sign("the body", ""));
    let signature = sign(&format!("date: {date}\ndigest: {digest}"), "-hmac secret");
    let authorization = format!(
        "hmac username=\"bob\", algorithm=\"hmac-sha256\", headers=\"date digest\", signature=\"{signature}\""
    );
    let headers = [("date", date.as_str()), ("digest", &digest), ("authorization", &authorization)];
    assert_eq!(gateway.send(Method::POST, "/", &headers, "the body").await.status(), 200);
    assert_eq!(upstream.requests()[0].body(), "the body");
    let refused = gateway.send(Method::POST, "/", &headers, "another body").await;
    assert_eq!(refused.status(), 401);
    assert!(String::from_utf8_lossy(refused.body()).contains("HMAC signature does not match"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_are_answered_for_routes_without_options_when_asked_for() {
    let upstream = Upstream::start().await;
    let asked = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let file = |flag: &str| {
        config(&upstream, &format!("plugins: [{{name: key-auth}}, {{name: cors, config: {{origins: ['https://a.example', 'https://b.example']{flag}}}}}]"))
            .replace("strip_path: false}", "strip_path: false, methods: [GET, POST]}")
    };
    let kong = Gateway::start(&file("")).await;
    assert_eq!(kong.send(Method::OPTIONS, "/", &asked, "").await.status(), 404);
    let gateway = Gateway::start(&file(", preflight_any_method: true")).await;
    let answer = gateway.send(Method::OPTIONS, "/", &asked, "").await;
    assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 0));
    assert_eq!(text(answer.headers(), "access-control-allow-origin"), Some("https://a.example"));
    for headers in [
        &[("origin", "https://a.example"), ("access-control-request-method", "DELETE")][..],
        &[("origin", "https://a.example")],
    ] {
        assert_eq!(gateway.send(Method::OPTIONS, "/", headers, "").await.status(), 404, "{headers:?}");
    }
    // Errors are marked, too: the page may read that it is not logged in.
    let refused = gateway.send(Method::GET, "/", &asked[..1], "").await;
    assert_eq!(
        (refused.status().as_u16(), text(refused.headers(), "access-control-allow-origin")),
        (401, Some("https://a.example"))
    );
}
