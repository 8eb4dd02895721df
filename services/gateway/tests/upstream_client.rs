//! Conformance of our HTTP/1.1 client, against upstreams driven byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::client::{
    self, Endpoint, Failure, Fault, Limits, Outgoing, PoolSettings, Pools, Reply, ReplyBody, RequestBody,
};
use gateway::tick;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use plinth_testbed::upstream::RawUpstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs like a worker does: one thread, a local set, a ticker.
fn on_worker<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(tick::run());
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("test took too long")
    })
}

fn pools() -> Rc<Pools> {
    Rc::new(Pools::new(PoolSettings::default(), Arc::default()))
}

/// What an upstream may keep silent: more than a busy machine does.
const SILENCE: Duration = Duration::from_secs(2);

fn limits() -> Limits {
    Limits {
        write_timeout: SILENCE,
        read_timeout: SILENCE,
        client_body_timeout: SILENCE,
        head_bytes: 16 * 1024,
    }
}

async fn send_with(
    pools: &Rc<Pools>,
    upstream: &RawUpstream,
    method: Method,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    let endpoint = Endpoint {
        address: upstream.addr,
        tls: None,
        name: "",
        connect_timeout: Duration::from_secs(1),
        limits: limits(),
    };
    let coding = body.coding();
    let name = method.clone();
    let write_head = move |out: &mut Vec<u8>| {
        out.extend_from_slice(format!("{name} /x HTTP/1.1\r\nHost: up\r\n").as_bytes());
        match coding {
            client::Coding::None => {}
            client::Coding::Length(length) => {
                out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
            }
            client::Coding::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        out.extend_from_slice(b"\r\n");
    };
    client::send(
        pools,
        &endpoint,
        &Outgoing { method: &method, upgrade: false, write_head: &write_head },
        body,
    )
    .await
}

async fn get(pools: &Rc<Pools>, upstream: &RawUpstream) -> Result<Reply, Failure> {
    send_with(pools, upstream, Method::GET, &mut RequestBody::empty(false)).await
}

/// The whole body, and its trailers.
async fn whole(reply: Reply) -> Result<(Bytes, Option<http::HeaderMap>), Fault> {
    match reply.body {
        ReplyBody::Empty => Ok((Bytes::new(), None)),
        ReplyBody::Whole(bytes) => Ok((bytes, None)),
        ReplyBody::Stream(body) => {
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned();
            Ok((collected.to_bytes(), trailers))
        }
        ReplyBody::Upgraded(_) | ReplyBody::Http2(_) => panic!("not a body of HTTP/1.1"),
    }
}

/// Reads a request head (and whatever came with it).
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
        all.extend_from_slice(&buffer[..length]);
        if all.windows(4).any(|four| four == b"\r\n\r\n") {
            return Some(String::from_utf8_lossy(&all).into_owned());
        }
    }
}

/// Answers every request on every connection with `answer`, split into pieces of `step` bytes.
async fn answering(answer: &'static [u8], step: usize) -> RawUpstream {
    RawUpstream::start(move |mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            for piece in answer.chunks(step) {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await
}

fn streamed(pieces: Vec<&'static [u8]>, keep: usize) -> RequestBody {
    let frames = pieces.into_iter().map(|piece| Ok(http_body::Frame::data(Bytes::from_static(piece))));
    RequestBody::boxed(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync(), keep)
}

#[test]
fn answers_are_read_at_any_split_and_the_connection_is_used_again() {
    let answers: [(&[u8], &[u8]); 5] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ];
    on_worker(async {
        for (answer, body) in answers {
            for step in [1, 7, 1000] {
                let (upstream, pools) = (answering(answer, step).await, pools());
                for _ in 0..3 {
                    let reply = get(&pools, &upstream).await.unwrap();
                    assert_eq!(whole(reply).await.unwrap().0, body);
                    assert_eq!(pools.len(), 1, "{} in steps of {step}", String::from_utf8_lossy(answer));
                }
            }
        }
    });
}

#[test]
fn head_has_no_body_whatever_its_headers_say() {
    on_worker(async {
        let upstream = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 100).await;
        let pools = pools();
        let reply = send_with(&pools, &upstream, Method::HEAD, &mut RequestBody::empty(false)).await.unwrap();
        assert_eq!(reply.headers["content-length"], "500");
        assert!(matches!(reply.body, ReplyBody::Empty));
        assert_eq!(pools.len(), 1);
    });
}

