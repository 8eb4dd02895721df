//! Against a real Redis, killed and back.

use std::time::Instant;

use http::header;
use plinth_testbed::{eventually, redis::Redis};

use super::super::tests::{Gateway, told};
use super::*;
use crate::context::{EarlyResponse, RequestContext, Timing};

fn gateway(redis: &Redis, fault_tolerant: bool) -> Gateway {
    Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]
plugins: [{{name: rate-limiting, config: {{day: 3, policy: redis, fault_tolerant: {fault_tolerant}, redis_host: 127.0.0.1, redis_port: {}}}}}]",
        redis.addr.port()
    ))
}

async fn ask(gateway: &Gateway, now: Timing) -> (Option<EarlyResponse>, RequestContext) {
    let mut ctx = gateway.get("/", &[]);
    ctx.timing = now;
    let answer = gateway.access(&mut ctx).await;
    (answer, ctx)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_together_with_other_gateways() {
    let redis = Redis::start().await;
    let (one, other) = (gateway(&redis, true), gateway(&redis, true));
    let now = Timing::start();
    for (gateway, left) in [(&one, "2"), (&other, "1"), (&one, "0")] {
        let (answer, ctx) = ask(gateway, now).await;
        assert!(answer.is_none());
        assert_eq!(ctx.reply_headers["x-ratelimit-remaining-day"], left);
    }
    let (answer, _) = ask(&other, now).await;
    let answer = answer.unwrap();
    assert_eq!(told(&answer), (429, "error: API rate limit exceeded".to_owned()));
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    let manager = Manager::new(redis.url()).unwrap();
    let pool = Pool::builder(manager).build().unwrap();
    let mut connection = pool.get().await.unwrap();
    let keys: Vec<String> = cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    let zero = "00000000-0000-0000-0000-000000000000";
    let start = Window::of(plinth_kong::Period::Day, now.started_at).start * 1000;
    assert_eq!(keys, [format!("ratelimit:{zero}:{zero}:192.0.2.7:{start}:day")]);
    let ttl: u64 = cmd("TTL").arg(&keys[0]).query_async(&mut connection).await.unwrap();
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_redis_costs_nothing_and_comes_back() {
    let mut redis = Redis::start().await;
    let gateway = gateway(&redis, true);
    let now = Timing::start();
    assert_eq!(ask(&gateway, now).await.1.reply_headers["x-ratelimit-remaining-day"], "2");
    redis.kill();
    let (answer, ctx) = ask(&gateway, now).await;
    assert!(answer.is_none() && ctx.reply_headers.is_empty(), "passes without headers");
    eventually("the circuit opens", Duration::from_secs(5), || async {
        ask(&gateway, now).await;
        let open = metric(&gateway, "reason=\"circuit_open\"");
        if open > 0.0 { Ok(()) } else { Err("closed") }
    })
    .await;
    let begin = Instant::now();
    for _ in 0..1000 {
        assert!(ask(&gateway, now).await.0.is_none());
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "1000 requests took {:?}", begin.elapsed());
    assert_eq!(metric(&gateway, "gateway_rate_limiting_redis_up{"), 0.0);
    redis.start_again().await;
    eventually("limits count again", Duration::from_secs(5), || async {
        let (_, ctx) = ask(&gateway, now).await;
        ctx.reply_headers.get("x-ratelimit-remaining-day").map(|_| ()).ok_or("no headers")
    })
    .await;
    assert_eq!(metric(&gateway, "gateway_rate_limiting_redis_up{"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_limits_answer_500_without_redis() {
    let mut redis = Redis::start().await;
    redis.kill();
    let gateway = gateway(&redis, false);
    let (answer, _) = ask(&gateway, Timing::start()).await;
    assert_eq!(told(&answer.unwrap()), (500, "error: An unexpected error occurred".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_redis_is_given_50_ms() {
    // Accepts and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::new(&format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]
plugins: [{{name: rate-limiting, config: {{day: 3, policy: redis, redis: {{host: 127.0.0.1, port: {}}}}}}}]",
        listener.local_addr().unwrap().port()
    ));
    let begin = Instant::now();
    for _ in 0..10 {
        assert!(ask(&gateway, Timing::start()).await.0.is_none());
    }
    // Three wait for the deadline, then the circuit is open.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(metric(&gateway, "reason=\"timeout\""), 3.0);
}

/// The value of the first sample whose line holds the text; 0 when there is none.
fn metric(gateway: &Gateway, text: &str) -> f64 {
    let all = prometheus::TextEncoder::new().encode_to_string(&gateway.registry.gather()).unwrap();
    let line = all.lines().find(|line| line.contains(text));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}
