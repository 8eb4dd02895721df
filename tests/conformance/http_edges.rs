//! HTTP as old, odd and hasty clients speak it, byte by byte on the socket.

use std::time::Duration;

use plinth_testbed::{eventually, holds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::side::{Side, on_both};

const SOON: Duration = Duration::from_secs(10);

on_both!(
    http_1_0,
    pipelining,
    chunked_bodies,
    expect_continue,
    connections_survive_errors,
    too_large_closes,
    connection_close,
    slow_clients,
    long_urls_and_many_headers,
    odd_but_legal,
    clients_that_leave,
    gzip_only_when_asked,
    one_host,
);

struct Connection {
    stream: TcpStream,
    name: &'static str,
    /// Read but not yet looked at.
    ahead: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    version: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Connection {
    async fn open(side: &Side) -> Self {
        let stream = TcpStream::connect(side.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, name: side.name, ahead: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// More bytes, or false at the end of the stream.
    async fn fill(&mut self) -> bool {
        let mut more = vec![0; 65_536];
        let read = tokio::time::timeout(SOON, self.stream.read(&mut more));
        let count = read.await.unwrap_or_else(|_| panic!("{}: no answer in time", self.name)).unwrap_or(0);
        self.ahead.extend_from_slice(&more[..count]);
        count > 0
    }

    async fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert!(self.fill().await, "{}: closed within a head: {:?}", self.name, self.ahead);
        };
        let head = String::from_utf8(self.ahead.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().splitn(3, ' ');
        let version = words.next().unwrap().to_owned();
        let status = words.next().unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Answer { status, version, headers, body: Vec::new() }
    }

    /// One whole answer to anything but HEAD.
    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            while self.ahead.len() < length {
                assert!(self.fill().await, "{}: closed within a body", self.name);
            }
            answer.body = self.ahead.drain(..length).collect();
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let line = self.line().await;
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                while self.ahead.len() < size + 2 {
                    assert!(self.fill().await, "{}: closed within a chunk", self.name);
                }
                answer.body.extend(self.ahead.drain(..size));
                self.ahead.drain(..2);
                if size == 0 {
                    break;
                }
            }
        } else if answer.status >= 200 && answer.status != 204 {
            while self.fill().await {}
            answer.body = std::mem::take(&mut self.ahead);
        }
        answer
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|window| window == b"\r\n") {
                let line = self.ahead.drain(..end + 2).collect::<Vec<u8>>();
                return String::from_utf8(line).unwrap();
            }
            assert!(self.fill().await, "{}: closed within a line", self.name);
        }
    }

    /// The server closes and sends nothing more.
    async fn closed(&mut self) {
        while self.fill().await {}
        assert!(self.ahead.is_empty(), "{}: more than expected: {:?}", self.name, self.ahead);
    }

    async fn ask(&mut self, text: &str) -> Answer {
        self.send(text).await;
        self.answer().await
    }
}

