//! A replica of registry-service is killed.

use std::time::Duration;

use plinth_testbed::{eventually, holds};
use serde_json::Value;

use super::{Fleet, discover};
use crate::support::backend::Kind;
use crate::support::client::{get, header, json};
use crate::support::platform::Platform;
use crate::support::program::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_replica_dies_on_the_embedded_agent() {
    a_replica_dies(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_replica_dies_on_real_consul() {
    a_replica_dies(Kind::Consul).await;
}

async fn a_replica_dies(kind: Kind) {
    let mut platform = Platform::start(kind).await;
    let fleet = Fleet::start().await;
    let mut last = String::new();
    for number in 0..10 {
        let answer = fleet.register(&platform.registry[0], "shop", &format!("shop-{number}")).await;
        assert_eq!(answer.status(), 201, "{:?}", answer.body());
        last = header(&answer, "x-plinth-index").to_owned();
    }
    platform.registry[0].process.kill();

    // All that the dead one acknowledged is at the other at once, and it takes writes.
    let read = platform.registry[1].url("http", &format!("/api/v1/services/discover/shop?index={last}"));
    assert_eq!(json(&get(&read).await)["services"].as_array().map_or(0, Vec::len), 10);
    for number in 10..20 {
        let answer = fleet.register(&platform.registry[1], "shop", &format!("shop-{number}")).await;
        assert_eq!(answer.status(), 201, "{:?}", answer.body());
        assert_eq!(discover(&platform.registry[1], "shop").await.len(), number + 1, "read your writes");
    }

    let again = platform.replica("registry-service", "registry-again", &[]).await;
    let url = again.url("http", "/api/v1/services/discover/shop");
    // 503 with Retry-After while the first look at a service takes longer than a second.
    eventually("the new replica answers", Duration::from_secs(10), || async {
        let status = get(&url).await.status();
        holds(status == 200, status.to_string())
    })
    .await;
    assert_eq!(discover(&again, "shop").await.len(), 20, "ready means: it knows all");
    let more = fleet.register(&again, "shop", "shop-20").await;
    assert_eq!(more.status(), 201, "{:?}", more.body());
    eventually("both replicas say the same", Duration::from_secs(10), || async {
        let (one, other) = (list(&platform.registry[1]).await, list(&again).await);
        let both = (discover(&platform.registry[1], "shop").await, discover(&again, "shop").await);
        let healthy = both.0.values().filter(|status| *status == "healthy").count();
        holds(
            one == other && both.0 == both.1 && healthy == 21,
            format!("{} and {} instances, {both:?}", one.len(), other.len()),
        )
    })
    .await;
}

async fn list(registry: &Program) -> Vec<Value> {
    let answer = get(&registry.url("http", "/api/v1/services?service_name=shop&limit=100")).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    json(&answer)["services"].as_array().cloned().unwrap_or_default()
}
