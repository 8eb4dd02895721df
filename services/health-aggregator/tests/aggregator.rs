//! The aggregator as its own processes, on the embedded agent and on real Consul, probing real upstreams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "aggregator/world.rs"]
mod world;

use std::time::{Duration, Instant};

use http::StatusCode;
use plinth_core::consul::Read;
use plinth_core::health::Status;
use plinth_core::registration::{CheckSpec, Timing};
use plinth_testbed::{eventually, holds};
use world::{Backend, Kind, Replica, World};

const SECOND: Duration = Duration::from_secs(1);

/// Runs each scenario on both kinds of Consul.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod embedded_agent {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kind::Embedded).await;
            })*
        }
        mod real_consul {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kind::Real).await;
            })*
        }
    };
}

on_both!(
    a_death_is_found_and_removed_in_time,
    replicas_share_and_take_over,
    consul_goes_and_comes_back,
    the_brake_holds_alone_and_lets_go_with_a_peer,
    a_lost_lease_expires,
);

fn timing(interval: Duration) -> Timing {
    Timing { interval, timeout: SECOND, deregister_after: Some(2 * SECOND) }
}

async fn a_death_is_found_and_removed_in_time(kind: Kind) {
    let world = World::new(Backend::start(kind).await).await;
    // Others around it, so that one death is no majority.
    for n in 0..6 {
        world.register(&format!("web-{n}"), timing(SECOND), Status::Critical).await;
    }
    let replica = Replica::start(&world, 2).await;
    for n in 0..6 {
        world.reaches(&format!("web-{n}"), "passing", 5 * SECOND).await;
    }
    let last_checks = replica.probed().await;
    assert!(last_checks.contains_key("web-3"), "{last_checks:?}");

    // failures x interval + 700 ms: the probes are answered at once. A second death counts when the machine was too busy with other tests for the first:
    // a delay of the service's own would meet both.
    let bar = 2 * SECOND + Duration::from_millis(700);
    let (mut deaths, mut found, mut alive) = (0, Duration::MAX, Instant::now());
    for victim in ["web-3", "web-1"] {
        world.set_down(victim, true);
        let died = Instant::now();
        let (output, not_yet) = world.reached(victim, "critical", 10 * SECOND).await;
        (found, alive) = (died.elapsed(), not_yet);
        deaths += 1;
        println!("{kind:?}: {victim} found after {found:?}");
        assert!(output.contains("503 Service Unavailable"), "{output}");
        if found <= bar {
            break;
        }
    }
    assert!(found <= bar, "{found:?}");

    eventually("web-3 is removed", 10 * SECOND, || async {
        let documents = world.registrar.list().await.map_err(|e| e.to_string())?;
        let ids: Vec<&str> = documents.iter().map(|(d, _)| d.registration.service_id.as_str()).collect();
        let left = ["web-3", "web-1"][..deaths].iter().any(|victim| ids.contains(victim));
        let entries = world.client.health().service("web", false, &[], &Read::default()).await;
        let listed = entries.map_err(|e| e.to_string())?.value.len();
        holds(!left && listed == 6 - deaths, format!("document {left}, {listed} in the catalog"))
    })
    .await;
    assert!(alive.elapsed() >= 2 * SECOND, "not before deregister_after");
    // What the aggregator says of itself follows what it wrote.
    eventually("the aggregator counts and shows it", 10 * SECOND, || async {
        let removed = replica.metric("health_removals_total", "reason=\"critical\"").await;
        let turned = replica.metric("health_transitions_total", "to=\"critical\"").await;
        let (status, text) = replica.get("/api/v1/health/services/web").await;
        let service: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let shown = service["status"] == "healthy" && service["instances"]["passing"] == 6 - deaths;
        let counted = [removed, turned] == [Some(deaths as f64); 2];
        holds(counted && status == StatusCode::OK && shown, format!("{removed:?} {turned:?} {status} {text}"))
    })
    .await;
    assert_eq!(replica.get("/api/v1/health/services/nobody").await.0, StatusCode::NOT_FOUND);
}

async fn replicas_share_and_take_over(kind: Kind) {
    let world = World::new(Backend::start(kind).await).await;
    let count = 16;
    for n in 0..count {
        world.register(&format!("web-{n}"), timing(SECOND), Status::Passing).await;
    }
    let mut first = Replica::start(&world, 2).await;
    let second = Replica::start(&world, 2).await;
    eventually("the work is shared, nobody does another's", 10 * SECOND, || async {
        let (a, b) = (first.probed().await, second.probed().await);
        let web = |id: &&String| id.starts_with("web-");
        let both = a.keys().filter(web).filter(|id| b.contains_key(*id)).count();
        let total = a.keys().filter(web).count() + b.keys().filter(web).count();
        let each = a.keys().any(|id| web(&id)) && b.keys().any(|id| web(&id));
        holds(both == 0 && total == count && each, format!("{both} by both, {total} in all"))
    })
    .await;
    // In steady state each is looked at once per interval, not once per replica and interval.
    let (before, started) = (world.looks(), Instant::now());
    eventually("five looks at each", 15 * SECOND, || async {
        let looks = world.looks() - before;
        holds(looks >= 5 * count, format!("{looks} looks"))
    })
    .await;
    assert!(started.elapsed() > Duration::from_millis(3_500), "{:?}", started.elapsed());

    let checks = world.checks().await;
    first.process.kill();
    let killed = jiff::Timestamp::now();
    let died = Instant::now();
    let took = eventually("all instances are probed again", 10 * SECOND, || async {
        let probed = second.probed().await;
        let fresh =
            (0..count).filter(|n| probed.get(&format!("web-{n}")).is_some_and(|at| *at > killed)).count();
        if fresh == count { Ok(died.elapsed()) } else { Err(format!("{fresh} of {count}")) }
    })
    .await;
    println!("{kind:?}: taken over after {took:?}");
    assert!(took < 5 * SECOND, "{took:?}");
    let looked_at_three_times = killed + jiff::SignedDuration::from_secs(3);
    eventually("three more looks at each", 10 * SECOND, || async {
        let probed = second.probed().await;
        let fresh = (0..count)
            .filter(|n| probed.get(&format!("web-{n}")).is_some_and(|at| *at > looked_at_three_times))
            .count();
        holds(fresh == count, format!("{fresh} of {count}"))
    })
    .await;
    let after = world.checks().await;
    for n in 0..count {
        let id = format!("web-{n}");
        assert_eq!(after[&id], checks[&id], "a takeover writes nothing");
    }
    // The dead replica's own registration goes the way of every dead instance; detection still works after the takeover.
    world.set_down("web-1", true);
    world.reaches("web-1", "critical", 4 * SECOND).await;
}

