//! The limit of connections per client address, on this agent and on a real Consul: never more at once, those beyond it closed
//! without an answer, and every place that becomes free is given again, under load too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plinth_agent::{Agent, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LIMIT: usize = 40;
const SOON: Duration = Duration::from_secs(20);

/// Asks once and keeps the connection; nothing when it was closed without an answer.
async fn admitted(at: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nhost: a\r\n\r\n").await.ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.ok()?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Some(stream)
}

async fn keeps_the_limit(at: SocketAddr) {
    let mut inside = Vec::new();
    for _ in 0..LIMIT {
        inside.push(admitted(at).await.expect("below the limit"));
    }
    for _ in 0..5 {
        assert!(admitted(at).await.is_none(), "beyond the limit");
    }
    inside.truncate(LIMIT - 7);
    eventually("places that became free are given again", SOON, || async {
        let Some(stream) = admitted(at).await else { return holds(false, "refused") };
        drop(stream);
        Ok(())
    })
    .await;
    drop(inside);

    // many more than the limit come and go at once
    let (now, most, served) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4 * LIMIT)
        .map(|_| {
            let (now, most, served) = (now.clone(), most.clone(), served.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    let Some(stream) = admitted(at).await else { continue };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    served.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    // counted out before it is closed: what this says is held is held
                    now.fetch_sub(1, Ordering::SeqCst);
                    drop(stream);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let (most, served) = (most.load(Ordering::SeqCst), served.load(Ordering::SeqCst));
    assert!(most <= LIMIT && served >= LIMIT, "{most} at once, {served} served");
    eventually("all places are free after the load", SOON, || async {
        let mut inside = Vec::new();
        while inside.len() < LIMIT {
            match admitted(at).await {
                Some(stream) => inside.push(stream),
                None => return Err(format!("{} of {LIMIT}", inside.len())),
            }
        }
        holds(admitted(at).await.is_none(), "one beyond the limit")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_agent() {
    let settings = Settings { http_port: 0, max_connections_per_address: Some(LIMIT), ..Settings::default() };
    let agent = Agent::start(settings).await.unwrap();
    keeps_the_limit(agent.address()).await;
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_consul() {
    let limit = format!("limits {{ http_max_conns_per_client = {LIMIT} }}");
    let consul = RealConsul::start_with(&[&limit]).await;
    // what the testbed asked with closes its connections on its own time
    eventually("the testbed's own connections are gone", SOON, || async {
        let mut inside = Vec::new();
        while let Some(stream) = admitted(consul.addr).await {
            inside.push(stream);
        }
        holds(inside.len() == LIMIT, inside.len().to_string())
    })
    .await;
    eventually("and ours", SOON, || async { holds(admitted(consul.addr).await.is_some(), "refused") }).await;
    keeps_the_limit_after_others(consul.addr).await;
}

/// Consul notices a closed connection a moment later, so the first places are waited for.
async fn keeps_the_limit_after_others(at: SocketAddr) {
    eventually("all places are free", SOON, || async {
        let mut inside = Vec::new();
        while inside.len() < LIMIT {
            match admitted(at).await {
                Some(stream) => inside.push(stream),
                None => return Err(inside.len().to_string()),
            }
        }
        Ok(())
    })
    .await;
    eventually("the limit is kept", Duration::from_secs(60), || async {
        let run = tokio::spawn(async move { keeps_the_limit(at).await });
        run.await.map_err(|error| error.to_string())
    })
    .await;
}

/// A head that never ends; Consul has no such limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_trickles_in_loses_its_connection() {
    let settings = Settings { http_port: 0, head_timeout: Duration::from_millis(300), ..Settings::default() };
    let agent = Agent::start(settings).await.unwrap();
    let mut idle = TcpStream::connect(agent.address()).await.unwrap();
    let mut slow = TcpStream::connect(agent.address()).await.unwrap();
    let mut answer = Vec::new();
    let began = Instant::now();
    while slow.write_all(b"G").await.is_ok() {
        assert!(began.elapsed() < SOON, "still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "closed before its time");
    assert!(slow.read_to_end(&mut answer).await.is_err() || answer.is_empty(), "no answer to half a head");
    // one that idled all the time is as good as new
    idle.write_all(b"GET /v1/status/leader HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    idle.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    agent.shutdown().await;
}