async fn http_1_0(side: &Side) {
    side.put("/v1/kv/k", "v").await;
    let mut old = Connection::open(side).await;
    let answer = old.ask("GET /v1/kv/k?raw HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "v"), "{}: {answer:?}", side.name);
    assert_eq!(answer.header("transfer-encoding"), None, "{}: HTTP/1.0 has no chunks", side.name);
    old.closed().await;
    let mut old = Connection::open(side).await;
    old.send("PUT /v1/kv/k HTTP/1.0\r\nContent-Length: 3\r\n\r\nnew").await;
    assert_eq!(old.answer().await.text(), "true", "{}", side.name);
    old.closed().await;
    // Keep-alive on request, as ApacheBench and old PHP do.
    let mut old = Connection::open(side).await;
    for _ in 0..2 {
        let answer = old.ask("GET /v1/kv/k?raw HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(answer.text(), "new", "{}: {answer:?}", side.name);
        assert_eq!(
            answer.header("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive"),
            "{}",
            side.name
        );
    }
}

async fn pipelining(side: &Side) {
    let mut all = String::new();
    for number in 0..20 {
        all +=
            &format!("PUT /v1/kv/pipe/{number} HTTP/1.1\r\nHost: c\r\nContent-Length: 2\r\n\r\n{number:02}");
        all += &format!("GET /v1/kv/pipe/{number}?raw HTTP/1.1\r\nHost: c\r\n\r\n");
    }
    all += "GET /v1/kv/missing HTTP/1.1\r\nHost: c\r\n\r\nGET /v1/status/leader HTTP/1.1\r\nHost: c\r\n\r\n";
    let mut connection = Connection::open(side).await;
    connection.send(&all).await;
    for number in 0..20 {
        assert_eq!(connection.answer().await.text(), "true", "{}", side.name);
        assert_eq!(connection.answer().await.text(), format!("{number:02}"), "{}: in order", side.name);
    }
    assert_eq!(connection.answer().await.status, 404, "{}", side.name);
    assert_eq!(connection.answer().await.status, 200, "{}", side.name);
}

async fn chunked_bodies(side: &Side) {
    let mut connection = Connection::open(side).await;
    let answer = connection
        .ask("PUT /v1/kv/chunked HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\n\r\n")
        .await;
    assert_eq!(answer.text(), "true", "{}: {answer:?}", side.name);
    let answer = connection.ask("GET /v1/kv/chunked?raw HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.text(), "abcdefgh", "{}", side.name);
    // A registration in two chunks with a pause and a trailer.
    let body = r#"{"Name":"chunked","Port":7}"#;
    let (first, second) = body.split_at(9);
    connection
        .send(&format!(
            "PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n{:x}\r\n{first}\r\n",
            first.len()
        ))
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = connection.ask(&format!("{:x}\r\n{second}\r\n0\r\nX-Sum: 1\r\n\r\n", second.len())).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ""), "{}: {answer:?}", side.name);
    assert_eq!(side.get("/v1/agent/service/chunked").await["Port"], 7, "{}", side.name);
}

async fn expect_continue(side: &Side) {
    let mut connection = Connection::open(side).await;
    connection
        .send("PUT /v1/kv/expect HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let interim = connection.head().await;
    assert_eq!(interim.status, 100, "{}: before the body", side.name);
    assert_eq!(connection.ask("hello").await.text(), "true", "{}", side.name);
    let answer = connection.ask("GET /v1/kv/expect?raw HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.text(), "hello", "{}: the connection goes on", side.name);
}

async fn connections_survive_errors(side: &Side) {
    let mut connection = Connection::open(side).await;
    let put = |path: &str, body: &str| {
        format!("PUT {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let requests = [
        ("GET /v1/kv/nothing HTTP/1.1\r\nHost: c\r\n\r\n".to_owned(), 404),
        ("GET /nowhere HTTP/1.1\r\nHost: c\r\n\r\n".to_owned(), 404),
        (put("/nowhere", "a body nobody reads"), 404),
        (put("/v1/agent/service/register", "{not json"), 400),
        (put("/v1/agent/service/register", r#"{"Nonsense":1}"#), 400),
        (put("/v1/status/leader", "a body nobody reads"), 405),
        (put("/v1/kv/k?acquire=00000000-0000-0000-0000-000000000000", "x"), 500),
        (put("/v1/kv/k?dc=elsewhere", "x"), 500),
        ("GET /v1/kv/k?index=abc HTTP/1.1\r\nHost: c\r\n\r\n".to_owned(), 400),
        ("DELETE /v1/health/state/any HTTP/1.1\r\nHost: c\r\n\r\n".to_owned(), 405),
        (put("/v1/kv/last", "x"), 200),
    ];
    for (request, status) in requests {
        let answer = connection.ask(&request).await;
        assert_eq!(answer.status, status, "{}: {request}: {answer:?}", side.name);
        assert_eq!(answer.version, "HTTP/1.1");
    }
    // HEAD is refused like any other method, without a body on the wire.
    connection.send("HEAD /v1/kv/last HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(connection.head().await.status, 405, "{}", side.name);
    let answer = connection.ask("GET /v1/kv/last?raw HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.text(), "x", "{}", side.name);
}

async fn too_large_closes(side: &Side) {
    let mut connection = Connection::open(side).await;
    connection.send("PUT /v1/kv/big HTTP/1.1\r\nHost: c\r\nContent-Length: 600000\r\n\r\n").await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 413, "{}: {answer:?}", side.name);
    assert!(
        answer.text().starts_with("Request body(600000 bytes) too large, max size: 524288 bytes."),
        "{answer:?}"
    );
    connection.closed().await;
    // The server is there for the next one.
    assert_eq!(side.send(http::Method::GET, "/v1/kv/big", "").await.status(), 404, "{}", side.name);
    // Without a length Consul 1.8 does not notice; the agent does, when it reads.
    let mut connection = Connection::open(side).await;
    connection.send("PUT /v1/kv/big HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    for _ in 0..9 {
        // It may have closed before it read everything.
        if connection.stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let _closed_already = connection.stream.write_all(b"0\r\n\r\n").await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, if side.name == "agent" { 413 } else { 200 }, "{}: {answer:?}", side.name);
}

async fn connection_close(side: &Side) {
    let mut connection = Connection::open(side).await;
    let answer =
        connection.ask("GET /v1/status/leader HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 200, "{}", side.name);
    assert_eq!(answer.header("connection").map(str::to_lowercase).as_deref(), Some("close"), "{}", side.name);
    connection.closed().await;
}

async fn slow_clients(side: &Side) {
    // A byte at a time, and a long pause within the body; others are served meanwhile.
    let mut slow = Connection::open(side).await;
    for byte in "PUT /v1/kv/slow HTTP/1.1\r\nHost: c\r\nContent-Length: 4\r\n\r\nsl".chars() {
        slow.send(&byte.to_string()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..20 {
        side.put("/v1/kv/fast", "x").await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let answer = slow.ask("ow").await;
    assert_eq!(answer.text(), "true", "{}", side.name);
    // An idle connection is kept for a client that comes back.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = slow.ask("GET /v1/kv/slow?raw HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.text(), "slow", "{}", side.name);
}

async fn long_urls_and_many_headers(side: &Side) {
    let key = "k".repeat(30_000);
    side.put(&format!("/v1/kv/{key}"), "long").await;
    let answer = side.send(http::Method::GET, &format!("/v1/kv/{key}?raw"), "").await;
    assert_eq!(answer.body().as_ref(), b"long", "{}", side.name);
    let mut connection = Connection::open(side).await;
    // The agent's HTTP library takes a hundred.
    let many: String = (0..90).map(|number| format!("X-Many-{number}: {number}\r\n")).collect();
    let answer = connection.ask(&format!("GET /v1/status/leader HTTP/1.1\r\nHost: c\r\n{many}\r\n")).await;
    assert_eq!(answer.status, 200, "{}: 90 headers", side.name);
    let large = "v".repeat(60_000);
    let answer = connection
        .ask(&format!("GET /v1/status/leader HTTP/1.1\r\nHost: c\r\nCookie: {large}\r\n\r\n"))
        .await;
    assert_eq!(answer.status, 200, "{}: a header of 60 kB", side.name);
    let query = "unknown=".to_owned() + &"q".repeat(20_000);
    let answer = connection.ask(&format!("GET /v1/status/leader?{query} HTTP/1.1\r\nHost: c\r\n\r\n")).await;
    assert_eq!(answer.status, 200, "{}: a query of 20 kB", side.name);
}

async fn one_host(side: &Side) {
    for (version, hosts, why) in [
        ("1.1", "", Some("missing required Host header")),
        ("1.1", "Host: a\r\nHost: a\r\n", Some("too many Host headers")),
        ("1.1", "Host: a b\r\n", Some("malformed Host header")),
        ("1.1", "Host:\r\n", None),
        ("1.0", "", None),
    ] {
        let mut connection = Connection::open(side).await;
        let answer = connection.ask(&format!("GET /v1/status/leader HTTP/{version}\r\n{hosts}\r\n")).await;
        assert_eq!(answer.status, if why.is_some() { 400 } else { 200 }, "{}: {hosts:?}", side.name);
        let Some(why) = why else { continue };
        assert_eq!(answer.text(), format!("400 Bad Request: {why}"), "{}", side.name);
        assert_eq!(answer.header("connection"), Some("close"), "{}", side.name);
        connection.closed().await;
    }
}

async fn odd_but_legal(side: &Side) {
    let mut connection = Connection::open(side).await;
    // The whole URL in the request line, as through a proxy; lower-case header names; an empty PUT with a length.
    let answer =
        connection.ask(&format!("GET {} HTTP/1.1\r\nhost: c\r\n\r\n", side.url("/v1/status/leader"))).await;
    assert_eq!(answer.status, 200, "{}: absolute form", side.name);
    let answer = connection.ask("PUT /v1/kv/empty HTTP/1.1\r\nhost: c\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.text(), "true", "{}", side.name);
    // curl's default type for a body, and what Java and .NET say.
    for kind in
        ["application/x-www-form-urlencoded", "application/json; charset=UTF-8", "text/plain", "garbage"]
    {
        let answer = connection
            .ask(&format!(
                "PUT /v1/kv/type HTTP/1.1\r\nHost: c\r\nContent-Type: {kind}\r\nContent-Length: 1\r\n\r\nx"
            ))
            .await;
        assert_eq!(answer.text(), "true", "{}: {kind}", side.name);
    }
    // A GET with a body, as some libraries send; a PUT without a length has none.
    let answer =
        connection.ask("GET /v1/kv/type?raw HTTP/1.1\r\nHost: c\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(answer.text(), "x", "{}", side.name);
    let answer = connection.ask("PUT /v1/kv/none HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.text(), "true", "{}", side.name);
    // Queries written by hand: a flag with an empty value, a repeated name, plus signs, no value at all.
    side.put("/v1/kv/a%20b/c", "spaced").await;
    let answer = connection.ask("GET /v1/kv/a%20b/c?raw= HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.text(), "spaced", "{}", side.name);
    let answer =
        connection.ask("GET /v1/kv/a%20b?recurse&&keys=&separator=%2F HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(answer.status, 200, "{}: {answer:?}", side.name);
}

/// Clients that give up in the middle of a long poll or of a body leave nothing behind.
async fn clients_that_leave(side: &Side) {
    side.put("/v1/kv/left", "x").await;
    let index = side.get("/v1/kv/left").await[0]["ModifyIndex"].to_string();
    for _ in 0..50 {
        let mut gone = Connection::open(side).await;
        gone.send(&format!("GET /v1/kv/left?index={index}&wait=60s HTTP/1.1\r\nHost: c\r\n\r\n")).await;
        let mut half = Connection::open(side).await;
        half.send("PUT /v1/kv/half HTTP/1.1\r\nHost: c\r\nContent-Length: 100\r\n\r\nhalf").await;
    }
    eventually("the next client is served", SOON, || async {
        let answer = side.send(http::Method::GET, "/v1/kv/half", "").await;
        holds(answer.status() == 404, format!("{answer:?}"))
    })
    .await;
    side.put("/v1/kv/left", "y").await;
}

async fn gzip_only_when_asked(side: &Side) {
    side.put("/v1/kv/zip", "z".repeat(10_000)).await;
    let mut connection = Connection::open(side).await;
    let plain = connection.ask("GET /v1/kv/zip HTTP/1.1\r\nHost: c\r\n\r\n").await;
    assert_eq!(plain.header("content-encoding"), None, "{}", side.name);
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"), "{}", side.name);
    // Ruby's and Go's way to ask. What comes back says what it is.
    for accept in ["gzip;q=1.0,deflate;q=0.6,identity;q=0.3", "gzip"] {
        let answer = connection
            .ask(&format!("GET /v1/kv/zip HTTP/1.1\r\nHost: c\r\nAccept-Encoding: {accept}\r\n\r\n"))
            .await;
        assert_eq!(answer.status, 200, "{}", side.name);
        match answer.header("content-encoding") {
            None => assert_eq!(answer.body, plain.body, "{}", side.name),
            Some(encoding) => {
                assert_eq!(encoding, "gzip", "{}", side.name);
                assert!(answer.body.len() < plain.body.len() / 10, "{}", side.name);
                assert_eq!(&answer.body[..2], b"\x1f\x8b", "{}", side.name);
            }
        }
    }
}
