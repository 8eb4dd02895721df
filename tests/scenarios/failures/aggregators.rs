//! Two health-aggregators share the work; one is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use plinth_testbed::{eventually, holds};
use serde_json::Value;

use super::{Fleet, Watcher, discover};
use crate::support::backend::Kind;
use crate::support::client::{get, json};
use crate::support::platform::Platform;
use crate::support::program::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregator_dies_on_the_embedded_agent() {
    an_aggregator_dies(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregator_dies_on_real_consul() {
    an_aggregator_dies(Kind::Consul).await;
}

async fn an_aggregator_dies(kind: Kind) {
    const COUNT: usize = 12;
    let mut platform = Platform::start(kind).await;
    let fleet = Fleet::start().await;
    let ids: BTreeSet<String> = (1..=COUNT).map(|number| format!("web-{number}")).collect();
    for id in &ids {
        assert_eq!(fleet.register(&platform.registry[0], "web", id).await.status(), 201);
    }
    platform.discovered("web", COUNT, Duration::from_secs(10)).await;

    // Shared: each is probed by exactly one, and so once an interval.
    let lost = eventually("two replicas share the instances", Duration::from_secs(10), || async {
        let (first, second) =
            (probes(&platform.aggregators[0]).await, probes(&platform.aggregators[1]).await);
        let all: BTreeSet<String> = first.union(&second).cloned().collect();
        let shared = first.is_disjoint(&second) && all == ids && !first.is_empty() && !second.is_empty();
        if shared { Ok(first) } else { Err(format!("{first:?} and {second:?}")) }
    })
    .await;
    let begin = Instant::now();
    eventually("five intervals have passed", Duration::from_secs(10), || async {
        let most = fleet.probed_since(begin).values().copied().max().unwrap_or(0);
        holds(most >= 5, format!("{most} probes"))
    })
    .await;
    let (counts, intervals) = (fleet.probed_since(begin), begin.elapsed().as_secs_f64());
    assert_eq!(counts.len(), COUNT, "{counts:?}");
    let most = (intervals * 1.25).ceil() as usize + 1;
    assert!(
        counts.values().all(|count| (3..=most).contains(count)),
        "{counts:?} in {intervals} intervals: nothing is probed twice an interval"
    );

    // One is killed. Its instances go over, and none of them is ever thought to be ill.
    let before = checks(platform.backend.address()).await;
    assert_eq!(before.len(), COUNT, "{before:?}");
    let watcher = Watcher::start(&platform.registry[0], "web");
    platform.aggregators[0].process.kill();
    let killed = Instant::now();
    eventually("the survivor probes what the dead one did", Duration::from_secs(5), || async {
        let probed = fleet.probed_since(killed + Duration::from_millis(500));
        let (orphans, mine) = (
            lost.iter().filter(|id| !probed.contains_key(*id)).count(),
            probes(&platform.aggregators[1]).await,
        );
        holds(orphans == 0 && mine == ids, format!("{orphans} of {} not probed, owned {mine:?}", lost.len()))
    })
    .await;
    println!("{} instances were taken over after {:?}", lost.len(), killed.elapsed());
    let after = checks(platform.backend.address()).await;
    assert_eq!(before, after, "no check was written: nothing turned, not even for a moment");
    watcher.finish();

    // And an instance that dies now is noticed.
    let victim = lost.first().unwrap();
    fleet.set_down(victim);
    eventually("the dead instance is critical", Duration::from_secs(5), || async {
        let found = discover(&platform.registry[1], "web").await;
        let critical: Vec<&String> =
            found.iter().filter(|(_, status)| *status == "critical").map(|(id, _)| id).collect();
        holds(critical == [victim], format!("{found:?}"))
    })
    .await;

    // A new replica takes a share again.
    let third = platform.replica("health-aggregator", "health-3", &[]).await;
    eventually("the new replica has a share", Duration::from_secs(10), || async {
        let (old, new) = (probes(&platform.aggregators[1]).await, probes(&third).await);
        holds(
            !new.is_empty() && old.is_disjoint(&new) && old.len() + new.len() == COUNT,
            format!("{old:?} and {new:?}"),
        )
    })
    .await;
}

/// The instances of `web` that this replica probes.
async fn probes(aggregator: &Program) -> BTreeSet<String> {
    let answer = get(&aggregator.url("http", "/api/v1/health/instances?service=web")).await;
    let instances = json(&answer)["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter_map(|instance| Some(instance["service_id"].as_str()?.to_owned())).collect()
}

/// Status and index of the last write of each check of `web`, from Consul itself.
async fn checks(consul: SocketAddr) -> BTreeMap<String, (String, u64)> {
    let answer = get(&format!("http://{consul}/v1/health/checks/web")).await;
    let checks: Vec<Value> = serde_json::from_slice(answer.body()).unwrap();
    let entry = |check: &Value| {
        let (id, status) = (check["ServiceID"].as_str()?, check["Status"].as_str()?);
        Some((id.to_owned(), (status.to_owned(), check["ModifyIndex"].as_u64()?)))
    };
    checks.iter().filter_map(entry).collect()
}
