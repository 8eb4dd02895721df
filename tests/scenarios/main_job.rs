//! Services register, are found, are health-checked, are reached through the gateway with a Kong file, survive the
//! death of an instance, and see configuration changes live.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use plinth_testbed::redis::Redis;
use plinth_testbed::{eventually, holds};
use serde_json::json;

use crate::support::backend::Kind;
use crate::support::client::{get, get_with, header, json, send};
use crate::support::platform::Platform;
use crate::support::seed::Seed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn main_job_on_the_embedded_agent() {
    main_job(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn main_job_on_real_consul() {
    main_job(Kind::Consul).await;
}

async fn main_job(kind: Kind) {
    let redis = Redis::start().await;
    let mut platform = Platform::start(kind).await;
    let seed = Seed::write(platform.folder.path(), redis.addr);

    // Register by REST and by the service itself; both are found through either replica.
    let first = platform.demo("user-service", "user-1").await;
    let mut second = platform.demo("user-service", "user-2").await;
    let documents = platform.demo("document-service", "document-1").await;
    let body = json!({
        "service_name": "document-service", "service_id": "document-2", "address": "127.0.0.1",
        "port": documents.addresses["http"].port(), "health_check": "/health", "tags": ["second"],
        "metadata": { "team": { "name": "docs", "size": 3 } },
    });
    let registered =
        send(Method::POST, &platform.registry[0].url("http", "/api/v1/services/register"), &body).await;
    assert_eq!(registered.status(), 201, "{:?}", registered.body());
    assert_eq!(json(&registered)["status"], "registered");
    platform.discovered("user-service", 2, Duration::from_secs(10)).await;
    platform.discovered("document-service", 2, Duration::from_secs(10)).await;
    let index = header(&registered, "x-plinth-index").to_owned();
    let found = get(&platform.registry[1]
        .url("http", &format!("/api/v1/services/discover/document-service?tags=second&index={index}")))
    .await;
    assert_eq!(
        json(&found)["services"][0]["metadata"],
        body["metadata"],
        "the full metadata, through the other replica"
    );

    // The seed's file: tokens, limits, log, metrics.
    let mut gateway = platform.gateway("gateway", &seed.file).await;
    seed_behaves(&gateway, &seed).await;

    // Raised limits; an instance dies without warning under load.
    let raised = platform.gateway("gateway-raised", &seed.with_raised_limits()).await;
    let url = raised.url("proxy", "/api/v1/users/1");
    let bearer = format!("Bearer {}", seed.token(600));
    // Ready with a configuration; an address that took longer than a second is still under way.
    eventually("users are found", Duration::from_secs(10), || async {
        let answer = get_with(&url, &[("authorization", &bearer)]).await;
        holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
    })
    .await;
    death_under_load(&platform, &raised, &seed, &mut second).await;

    configuration_is_live(&platform).await;
    consul_restarts(&mut platform, &raised, &seed).await;

    // SIGTERM: deregistered, drained, exit code 0.
    let status = gateway.process.terminate(Duration::from_secs(40));
    assert!(status.success(), "{status}: {}", gateway.process.output());
    drop(first);
}

async fn seed_behaves(gateway: &crate::support::program::Program, seed: &Seed) {
    let users = gateway.url("proxy", "/api/v1/users/7?x=1");
    let refused = get(&users).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(json(&refused)["message"], "Unauthorized");
    let expired = seed.token(-60);
    let expired = get_with(&users, &[("authorization", &format!("Bearer {expired}"))]).await;
    assert_eq!((expired.status().as_u16(), json(&expired)), (401, json!({ "exp": "token expired" })));

    // All in one clock minute, so that the count is exact: wait for the beginning of one if it is nearly over.
    let bearer = format!("Bearer {}", seed.token(600));
    let allowed = ("authorization", bearer.as_str());
    eventually("enough of the clock minute is left", Duration::from_secs(40), || async {
        let second =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() % 60;
        holds(second < 35, format!("second {second}"))
    })
    .await;
    let mut last = None;
    for _ in 0..100 {
        let answer = get_with(&users, &[allowed, ("origin", "http://localhost:3000")]).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        last = Some(answer);
    }
    let last = last.unwrap();
    assert_eq!(header(&last, "x-ratelimit-limit-minute"), "100");
    assert_eq!(header(&last, "x-ratelimit-remaining-minute"), "0");
    assert_eq!(header(&last, "access-control-allow-origin"), "http://localhost:3000");
    assert_eq!(header(&last, "access-control-allow-credentials"), "true");
    let echoed = json(&last);
    assert_eq!(echoed["path"], "/api/v1/users/7", "strip_path false: the path goes out as it came");
    assert_eq!(echoed["query"], "x=1");
    let over = get_with(&users, &[allowed]).await;
    assert_eq!(over.status(), 429);
    assert_eq!(json(&over)["message"], "API rate limit exceeded");
    assert!(!header(&over, "retry-after").is_empty());

    // Kong: routes that name their methods do not match a preflight.
    let preflight = plinth_testbed::http_client::send(
        Method::OPTIONS,
        &users,
        &[("origin", "http://localhost:3000"), ("access-control-request-method", "GET")],
        "",
    )
    .await
    .unwrap();
    assert_eq!(preflight.status(), 404);

    eventually("the refused request is in the access log", Duration::from_secs(5), || async {
        let log = std::fs::read_to_string(&seed.log).unwrap_or_default();
        let entry = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        holds(
            entry.clone().any(|entry| entry["response"]["status"] == 429),
            format!("{} entries", entry.count()),
        )
    })
    .await;
    let metrics = get(&gateway.url("status", "/metrics")).await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    assert!(metrics.contains("kong_http_requests_total{"), "{metrics}");
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("kong_http_requests_total{") && line.contains("code=\"429\"")),
        "{metrics}"
    );
}

