//! Against a real Redis, killed and back, with a password, over TLS.

use std::process::Command;
use std::time::{Instant, SystemTime};

use http::header;
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::process::Process;
use plinth_testbed::{PortLease, eventually, holds, redis::Redis};

use super::super::Options;
use super::super::limits::Window;
use super::super::tests::{Gateway, replies, told};
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

/// Another day's requests until one is counted: the connection is there.
async fn warm(gateway: &Gateway) {
    let long_ago = Timing { started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(9), ..Timing::start() };
    eventually("Redis counts", Duration::from_secs(10), || async {
        let (_, ctx) = ask(gateway, long_ago).await;
        replies(&ctx).get("x-ratelimit-remaining-day").map(|_| ()).ok_or("no headers")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_together_with_other_gateways() {
    let redis = Redis::start().await;
    let (one, other) = (gateway(&redis, true), gateway(&redis, true));
    warm(&one).await;
    warm(&other).await;
    let now = Timing::start();
    for (gateway, left) in [(&one, "2"), (&other, "1"), (&one, "0")] {
        let (answer, ctx) = ask(gateway, now).await;
        assert!(answer.is_none());
        assert_eq!(replies(&ctx)["x-ratelimit-remaining-day"], left);
    }
    let (answer, _) = ask(&other, now).await;
    let answer = answer.unwrap();
    assert_eq!(told(&answer), (429, "error: API rate limit exceeded".to_owned()));
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let zero = "00000000-0000-0000-0000-000000000000";
    let start = Window::of(plinth_kong::Period::Day, now.started_at).start * 1000;
    let key = format!("ratelimit:{zero}:{zero}:192.0.2.7:{start}:day");
    let count: u64 = cmd("GET").arg(&key).query_async(&mut connection).await.unwrap();
    assert_eq!(count, 4, "refused requests count, as in Kong");
    let ttl: u64 = cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_redis_costs_nothing_and_comes_back() {
    let mut redis = Redis::start().await;
    let gateway = gateway(&redis, true);
    warm(&gateway).await;
    let now = Timing::start();
    assert_eq!(replies(&ask(&gateway, now).await.1)["x-ratelimit-remaining-day"], "2");
    redis.kill();
    eventually("the circuit opens", Duration::from_secs(5), || async {
        let (answer, ctx) = ask(&gateway, now).await;
        assert!(answer.is_none() && ctx.reply_headers.is_empty(), "passes without headers");
        let open = metric(&gateway, "reason=\"circuit_open\"");
        if open > 0.0 { Ok(()) } else { Err("closed") }
    })
    .await;
    let begin = Instant::now();
    for _ in 0..1000 {
        assert!(ask(&gateway, now).await.0.is_none());
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "1000 requests took {:?}", begin.elapsed());
    eventually("Redis is said to be down", Duration::from_secs(5), || async {
        holds(metric(&gateway, "gateway_redis_up{") == 0.0, "up")
    })
    .await;
    redis.start_again().await;
    eventually("limits count again", Duration::from_secs(5), || async {
        let (_, ctx) = ask(&gateway, now).await;
        replies(&ctx).get("x-ratelimit-remaining-day").map(|_| ()).ok_or("no headers")
    })
    .await;
    eventually("Redis is said to be up", Duration::from_secs(5), || async {
        holds(metric(&gateway, "gateway_redis_up{") == 1.0, "down")
    })
    .await;
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
    let body = format!(
        "services: [{{host: h, routes: [{{paths: [/]}}]}}]
plugins: [{{name: rate-limiting, config: {{day: 3, policy: redis, redis: {{host: 127.0.0.1, port: {}}}}}}}]",
        listener.local_addr().unwrap().port()
    );
    let gateway = Gateway::with(&body, Options::default());
    let begin = Instant::now();
    for _ in 0..10 {
        assert!(ask(&gateway, Timing::start()).await.0.is_none());
    }
    // Three wait for the deadline, then the circuit is open.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(metric(&gateway, "reason=\"timeout\""), 3.0);
}

/// An answer that comes too late may have used up what it tells of: who cannot do without it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_is_waited_for_where_its_answer_is_needed() {
    let redis = Redis::start().await;
    let between = Proxy::start(redis.addr).await;
    let config = RedisConfig {
        host: Some("127.0.0.1".to_owned()),
        port: between.addr().port(),
        timeout: 20_000,
        username: None,
        password: None,
        database: 0,
        ssl: false,
        ssl_verify: false,
        server_name: None,
    };
    let (control, registry) = (Handle::current(), prometheus::Registry::new());
    let pools = Pools::new(control, Duration::from_millis(50), &registry).unwrap();
    let ping = async |client: &Arc<Client>| {
        let mut ping = Pipeline::new();
        ping.cmd("PING");
        client.ask::<Vec<String>>(ping)?.answer().await
    };
    let (needed, dispensable) = (pools.patient(&config).unwrap(), pools.client(&config).unwrap());
    for client in [&needed, &dispensable] {
        eventually("it answers", Duration::from_secs(10), || async {
            ping(client).await.map_err(|_| "not yet")
        })
        .await;
    }
    between.set(Mode::Latency(Duration::from_millis(200)));
    assert_eq!(ping(&needed).await.unwrap(), ["PONG"]);
    assert_eq!(ping(&dispensable).await, Err(Unavailable));
}

/// A Redis that wants a login and TLS, with a user of its own and a second database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_in_over_tls_into_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["redis.test".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let port = PortLease::take();
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--bind", "127.0.0.1", "--tls-port", &port.port().to_string()]);
    command.arg("--tls-cert-file").arg(&cert).arg("--tls-key-file").arg(&key);
    command.args(["--tls-auth-clients", "no", "--save", "", "--dir"]).arg(folder.path());
    command.args(["--user", "gate", "on", ">s3cret", "~*", "+@all", "--user", "default", "off"]);
    let mut process = Process::spawn("redis", command, folder.path());
    let configured = |more: &str| {
        Gateway::new(&format!(
            "services: [{{host: h, routes: [{{paths: [/]}}]}}]
plugins: [{{name: rate-limiting, config: {{day: 3, policy: redis, redis: {{host: 127.0.0.1, port: {}, ssl: true, server_name: redis.test,
  database: 2, username: gate, {more}}}}}}}]",
            port.port()
        ))
    };
    let good = configured("password: s3cret");
    eventually("limits are counted", Duration::from_secs(20), || {
        process.assert_running();
        let good = &good;
        async move {
            let (_, ctx) = ask(good, Timing::start()).await;
            replies(&ctx).get("x-ratelimit-remaining-day").map(|_| ()).ok_or("no headers")
        }
    })
    .await;
    for (more, why) in [
        ("password: wrong", "a wrong password"),
        ("password: s3cret, ssl_verify: true", "a certificate nobody vouches for"),
    ] {
        let bad = configured(more);
        eventually(why, Duration::from_secs(10), || async {
            let (_, ctx) = ask(&bad, Timing::start()).await;
            assert!(ctx.reply_headers.is_empty(), "{why} counts nothing");
            let up = metric(&bad, "gateway_redis_up{");
            if up == 0.0 { Ok(()) } else { Err(up) }
        })
        .await;
    }
}

/// The value of the first sample whose line holds the text; 0 when there is none.
fn metric(gateway: &Gateway, text: &str) -> f64 {
    let all = prometheus::TextEncoder::new().encode_to_string(&gateway.registry.gather()).unwrap();
    let line = all.lines().find(|line| line.contains(text));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}
