//! Allocations per proxied request, a guard of the data plane's cost that noise cannot touch. Clients and upstream are
//! threads with fixed buffers that allocate nothing, so all that is counted is the gateway's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use harness::{Gateway, config};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] =
    b"GET /some/path?q=1 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: guard\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nServer: guard\r\n\r\nhello world\n";
const REQUESTS: usize = 4000;
/// Measured are 10.35; a little more for what goes on in the background (sweeps twice a second).
const MOST: f64 = 12.0;

/// Answers every request on every connection.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let mut have = 0;
                while let Ok(read @ 1..) = stream.read(&mut buffer[have..]) {
                    have += read;
                    if buffer[..have].ends_with(b"\r\n\r\n") {
                        have = 0;
                        if stream.write_all(ANSWER).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn ask(stream: &mut TcpStream, times: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..times {
        stream.write_all(REQUEST).unwrap();
        let mut have = 0;
        while !buffer[..have].ends_with(b"hello world\n") {
            let read = stream.read(&mut buffer[have..]).unwrap();
            assert!(read > 0, "the gateway closed the connection");
            have += read;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200 "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxied_request_allocates_little() {
    let flags = ["--workers", "1", "--config-poll", "1h"];
    let gateway = Gateway::start_with(&config(&[upstream()], ""), &flags).await;
    let proxy = gateway.proxy;
    let each = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(proxy).unwrap();
        stream.set_nodelay(true).unwrap();
        ask(&mut stream, 500);
        let region = Region::new(COUNTING);
        ask(&mut stream, REQUESTS);
        let change = region.change();
        (change.allocations + change.reallocations) as f64 / REQUESTS as f64
    })
    .await
    .unwrap();
    println!("{each:.2} allocations per request");
    assert!(each >= 1.0, "{each:.2} allocations per request: not all of them were counted");
    assert!(each <= MOST, "{each:.2} allocations per request, at most {MOST} are allowed");
}