async fn death_under_load(
    platform: &Platform,
    gateway: &crate::support::program::Program,
    seed: &Seed,
    victim: &mut crate::support::program::Program,
) {
    const REQUESTS: usize = 2_000;
    let url = gateway.url("proxy", "/api/v1/users/1");
    let bearer = Arc::new(format!("Bearer {}", seed.token(600)));
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (url, bearer, next, done) = (url.clone(), bearer.clone(), next.clone(), done.clone());
        clients.spawn(async move {
            let mut failed = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                let answer = get_with(&url, &[("authorization", &bearer)]).await;
                if answer.status() != 200 {
                    failed.push(format!("{} {:?}", answer.status(), answer.body()));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
    }
    eventually("a quarter of the requests is answered", Duration::from_secs(60), || async {
        let count = done.load(Ordering::Relaxed);
        holds(count > REQUESTS / 4, format!("{count}"))
    })
    .await;
    victim.process.kill();
    let killed = Instant::now();
    let failed: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{} of {REQUESTS} requests failed, e.g. {}", failed.len(), failed[0]);
    assert_eq!(done.load(Ordering::Relaxed), REQUESTS);
    platform.discovered("user-service", 1, Duration::from_secs(45)).await;
    println!("the killed instance was out of discovery after {:?}", killed.elapsed());
}

async fn configuration_is_live(platform: &Platform) {
    const WATCHERS: usize = 20;
    const CHANGES: usize = 100;
    let item = platform.config.url("http", "/api/v1/config/shop/prod/limits");
    let first = send(Method::PUT, &item, &json!({ "value": { "sent": 0 } })).await;
    assert_eq!(first.status(), 201, "{:?}", first.body());
    let started = Instant::now();
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let item = item.clone();
        watchers.spawn(async move {
            let (mut index, mut seen) = (String::from("0"), Vec::new());
            loop {
                let answer = get(&format!("{item}?index={index}&wait=30s")).await;
                index = header(&answer, "x-plinth-index").to_owned();
                let value = json(&answer)["value"].clone();
                let number = value["number"].as_u64().unwrap_or(0);
                if let Some(sent) = value["sent"].as_f64() {
                    seen.push((number, started.elapsed().as_secs_f64() - sent));
                }
                if number == CHANGES as u64 {
                    return seen;
                }
            }
        });
    }
    for number in 1..=CHANGES {
        let value = json!({ "value": { "number": number, "sent": started.elapsed().as_secs_f64() } });
        let put = send(Method::PUT, &item, &value).await;
        assert_eq!(put.status(), 200, "{:?}", put.body());
    }
    let mut delays = Vec::new();
    for seen in watchers.join_all().await {
        assert!(
            seen.is_sorted_by_key(|(number, _)| *number),
            "a watcher saw an older value after a newer one"
        );
        assert_eq!(
            seen.last().map(|(number, _)| *number),
            Some(CHANGES as u64),
            "the final state is never missed"
        );
        delays.extend(seen.into_iter().filter(|(number, _)| *number > 0).map(|(_, delay)| delay * 1e3));
    }
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!(
        "{WATCHERS} watchers x {CHANGES} changes, {} deliveries: p50 {:.1} ms, p99 {:.1} ms",
        delays.len(),
        at(0.5),
        at(0.99)
    );
}

async fn consul_restarts(platform: &mut Platform, gateway: &crate::support::program::Program, seed: &Seed) {
    let bearer = format!("Bearer {}", seed.token(600));
    platform.backend.kill();
    for _ in 0..50 {
        let answer = get_with(&gateway.url("proxy", "/api/v1/users/1"), &[("authorization", &bearer)]).await;
        assert_eq!(answer.status(), 200, "served from the last snapshot: {:?}", answer.body());
        let found = get(&platform.registry[0].url("http", "/api/v1/services/discover/user-service")).await;
        assert_eq!(found.status(), 200, "{:?}", found.body());
        let item = get(&platform.config.url("http", "/api/v1/config/shop/prod/limits")).await;
        assert_eq!(item.status(), 200, "{:?}", item.body());
    }
    platform.backend.start_again().await;
    let item = platform.config.url("http", "/api/v1/config/shop/prod/limits");
    eventually("writes work again", Duration::from_secs(30), || async {
        let put = send(Method::PUT, &item, &json!({ "value": "after" })).await;
        holds(put.status() == 200, format!("{} {:?}", put.status(), put.body()))
    })
    .await;
    platform.discovered("user-service", 1, Duration::from_secs(15)).await;
    platform.discovered("document-service", 2, Duration::from_secs(15)).await;
    let last = get(&item).await;
    assert_eq!(json(&last)["value"], "after");
    let status = platform.registry[1].process.terminate(Duration::from_secs(40));
    assert!(status.success(), "{status}: {}", platform.registry[1].process.output());
    assert!(platform.registry[0].process.exited().is_none());
}
