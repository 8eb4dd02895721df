//! Consul, or the agent in its place, is killed while instances are registered, probed and leased.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use plinth_testbed::{eventually, holds};
use serde_json::{Value, json};

use super::{Fleet, Watcher, discover};
use crate::support::backend::Kind;
use crate::support::client::{get, json as parsed, send};
use crate::support::platform::Platform;

const LEASED: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_dies_under_writes_and_leases() {
    it_dies(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_consul_dies_under_writes_and_leases() {
    it_dies(Kind::Consul).await;
}

async fn it_dies(kind: Kind) {
    let mut platform = Platform::start(kind).await;
    let fleet = Fleet::start().await;
    let register = platform.registry[0].url("http", "/api/v1/services/register");
    for number in 0..4 {
        let answer = fleet.register(&platform.registry[0], "probed", &format!("probed-{number}")).await;
        assert_eq!(answer.status(), 201, "{:?}", answer.body());
    }
    for number in 0..LEASED {
        let body = json!({
            "service_name": "leased", "service_id": format!("leased-{number}"), "address": "127.0.0.1",
            "port": 9, "check": { "type": "ttl", "ttl": "10s" },
        });
        assert_eq!(send(Method::POST, &register, &body).await.status(), 201);
    }
    let beats = Beats::start(&platform);
    platform.discovered("probed", 4, Duration::from_secs(10)).await;
    platform.discovered("leased", LEASED, Duration::from_secs(10)).await;
    // The other replica follows by watches of its own.
    for (name, count) in [("probed", 4), ("leased", LEASED)] {
        let url =
            platform.registry[1].url("http", &format!("/api/v1/services/discover/{name}?healthy_only=true"));
        eventually("the other replica knows them", Duration::from_secs(10), || async {
            let found = parsed(&get(&url).await)["services"].as_array().map_or(0, Vec::len);
            holds(found == count, found.to_string())
        })
        .await;
    }
    let watchers = ["probed", "leased"].map(|name| Watcher::start(&platform.registry[1], name));

    // Writes without a pause; what is acknowledged is remembered.
    let (stop, acknowledged, refused) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let writer = tokio::spawn({
        let (stop, acknowledged, refused) = (stop.clone(), acknowledged.clone(), refused.clone());
        async move {
            let mut ids = BTreeSet::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("written-{number}");
                let body =
                    json!({ "service_name": "written", "service_id": id, "address": "127.0.0.1", "port": 9 });
                match send(Method::POST, &register, &body).await.status().as_u16() {
                    201 => {
                        ids.insert(id);
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    503 => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    other => panic!("{id}: {other}"),
                }
            }
            ids
        }
    });
    let count = |counter: &Arc<AtomicUsize>| counter.load(Ordering::Relaxed);
    eventually("writes are under way", Duration::from_secs(20), || async {
        holds(count(&acknowledged) >= 20, format!("{}", count(&acknowledged)))
    })
    .await;
    platform.backend.kill();
    // Longer than the time of the leases: with nobody there to count it, it must not run out.
    eventually("writes and heartbeats are refused", Duration::from_secs(40), || async {
        let missed = count(&beats.missed);
        holds(
            count(&refused) >= 1 && missed >= 24 * LEASED,
            format!("{} writes, {missed} beats", count(&refused)),
        )
    })
    .await;
    let before = count(&acknowledged);
    platform.backend.start_again().await;
    eventually("writes are taken again", Duration::from_secs(30), || async {
        holds(count(&acknowledged) >= before + 20, format!("{} then {}", before, count(&acknowledged)))
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();

    let beaten = count(&beats.taken);
    eventually("the same leases take heartbeats again", Duration::from_secs(20), || async {
        holds(count(&beats.taken) >= beaten + 2 * LEASED, format!("{}", count(&beats.taken)))
    })
    .await;
    beats.finish();
    for replica in &platform.registry {
        eventually("everything acknowledged is known", Duration::from_secs(10), || async {
            let known: BTreeSet<String> = discover(replica, "written").await.into_keys().collect();
            holds(known.is_superset(&written), format!("{} of {}", known.len(), written.len()))
        })
        .await;
    }
    let stored = get(&format!("http://{}/v1/catalog/service/written", platform.backend.address())).await;
    let stored: Vec<Value> = serde_json::from_slice(stored.body()).unwrap();
    assert!(stored.len() >= written.len(), "{} of {} in the catalog itself", stored.len(), written.len());
    for watcher in watchers {
        watcher.finish();
    }
    let system = get(&platform.aggregators[0].url("http", "/api/v1/health/system")).await;
    assert_eq!(parsed(&system)["instances"]["critical"], 0, "{:?}", system.body());
}

/// Heartbeats of the leased instances, three a lease.
struct Beats {
    taken: Arc<AtomicUsize>,
    missed: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Beats {
    fn start(platform: &Platform) -> Self {
        let mut beats = Self {
            taken: Arc::default(),
            missed: Arc::default(),
            lost: Arc::default(),
            tasks: Default::default(),
        };
        for number in 0..LEASED {
            let url = platform.registry[number % 2]
                .url("http", &format!("/api/v1/services/leased-{number}/heartbeat"));
            let (taken, missed, lost) = (beats.taken.clone(), beats.missed.clone(), beats.lost.clone());
            beats.tasks.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(500));
                loop {
                    ticks.tick().await;
                    let counter = match send(Method::PUT, &url, &json!({})).await.status().as_u16() {
                        200..=299 => &taken,
                        404 => &lost,
                        _ => &missed,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        beats
    }

    /// Panics if a heartbeat was told that its lease is gone.
    fn finish(self) {
        assert_eq!(self.lost.load(Ordering::Relaxed), 0, "a lease was lost");
    }
}