async fn consul_goes_and_comes_back(kind: Kind) {
    let mut world = World::new(Backend::start(kind).await).await;
    for n in 0..6 {
        world.register(&format!("web-{n}"), timing(SECOND), Status::Passing).await;
    }
    let replica = Replica::start(&world, 2).await;
    eventually("all are probed", 10 * SECOND, || async {
        let probed = replica.probed().await.keys().filter(|id| id.starts_with("web-")).count();
        holds(probed == 6, format!("{probed}"))
    })
    .await;
    let checks = world.checks().await;
    world.backend.kill().await;
    world.set_down("web-2", true);
    eventually("/health says so", 10 * SECOND, || async {
        let (status, body) = replica.get("/health").await;
        holds(body.contains("the catalog cannot be read"), format!("{status} {body}"))
    })
    .await;
    let before = replica.probed().await["web-0"];
    eventually("probing goes on", 5 * SECOND, || async {
        let now = replica.probed().await["web-0"];
        holds(now > before, now.to_string())
    })
    .await;
    world.backend.start_again().await;
    world.reaches("web-2", "critical", 15 * SECOND).await;
    let after = world.checks().await;
    for n in [0, 1, 3, 4, 5] {
        let id = format!("web-{n}");
        assert_eq!(after[&id], checks[&id], "who was always well is not written");
    }
    eventually("/health is well again", 10 * SECOND, || async {
        let (status, body) = replica.get("/health").await;
        holds(!body.contains("the catalog cannot be read"), format!("{status} {body}"))
    })
    .await;
}

async fn the_brake_holds_alone_and_lets_go_with_a_peer(kind: Kind) {
    let world = World::new(Backend::start(kind).await).await;
    let mut timing = timing(SECOND);
    timing.deregister_after = None;
    for n in 0..9 {
        world.register(&format!("web-{n}"), timing.clone(), Status::Passing).await;
    }
    let replica = Replica::start(&world, 2).await;
    eventually("all are probed", 10 * SECOND, || async {
        let probed = replica.probed().await.keys().filter(|id| id.starts_with("web-")).count();
        holds(probed == 9, format!("{probed}"))
    })
    .await;
    for n in 0..9 {
        world.set_down(&format!("web-{n}"), true);
    }
    eventually("the brake engages", 10 * SECOND, || async {
        let (_, body) = replica.get("/api/v1/health/system").await;
        holds(body.contains("\"brake\""), body)
    })
    .await;
    eventually("the gauge says so", 10 * SECOND, || async {
        let gauge = replica.metric("health_brake_engaged", "").await;
        holds(gauge == Some(1.0), format!("{gauge:?}"))
    })
    .await;
    assert!(replica.get("/health").await.1.contains("held back"));
    assert!(world.checks().await.values().all(|(status, _)| status == "passing"), "nothing was made worse");

    // A second pair of eyes sees the same: then it is true.
    let second = Replica::start(&world, 2).await;
    for n in 0..9 {
        world.reaches(&format!("web-{n}"), "critical", 20 * SECOND).await;
    }
    for replica in [&replica, &second] {
        eventually("the brake is off", 10 * SECOND, || async {
            let (_, body) = replica.get("/api/v1/health/system").await;
            holds(!body.contains("\"brake\""), body)
        })
        .await;
    }
}

async fn a_lost_lease_expires(kind: Kind) {
    let world = World::new(Backend::start(kind).await).await;
    let ttl = 10 * SECOND;
    world.register_with("job-1", CheckSpec::Ttl { ttl }, Status::Passing).await;
    let _replica = Replica::start(&world, 2).await;
    let lease = plinth_core::registration::lease_key("job-1");
    let session =
        world.client.kv().get(&lease, &Read::default()).await.unwrap().value.unwrap().session.unwrap();
    world.client.session().destroy(&session).await.unwrap();
    let lost = Instant::now();
    let output = world.reaches("job-1", "critical", ttl + 3 * SECOND).await;
    assert_eq!(output, "TTL expired");
    assert!(lost.elapsed() >= ttl - SECOND, "{:?}", lost.elapsed());
    eventually("it is removed", ttl + 3 * SECOND, || async {
        let left = world.registrar.get("job-1").await.map_err(|e| e.to_string())?.is_some();
        holds(!left, "still there")
    })
    .await;
    assert!(lost.elapsed() >= 2 * ttl - SECOND, "{:?}", lost.elapsed());
}