#[test]
fn trailers_arrive() {
    on_worker(async {
        let upstream = answering(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
            5,
        )
        .await;
        let pools = pools();
        let (body, trailers) = whole(get(&pools, &upstream).await.unwrap()).await.unwrap();
        assert_eq!((&body[..], trailers.unwrap()["x-sum"].as_bytes()), (&b"ok"[..], &b"1"[..]));
        assert_eq!(pools.len(), 1);
    });
}

#[test]
fn bodies_that_end_with_the_connection_are_read_and_the_connection_is_not_kept() {
    on_worker(async {
        let upstream = RawUpstream::start(|mut stream, _| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await.unwrap();
        })
        .await;
        let pools = pools();
        assert_eq!(whole(get(&pools, &upstream).await.unwrap()).await.unwrap().0, "until the end");
        assert!(pools.is_empty());
    });
}

#[test]
fn connections_that_are_to_close_or_have_bytes_left_are_not_kept() {
    on_worker(async {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"[..],
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
        ] {
            let (upstream, pools) = (answering(answer, 1000).await, pools());
            whole(get(&pools, &upstream).await.unwrap()).await.unwrap();
            assert!(pools.is_empty(), "{}", String::from_utf8_lossy(answer));
        }
    });
}

#[test]
fn broken_answers_are_faults_and_never_complete_bodies() {
    on_worker(async {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"garbage\r\n\r\n",
        ] {
            let (upstream, pools) = (answering(answer, 1000).await, pools());
            let failure = get(&pools, &upstream).await.unwrap_err();
            assert!(matches!(failure.fault, Fault::BadHead(_)), "{failure:?}");
            assert!(pools.is_empty());
        }
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nshort"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let upstream = RawUpstream::start(move |mut stream, _| async move {
                read_head(&mut stream).await;
                stream.write_all(answer).await.unwrap();
            })
            .await;
            let pools = pools();
            let reply = get(&pools, &upstream).await.unwrap();
            assert!(whole(reply).await.is_err(), "{}", String::from_utf8_lossy(answer));
            assert!(pools.is_empty());
        }
    });
}

#[test]
fn heads_have_a_limit() {
    on_worker(async {
        let upstream = RawUpstream::start(|mut stream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ").await;
            while stream.write_all(&[b'a'; 1024]).await.is_ok() {}
        })
        .await;
        let failure = get(&pools(), &upstream).await.unwrap_err();
        assert!(matches!(failure.fault, Fault::HeadTooLarge), "{failure:?}");
    });
}

#[test]
fn silence_is_a_timeout_before_and_within_an_answer() {
    on_worker(async {
        for answer in [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
            let upstream = RawUpstream::start(move |mut stream, _| async move {
                read_head(&mut stream).await;
                stream.write_all(answer).await.unwrap();
                std::future::pending::<()>().await;
            })
            .await;
            let start = Instant::now();
            let fault = match get(&pools(), &upstream).await {
                Ok(reply) => whole(reply).await.unwrap_err(),
                Err(failure) => failure.fault,
            };
            assert!(matches!(fault, Fault::ReadTimeout), "{fault:?}");
            let took = start.elapsed();
            assert!(took >= SILENCE && took < SILENCE + Duration::from_millis(1200), "{took:?}");
        }
    });
}

#[test]
fn a_closed_kept_connection_is_replaced_without_notice() {
    on_worker(async {
        // each connection answers once and closes a moment later without saying so
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let upstream = RawUpstream::start(move |mut stream, _| {
            count.fetch_add(1, SeqCst);
            async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        })
        .await;
        let pools = pools();
        for _ in 0..50 {
            let reply = get(&pools, &upstream).await.unwrap();
            assert_eq!(whole(reply).await.unwrap().0, "ok");
        }
        assert_eq!(connections.load(SeqCst), 50);
    });
}

#[test]
fn a_post_that_may_have_been_acted_on_is_not_sent_twice() {
    on_worker(async {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        // answers the first request of a connection and closes upon the second one
        let upstream = RawUpstream::start(move |mut stream, _| {
            let count = count.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                if read_head(&mut stream).await.is_some() {
                    count.fetch_add(1, SeqCst);
                }
            }
        })
        .await;
        let pools = pools();
        whole(get(&pools, &upstream).await.unwrap()).await.unwrap();
        let mut body = streamed(vec![b"once"], 1024);
        let failure = send_with(&pools, &upstream, Method::POST, &mut body).await.unwrap_err();
        assert!(failure.sent && failure.fault.is_stale(), "{failure:?}");
        assert_eq!(requests.load(SeqCst), 1);

        whole(get(&pools, &upstream).await.unwrap()).await.unwrap();
        let mut body = streamed(vec![b"twice is fine"], 1024);
        whole(send_with(&pools, &upstream, Method::PUT, &mut body).await.unwrap()).await.unwrap();
    });
}

