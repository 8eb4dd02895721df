//! What happens when a part dies, comes back, or is given nonsense.

mod aggregators;
mod bad_input;
mod consul;
mod gateway;
mod registry;
mod shared_config;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use parking_lot::Mutex;
use plinth_testbed::upstream::Upstream;
use serde_json::{Value, json};

use crate::support::client::{get, json as parsed, send};
use crate::support::program::Program;

/// Instances at one upstream, each with a path of its own, and when each was probed.
struct Fleet {
    upstream: Upstream,
    probes: Arc<Mutex<Vec<(Instant, String)>>>,
    down: Arc<Mutex<Vec<String>>>,
}

impl Fleet {
    async fn start() -> Self {
        let (probes, down) = (Arc::default(), Arc::default());
        let fleet = Self { upstream: Upstream::start().await, probes, down };
        let (probes, down) = (fleet.probes.clone(), fleet.down.clone());
        fleet.upstream.respond(move |request: Request<Bytes>| {
            let id = request.uri().path().trim_start_matches('/').to_owned();
            let status = if down.lock().contains(&id) { 503 } else { 200 };
            probes.lock().push((Instant::now(), id));
            async move { Response::builder().status(status).body(Full::default()).unwrap() }
        });
        fleet
    }

    /// Registers `id` as an instance of `name`, probed every second.
    async fn register(&self, registry: &Program, name: &str, id: &str) -> Response<Bytes> {
        let body = json!({
            "service_name": name, "service_id": id, "address": "127.0.0.1", "port": self.upstream.addr.port(),
            "check": { "type": "http", "path": format!("/{id}"), "interval": "1s", "timeout": "1s" },
        });
        send(Method::POST, &registry.url("http", "/api/v1/services/register"), &body).await
    }

    /// Probes of each instance since `begin`.
    fn probed_since(&self, begin: Instant) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, id) in self.probes.lock().iter().filter(|(at, _)| *at >= begin) {
            *counts.entry(id.clone()).or_insert(0) += 1;
        }
        counts
    }

    fn set_down(&self, id: &str) {
        self.down.lock().push(id.to_owned());
    }
}

/// Status of each instance of `name` as this replica of registry-service has it.
async fn discover(registry: &Program, name: &str) -> BTreeMap<String, String> {
    let answer = get(&registry.url("http", &format!("/api/v1/services/discover/{name}"))).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    let body = parsed(&answer);
    let text = |instance: &Value, field: &str| instance[field].as_str().unwrap_or("?").to_owned();
    let instances = body["services"].as_array().unwrap().iter();
    instances.map(|instance| (text(instance, "service_id"), text(instance, "status"))).collect()
}

/// Looks at `name` all the time until it is stopped; everything that was not healthy at some look.
struct Watcher {
    seen: Arc<Mutex<Vec<String>>>,
    looks: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    fn start(registry: &Program, name: &str) -> Self {
        let url = registry.url("http", &format!("/api/v1/services/discover/{name}"));
        let (seen, looks) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (sink, count) = (seen.clone(), Arc::clone(&looks));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            loop {
                ticks.tick().await;
                let answer = get(&url).await;
                if answer.status() != 200 {
                    sink.lock().push(format!("{} {:?}", answer.status(), answer.body()));
                    continue;
                }
                for instance in parsed(&answer)["services"].as_array().unwrap() {
                    if instance["status"] != "healthy" {
                        sink.lock().push(instance.to_string());
                    }
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { seen, looks, task }
    }

    /// Panics if anything but healthy instances was seen.
    fn finish(self) {
        self.task.abort();
        let seen = self.seen.lock();
        assert!(seen.is_empty(), "{} looks were not all healthy, e.g. {}", seen.len(), seen[0]);
        let looks = self.looks.load(Ordering::Relaxed);
        assert!(looks > 20, "only {looks} looks");
    }
}
