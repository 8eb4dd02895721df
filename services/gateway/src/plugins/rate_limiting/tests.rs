use std::time::Duration;

use plinth_testbed::eventually;
use plinth_testbed::redis::Redis;

use super::super::tests::{Gateway, replies, told};
use super::*;
use crate::context::Timing;

#[test]
fn keys_are_kongs() {
    let window = Window { start: 1_700_000_040, length: 60 };
    let scope = Scope { route: None, service: None };
    assert_eq!(
        redis_key(scope, "1.2.3.4", window, Period::Minute),
        "ratelimit:00000000-0000-0000-0000-000000000000:00000000-0000-0000-0000-000000000000:1.2.3.4:1700000040000:minute"
    );
}

const ROUTE: &str = "services: [{host: h, routes: [{paths: [/]}]}]\n";

/// One request of each; how many are left afterwards tells who is counted together.
#[tokio::test]
async fn whose_requests_are_counted_together() {
    let consumers = "plugins: [{name: key-auth, config: {anonymous: nobody}}, {name: rate-limiting, config: {day: 100, LIMIT}}]
consumers:
- {username: a, keyauth_credentials: [{key: one}, {key: two}]}
- {username: nobody}";
    let plain = [("apikey", "one"), ("apikey", "two"), ("apikey", "none")];
    for (limit, requests, expected) in [
        ("limit_by: consumer", &plain[..], [99, 98, 99]),
        ("limit_by: credential", &plain[..], [99, 99, 99]),
        ("limit_by: ip", &plain[..], [99, 98, 97]),
        ("limit_by: header, header_name: apikey", &plain[..], [99, 99, 99]),
        // Nothing to be found: the client's address.
        ("limit_by: header, header_name: x-none", &plain[..], [99, 98, 97]),
        ("limit_by: service", &plain[..], [99, 98, 97]),
        ("limit_by: path, path: /x", &plain[..], [99, 98, 97]),
    ] {
        let gateway = Gateway::new(&format!("{ROUTE}{}", consumers.replace("LIMIT", limit)));
        let now = Timing::start();
        for (header, left) in requests.iter().zip(expected) {
            let mut ctx = gateway.get("/", &[*header]);
            ctx.timing = now;
            assert!(gateway.access(&mut ctx).await.is_none());
            assert_eq!(replies(&ctx)["x-ratelimit-remaining-day"], left.to_string(), "{limit} {header:?}");
        }
    }
    let by_path = Gateway::new(&format!(
        "{ROUTE}plugins: [{{name: rate-limiting, config: {{day: 100, limit_by: path, path: /x}}}}]"
    ));
    let now = Timing::start();
    for (path, left) in [("/x", "99"), ("/x", "98"), ("/y", "99")] {
        let mut ctx = by_path.get(path, &[]);
        ctx.timing = now;
        by_path.access(&mut ctx).await;
        assert_eq!(replies(&ctx)["x-ratelimit-remaining-day"], left, "{path}");
    }
}

fn gateway(redis: &Redis, config: &str) -> Gateway {
    let port = redis.addr.port();
    Gateway::new(&format!(
        "{ROUTE}plugins: [{{name: rate-limiting, config: {{policy: redis, redis: {{host: 127.0.0.1, port: {port}}}, {config}}}}}]"
    ))
}

/// What came of one request, and how many are left by its headers.
async fn ask(gateway: &Gateway, now: Timing) -> (u16, Option<String>, Option<String>) {
    let mut ctx = gateway.get("/", &[]);
    ctx.timing = now;
    let status = match gateway.access(&mut ctx).await {
        Some(answer) => told(&answer).0,
        None => 200,
    };
    let text = |name: &str| replies(&ctx).get(name).map(|value| value.to_str().unwrap().to_owned());
    (status, text("x-ratelimit-remaining-day"), text("x-ratelimit-fallback"))
}

