//! The gateway without its Redis, and with files that are wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use plinth_testbed::redis::Redis;
use plinth_testbed::{eventually, holds};
use serde_json::Value;

use crate::support::backend::{Backend, Kind};
use crate::support::client::{get, get_with, header, json};
use crate::support::platform::{gateway, service};
use crate::support::program::Program;
use crate::support::seed::Seed;

const LIMIT: Duration = Duration::from_secs(10);

struct Edge {
    gateway: Program,
    seed: Seed,
    /// The file that the gateway follows.
    file: std::path::PathBuf,
    bearer: String,
    _instance: Program,
    _backend: Backend,
    _folder: tempfile::TempDir,
}

impl Edge {
    async fn start(redis: &Redis, raised: bool) -> Self {
        let (backend, folder) = (Backend::start(Kind::Embedded).await, tempfile::tempdir().unwrap());
        let seed = Seed::write(folder.path(), redis.addr);
        let file = if raised { seed.with_raised_limits() } else { seed.file.clone() };
        let mut demo = service(&backend, folder.path(), "demo-service", "user-1");
        demo.args(["--listen", "127.0.0.1:0", "--name", "user-service", "--id", "user-1"]);
        let instance = Program::start("user-1", demo, folder.path(), &["http"]).await;
        let gateway = gateway(&backend, folder.path(), "gateway", &file, &["--config-poll", "20ms"]).await;
        let bearer = format!("Bearer {}", seed.token(600));
        let edge =
            Self { gateway, seed, file, bearer, _instance: instance, _backend: backend, _folder: folder };
        eventually("the instance is reached", LIMIT, || async {
            let answer = edge.ask().await;
            holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
        })
        .await;
        edge
    }

    fn url(&self) -> String {
        self.gateway.url("proxy", "/api/v1/users/1")
    }

    async fn ask(&self) -> http::Response<Bytes> {
        get_with(&self.url(), &[("authorization", &self.bearer)]).await
    }

    async fn status(&self) -> Value {
        json(&get(&self.gateway.url("status", "/status")).await)["plinth"].clone()
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_and_requests_go_on() {
    let mut redis = Redis::start().await;
    let edge = Edge::start(&redis, false).await;
    let counted = edge.ask().await;
    assert!(!header(&counted, "x-ratelimit-remaining-minute").is_empty(), "{:?}", counted.headers());

    redis.kill();
    let mut slowest = Duration::ZERO;
    for number in 0..200 {
        let begin = Instant::now();
        let answer = edge.ask().await;
        slowest = slowest.max(begin.elapsed());
        assert_eq!(answer.status(), 200, "request {number}, fault_tolerant: {:?}", answer.body());
    }
    println!("without Redis the slowest of 200 requests took {slowest:?}");
    assert!(slowest < Duration::from_millis(300), "{slowest:?}");

    redis.start_again().await;
    eventually("limits count again", LIMIT, || async {
        let answer = edge.ask().await;
        holds(
            answer.status() == 429 || !header(&answer, "x-ratelimit-remaining-minute").is_empty(),
            format!("{} {:?}", answer.status(), answer.headers()),
        )
    })
    .await;
    // 100 a minute; a minute that ends in between allows 100 more.
    eventually("the limit is reached", Duration::from_secs(30), || async {
        let status = edge.ask().await.status();
        holds(status == 429, format!("{status}"))
    })
    .await;
    let log = std::fs::read_to_string(&edge.seed.log).unwrap();
    assert!(log.lines().count() > 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_bad_files_drop_no_connection() {
    const CLIENTS: usize = 4;
    let redis = Redis::start().await;
    let edge = Edge::start(&redis, true).await;
    let good = std::fs::read_to_string(&edge.file).unwrap();

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let address = edge.gateway.addresses["proxy"];
        let (bearer, stop, answered) = (edge.bearer.clone(), stop.clone(), answered.clone());
        clients.spawn(async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let driver = tokio::spawn(connection);
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let request = Request::get("/api/v1/users/1")
                    .header("host", "gateway")
                    .header("authorization", &bearer)
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                sender.ready().await.unwrap_or_else(|error| panic!("after {count} requests: {error}"));
                let answer = sender.send_request(request).await;
                let answer = answer.unwrap_or_else(|error| panic!("after {count} requests: {error}"));
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap();
                count += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            driver.abort();
            count
        });
    }

    for round in 1..=20_u64 {
        let before = edge.status().await["generation"].as_u64().unwrap();
        let changed = good.replace("retries: 3", &format!("retries: {}", 3 + round % 2))
            + &format!("# round {round}\n");
        edge.write(&changed);
        let begun = answered.load(Ordering::Relaxed);
        eventually("the change runs, and requests with it", LIMIT, || async {
            let status = edge.status().await;
            let served = answered.load(Ordering::Relaxed) >= begun + 10 * CLIENTS;
            holds(status["generation"].as_u64() > Some(before) && served, status.to_string())
        })
        .await;
    }

    // A broken file changes nothing but what is said about it.
    let before = edge.status().await["generation"].clone();
    edge.write(&good.replace("claims_to_verify:", "claims_to_verfiy:"));
    eventually("the broken file is reported", LIMIT, || async {
        let status = edge.status().await;
        let said =
            status["last_reload"]["error"].as_str().is_some_and(|error| error.contains("claims_to_verfiy"));
        holds(status["last_reload"]["ok"] == false && said, status.to_string())
    })
    .await;
    assert_eq!(edge.status().await["generation"], before);
    let metrics = get(&edge.gateway.url("status", "/metrics")).await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    let gauge = metrics.lines().find(|line| line.starts_with("gateway_config_last_reload_successful"));
    assert!(gauge.is_some_and(|line| line.ends_with(" 0")), "{gauge:?}");
    assert!(edge.gateway.process.output().contains("configuration refused"), "and the log says it");
    // Also one that is no YAML, and an empty one, as an editor leaves it for a moment.
    for text in ["services: [", ""] {
        let (begun, last) =
            (answered.load(Ordering::Relaxed), edge.status().await["last_reload"]["error"].clone());
        edge.write(text);
        eventually("it is refused, and traffic goes on", LIMIT, || async {
            let (count, status) = (answered.load(Ordering::Relaxed), edge.status().await);
            let refused = status["last_reload"]["ok"] == false && status["last_reload"]["error"] != last;
            holds(refused && count > begun + 10 * CLIENTS, format!("{begun} then {count}, {status}"))
        })
        .await;
    }
    assert_eq!(edge.status().await["generation"], before);
    edge.write(&(good + "# good again\n"));
    eventually("the good file is taken", LIMIT, || async {
        let status = edge.status().await;
        let newer = status["generation"].as_u64() > before.as_u64();
        holds(status["last_reload"]["ok"] == true && newer, status.to_string())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let counts = clients.join_all().await;
    println!("{counts:?} requests on {CLIENTS} connections across 21 reloads and 3 bad files");
    assert_still_there(&edge.file);
}

/// The gateway reads its file and never writes it.
fn assert_still_there(file: &Path) {
    assert!(std::fs::read_to_string(file).unwrap().ends_with("# good again\n"));
}
