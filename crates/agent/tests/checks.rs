//! When checks run and what they make of what they see, on this agent and on a real Consul 1.8.7. What takes minutes
//! (removal of critical services) is in `tests/conformance`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use plinth_agent::{Agent, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds, http_client};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(30);

/// Answers every request with the status that is set (0: not at all) and remembers when it was asked.
struct Target {
    addr: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Target {
    async fn start() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(Vec::new())));
        let (answer, times) = (status.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, times) = (answer.clone(), times.clone());
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        // before it is counted: whoever sees the count has had this answer or an older one
                        let status = answer.load(Ordering::SeqCst);
                        times.lock().push(Instant::now());
                        if status == 0 {
                            return std::future::pending().await;
                        }
                        let reason = http::StatusCode::from_u16(status).unwrap();
                        let reason = reason.canonical_reason().unwrap_or("Some");
                        let text = format!("HTTP/1.1 {status} {reason}\r\ncontent-length: 2\r\n\r\nhi");
                        if stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Target { addr, status, asked }
    }
}

struct Side {
    name: &'static str,
    addr: SocketAddr,
}

impl Side {
    async fn put(&self, path: &str, body: String) {
        let url = format!("http://{}{path}", self.addr);
        let answer = http_client::send(Method::PUT, &url, &[], body.clone()).await.unwrap();
        assert_eq!(answer.status(), 200, "{}: {path} {body}: {:?}", self.name, answer.body());
    }

    async fn check(&self, id: &str) -> Value {
        let answer = http_client::get(&format!("http://{}/v1/agent/checks", self.addr)).await.unwrap();
        let all: Value = serde_json::from_slice(answer.body()).unwrap();
        all[id].clone()
    }

    /// Waits until a check has a status; gives its output.
    async fn becomes(&self, id: &str, status: &str) -> String {
        eventually(&format!("{}: {id} is {status}", self.name), SOON, || async {
            let check = self.check(id).await;
            let output = check["Output"].as_str().unwrap_or_default().to_owned();
            if check["Status"] == status { Ok(output) } else { Err(check.to_string()) }
        })
        .await
    }
}

async fn statuses_and_times(side: &Side) {
    let target = Target::start().await;
    let url = format!("http://{}/h", target.addr);
    // Less than a second between two probes is taken for a second.
    let check = format!(r#"{{"ID":"h","Name":"h","HTTP":"{url}","Interval":"100ms","Timeout":"500ms"}}"#);
    let registered = Instant::now();
    side.put("/v1/agent/check/register", check).await;
    let output = side.becomes("h", "passing").await;
    assert_eq!(output, format!("HTTP GET {url}: 200 OK Output: hi"), "{}", side.name);
    eventually(&format!("{}: it goes on", side.name), SOON, || async {
        let count = target.asked.lock().len();
        holds(count >= 4, count.to_string())
    })
    .await;
    let asked = target.asked.lock().clone();
    let first = asked[0].duration_since(registered);
    assert!(
        first < Duration::from_secs(3),
        "{}: the first within an interval, not after {first:?}",
        side.name
    );
    // Over three of them: a busy machine delays one and not the next.
    let span = asked[3].duration_since(asked[0]);
    assert!(span > Duration::from_millis(2400), "{}: four within {span:?}", side.name);
    side.put(
        "/v1/agent/check/register",
        format!(r#"{{"ID":"later","Name":"later","HTTP":"{url}","Interval":"10h"}}"#),
    )
    .await;
    assert_eq!(side.check("later").await["Status"], "critical", "{}: until something is known", side.name);
    side.put("/v1/agent/check/deregister/later", String::new()).await;

    for (status, becomes) in
        [(429, "warning"), (204, "passing"), (503, "critical"), (299, "passing"), (404, "critical")]
    {
        target.status.store(status, Ordering::SeqCst);
        // Both at once: an answer that came too late makes it critical with other words.
        eventually(&format!("{}: h is {becomes} by {status}", side.name), SOON, || async {
            let check = side.check("h").await;
            let said = check["Output"].as_str().unwrap_or_default().contains(&format!(": {status} "));
            holds(said && check["Status"] == becomes, check.to_string())
        })
        .await;
    }
    target.status.store(200, Ordering::SeqCst);
    side.becomes("h", "passing").await;
    // no answer within the time
    target.status.store(0, Ordering::SeqCst);
    side.becomes("h", "critical").await;
    target.status.store(200, Ordering::SeqCst);

    // registered anew it is another one, and gone it asks no more
    side.put(
        "/v1/agent/check/register",
        format!(r#"{{"ID":"h","Name":"h","HTTP":"{url}","Interval":"1s"}}"#),
    )
    .await;
    side.becomes("h", "passing").await;
    side.put("/v1/agent/check/deregister/h", String::new()).await;
    let before = target.asked.lock().len();
    side.put("/v1/agent/check/register", r#"{"ID":"t","Name":"t","TTL":"3s","Status":"passing"}"#.to_owned())
        .await;
    let output = side.becomes("t", "critical").await;
    assert_eq!(output, "TTL expired", "{}", side.name);
    let after = target.asked.lock().len();
    assert!(after <= before + 1, "{}: asked {} times more after it was removed", side.name, after - before);
}

/// A report starts the time anew, and what was said last is kept in what an expiry says.
async fn time_to_live(side: &Side) {
    let check = r#"{"ID":"ttl","Name":"ttl","TTL":"3s","Status":"passing"}"#;
    side.put("/v1/agent/check/register", check.to_owned()).await;
    let mut reported = Instant::now();
    for _ in 0..5 {
        let next = reported + Duration::from_millis(1200);
        tokio::time::sleep_until(next.into()).await;
        reported = Instant::now();
        side.put("/v1/agent/check/pass/ttl?note=fine", String::new()).await;
        assert_eq!(side.check("ttl").await["Status"], "passing", "{}", side.name);
    }
    let output = side.becomes("ttl", "critical").await;
    let after = reported.elapsed();
    assert!(after > Duration::from_millis(2900), "{}: expired after {after:?}", side.name);
    assert_eq!(output, "TTL expired (last output before timeout follows): fine", "{}", side.name);
}

/// Results in a row before the status turns; the first counts whatever it is.
async fn several_results_in_a_row(side: &Side) {
    let target = Target::start().await;
    let check = format!(
        r#"{{"ID":"row","Name":"row","HTTP":"http://{}/","Interval":"1s","SuccessBeforePassing":3,"FailuresBeforeCritical":2}}"#,
        target.addr
    );
    side.put("/v1/agent/check/register", check).await;
    side.becomes("row", "passing").await;
    let first = target.asked.lock().len();
    assert!(first < 3, "{}: passing only after {first}", side.name);
    for (status, becomes, least) in [(500, "critical", 2), (200, "passing", 3)] {
        let before = target.asked.lock().len();
        target.status.store(status, Ordering::SeqCst);
        side.becomes("row", becomes).await;
        let asked = target.asked.lock().len() - before;
        assert!(asked >= least, "{}: {becomes} after {asked}", side.name);
    }
}

async fn all(side: Side) {
    tokio::join!(statuses_and_times(&side), time_to_live(&side), several_results_in_a_row(&side));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_agent() {
    let agent = Agent::start(Settings { http_port: 0, ..Settings::default() }).await.unwrap();
    all(Side { name: "agent", addr: agent.address() }).await;
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_consul() {
    let consul = RealConsul::start().await;
    all(Side { name: "consul", addr: consul.addr }).await;
}