async fn warm(gateway: &Gateway) {
    eventually("Redis counts", Duration::from_secs(10), || async {
        let long_ago =
            Timing { started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(9), ..Timing::start() };
        ask(gateway, long_ago).await.1.ok_or("no headers yet")
    })
    .await;
}

/// Two gateways, many requests at once: exactly as many pass as may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_let_no_more_pass_than_the_limit_says() {
    let redis = Redis::start().await;
    for config in ["day: 300, fault_tolerant: false", "day: 300, fault_tolerant: false, window_type: sliding"]
    {
        let gateways = [gateway(&redis, config), gateway(&redis, config)];
        for gateway in &gateways {
            warm(gateway).await;
        }
        let now = Timing {
            started_at: SystemTime::now()
                + Duration::from_secs(if config.contains("sliding") { 0 } else { 90_000 }),
            ..Timing::start()
        };
        let (mut passed, mut refused, mut uncounted) = (0, 0, 0);
        for _ in 0..25 {
            let round = (0..20).map(|at| ask(&gateways[at % 2], now));
            for (status, left, _) in futures_util::future::join_all(round).await {
                match (status, left) {
                    (_, None) => uncounted += 1,
                    (200, _) => passed += 1,
                    (429, _) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(passed + refused + uncounted, 500);
        // A question that Redis answered too late is refused, and perhaps counted.
        assert!(
            (300 - uncounted..=300).contains(&passed),
            "{config}: {passed} passed, {uncounted} uncounted"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_without_redis_is_chosen_and_stated() {
    let mut redis = Redis::start().await;
    redis.kill();
    let now = Timing::start();
    for (config, expected) in [
        ("day: 4, fault_tolerant: true", vec![(200, None, None); 6]),
        ("day: 4, fault_tolerant: false", vec![(500, None, None); 3]),
        ("day: 4, on_redis_failure: open", vec![(200, None, Some("open")); 6]),
        ("day: 4, on_redis_failure: closed", vec![(503, None, Some("closed")); 3]),
        (
            "day: 4, on_redis_failure: local",
            vec![
                (200, Some("1"), Some("local")),
                (200, Some("0"), Some("local")),
                (429, Some("0"), Some("local")),
            ],
        ),
        (
            "day: 4, on_redis_failure: local, local_share: 0.1",
            vec![(200, Some("0"), Some("local")), (429, Some("0"), Some("local"))],
        ),
    ] {
        let gateway = gateway(&redis, config);
        let count = expected.len();
        for (status, left, fallback) in expected {
            let found = ask(&gateway, now).await;
            assert_eq!(
                (found.0, found.1.as_deref(), found.2.as_deref()),
                (status, left, fallback),
                "{config}"
            );
        }
        let metrics = prometheus::TextEncoder::new().encode_to_string(&gateway.registry.gather()).unwrap();
        let line = metrics.lines().find(|line| line.starts_with("gateway_rate_limiting_fallback_total{"));
        assert!(line.is_some_and(|line| line.ends_with(&format!(" {count}"))), "{config}: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_sync_see_each_others_requests_soon() {
    let redis = Redis::start().await;
    let config = "day: 1000, sync_rate: 0.02";
    let (one, other) = (gateway(&redis, config), gateway(&redis, config));
    for left in ["999", "998", "997"] {
        assert_eq!(ask(&one, Timing::start()).await.1.as_deref(), Some(left), "counted here at once");
    }
    for (gateway, others) in [(&other, 3), (&one, 1)] {
        let before = if others == 3 { 0 } else { 3 };
        let looks = std::cell::Cell::new(0);
        eventually("a gateway knows of the other's requests", Duration::from_secs(10), || async {
            looks.set(looks.get() + 1);
            let left: u64 = ask(gateway, Timing::start()).await.1.unwrap().parse().unwrap();
            let foreign = 1000 - left - looks.get() - before;
            if foreign >= others { Ok(()) } else { Err(format!("{foreign} of {others}")) }
        })
        .await;
    }
}