#[test]
fn request_bodies_arrive_framed_as_announced() {
    on_worker(async {
        let upstream = RawUpstream::start(|mut stream, _| async move {
            let mut all = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            while !all.ends_with(b"0\r\n\r\n") {
                let length = stream.read(&mut buffer).await.unwrap();
                assert!(length > 0, "closed early");
                all.extend_from_slice(&buffer[..length]);
            }
            let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", all.len() - at);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.write_all(&all[at..]).await.unwrap();
        })
        .await;
        static LARGE: [u8; 20_000] = [b'x'; 20_000];
        let mut body = streamed(vec![b"hello", b"", &LARGE, b"end"], 0);
        let reply = send_with(&pools(), &upstream, Method::POST, &mut body).await.unwrap();
        let echoed = whole(reply).await.unwrap().0;
        let expected = [b"5\r\nhello\r\n4e20\r\n", &LARGE[..], b"\r\n3\r\nend\r\n0\r\n\r\n"].concat();
        assert!(echoed == expected, "{} bytes", echoed.len());
    });
}

#[test]
fn an_answer_may_come_before_the_body_is_sent() {
    on_worker(async {
        let upstream = RawUpstream::start(|mut stream, _| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let pools = pools();
        // a body that never ends
        let endless = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(http_body::Frame::data(Bytes::from_static(b"more"))), ()))
        });
        let mut body = RequestBody::boxed(StreamBody::new(endless).boxed_unsync(), 1024);
        let reply = send_with(&pools, &upstream, Method::POST, &mut body).await.unwrap();
        assert_eq!(reply.status, 413);
        assert_eq!(whole(reply).await.unwrap().0, "no");
        assert!(pools.is_empty(), "the rest of the body is still owed on this connection");
    });
}

#[test]
fn both_bodies_stream_at_once() {
    on_worker(async {
        // echoes each chunk as it comes
        let upstream = RawUpstream::start(|mut stream, _| async move {
            let mut buffer = [0; 1024];
            let mut head = true;
            loop {
                let length = stream.read(&mut buffer).await.unwrap_or(0);
                if length == 0 {
                    return;
                }
                let mut bytes = &buffer[..length];
                if head {
                    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
                    bytes = &bytes[at..];
                    head = false;
                    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                }
                stream.write_all(bytes).await.unwrap();
            }
        })
        .await;
        let (send, receive) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let pieces = futures_util::stream::unfold(receive, |mut receive| async move {
            let piece = receive.recv().await?;
            Some((Ok(http_body::Frame::data(piece)), receive))
        });
        let mut body = RequestBody::boxed(StreamBody::new(pieces).boxed_unsync(), 0);
        send.send(Bytes::from_static(b"one")).unwrap();
        let pools = pools();
        let reply = send_with(&pools, &upstream, Method::POST, &mut body).await.unwrap();
        let ReplyBody::Stream(mut answer) = reply.body else { panic!("not streamed") };
        let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one");
        send.send(Bytes::from_static(b"two")).unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
        drop(send);
        assert!(answer.frame().await.is_none());
        assert_eq!(pools.len(), 1, "both sides are complete");
    });
}

#[test]
fn a_refused_connection_says_that_nothing_was_sent() {
    on_worker(async {
        let upstream = RawUpstream::start(|_, _| async {}).await;
        let address = plinth_testbed::free_port();
        let endpoint = Endpoint {
            address: ([127, 0, 0, 1], address).into(),
            tls: None,
            name: "",
            connect_timeout: Duration::from_secs(1),
            limits: limits(),
        };
        let outgoing = Outgoing { method: &Method::GET, upgrade: false, write_head: &|_| {} };
        let failure =
            client::send(&pools(), &endpoint, &outgoing, &mut RequestBody::empty(false)).await.unwrap_err();
        assert!(!failure.sent && failure.fault.is_connect(), "{failure:?}");
        drop(upstream);
    });
}
