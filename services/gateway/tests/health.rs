//! Health of targets: active checks of every kind, thresholds, circuit breakers, sticky sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use harness::{Client, Gateway, balanced};
use http::{Response, header};
use http_body_util::Full;
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, free_port, holds, http_client};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(10);

/// Target and health as the Admin API tells them.
async fn health(gateway: &Gateway) -> BTreeMap<String, String> {
    let url = format!("http://{}/upstreams/up/health", gateway.admin);
    let answer = http_client::get(&url).await.unwrap();
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let targets = body["data"].as_array().unwrap().iter();
    targets.map(|target| (text(&target["target"]), text(&target["health"]))).collect()
}

async fn becomes(gateway: &Gateway, target: SocketAddr, wanted: &str) {
    eventually(&format!("{target} is {wanted}"), LIMIT, || async {
        let now = health(gateway).await;
        holds(now[&target.to_string()] == wanted, format!("{now:?}"))
    })
    .await;
}

/// Active checks of this kind every 50 ms, one result turns a target; `more` fields on top.
fn active(kind: &str, more: Value) -> Value {
    let mut check = json!({
        "type": kind, "timeout": 2, "http_path": "/status", "https_verify_certificate": false,
        "healthy": {"interval": 0.05, "successes": 1},
        "unhealthy": {"interval": 0.05, "http_failures": 1, "tcp_failures": 1, "timeouts": 1},
    });
    check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"healthchecks": {"active": check}})
}

/// Answers probes with `status`, everything else with 200.
async fn probed(status: &Arc<AtomicU16>) -> Upstream {
    let upstream = Upstream::start().await;
    let status = status.clone();
    upstream.respond(move |request| {
        let code = if request.uri().path() == "/status" { status.load(SeqCst) } else { 200 };
        async move { Response::builder().status(code).body(Full::default()).unwrap() }
    });
    upstream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_probes_take_a_target_out_and_let_it_in_again() {
    let status = Arc::new(AtomicU16::new(200));
    let (steady, shaky) = (probed(&Arc::new(AtomicU16::new(302))).await, probed(&status).await);
    let targets = [(steady.addr, 100), (shaky.addr, 100)];
    let more = json!({"headers": {"X-Probe": ["yes", "always"]}});
    let gateway = Gateway::start(&balanced(&targets, active("http", more))).await;
    let probe = eventually("probes come", LIMIT, || async { shaky.requests().pop().ok_or("none") }).await;
    assert_eq!(probe.uri(), "/status");
    assert_eq!(probe.headers()["host"], "127.0.0.1");
    assert_eq!(probe.headers()["connection"], "close");
    assert_eq!(probe.headers().get_all("x-probe").iter().count(), 2);

    for round in 0..2 {
        becomes(&gateway, shaky.addr, "HEALTHY").await;
        status.store(500, SeqCst);
        becomes(&gateway, shaky.addr, "UNHEALTHY").await;
        let proxied = || shaky.requests().iter().filter(|request| request.uri() == "/x").count();
        let before = proxied();
        for _ in 0..10 {
            assert_eq!(gateway.get("/x").await.status(), 200);
        }
        assert_eq!(proxied(), before, "round {round}");
        status.store(200, SeqCst);
    }
    becomes(&gateway, shaky.addr, "HEALTHY").await;
    becomes(&gateway, steady.addr, "HEALTHY").await;

    // a status in neither list says nothing; a target that answers nothing is a timeout
    status.store(418, SeqCst);
    let seen = shaky.requests().len();
    eventually("it is asked on", LIMIT, || async { holds(shaky.requests().len() > seen + 5, "not yet") })
        .await;
    assert_eq!(health(&gateway).await[&shaky.addr.to_string()], "HEALTHY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_of_every_kind_notice_a_target_that_goes_and_comes() {
    let serving = || async {
        Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0")
            .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])))
            .unwrap()
    };
    for kind in ["http", "tcp", "grpc"] {
        let upstream = Upstream::start().await;
        if kind == "grpc" {
            upstream.respond(move |_| serving());
        }
        let between = Proxy::start(upstream.addr).await;
        let gateway = Gateway::start(&balanced(&[(between.addr(), 100)], active(kind, json!({})))).await;
        becomes(&gateway, between.addr(), "HEALTHY").await;
        if kind != "tcp" {
            // a connection opens all the same
            between.set(Mode::BlackHole);
            becomes(&gateway, between.addr(), "UNHEALTHY").await;
            between.set(Mode::Pass);
            becomes(&gateway, between.addr(), "HEALTHY").await;
        }
        let address = between.addr();
        drop(between);
        becomes(&gateway, address, "UNHEALTHY").await;
        assert_eq!(gateway.get("/").await.status(), 503, "{kind}");
        let again = Upstream::start_on(address).await;
        if kind == "grpc" {
            again.respond(move |_| serving());
        }
        becomes(&gateway, address, "HEALTHY").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_taken_out_by_requests_comes_back_by_probes() {
    let upstream = Upstream::start().await;
    upstream.respond(|request| async move {
        let code = if request.uri() == "/fail" { 500 } else { 200 };
        Response::builder().status(code).body(Full::default()).unwrap()
    });
    let checks = json!({"healthchecks": {
        "active": {"unhealthy": {"interval": 2}, "healthy": {"successes": 2}},
        "passive": {"unhealthy": {"http_failures": 2, "http_statuses": [500]}},
    }});
    let gateway = Gateway::start(&balanced(&[(upstream.addr, 100)], checks)).await;
    assert_eq!(health(&gateway).await[&upstream.addr.to_string()], "HEALTHY");
    for _ in 0..2 {
        assert_eq!(gateway.get("/fail").await.status(), 500);
    }
    assert_eq!(gateway.get("/").await.status(), 503);
    becomes(&gateway, upstream.addr, "HEALTHY").await;
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_its_threshold_an_upstream_answers_503() {
    let upstream = Upstream::start().await;
    let closed = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut checks = active("tcp", json!({}));
    checks["healthchecks"]["threshold"] = json!(50.0);
    let gateway = Gateway::start(&balanced(&[(upstream.addr, 100), (closed, 100)], checks)).await;
    becomes(&gateway, closed, "UNHEALTHY").await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.status(), 503, "50 is not more than 50");
    assert!(String::from_utf8_lossy(answer.body()).contains("failure to get a peer from the ring-balancer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_spares_a_failing_target_and_tries_it_again() {
    let (good, bad) = (Upstream::start().await, Upstream::start().await);
    bad.respond_status(500);
    let tags = json!({"tags": ["plinth.breaker:ratio=50;volume=4;open=3s"]});
    let gateway = Gateway::start(&balanced(&[(good.addr, 100), (bad.addr, 100)], tags)).await;
    let mut client = Client::connect(gateway.proxy).await;
    let mut failures = 0;
    for _ in 0..40 {
        failures += usize::from(client.get("/").await.unwrap().0 == 500);
    }
    assert!((4..=6).contains(&failures), "{failures}: open after four, with a trial now and then");
    assert_eq!(health(&gateway).await[&bad.addr.to_string()], "UNHEALTHY");
    bad.respond_status(200);
    let seen = bad.requests().len();
    eventually("the breaker closes", LIMIT, || async {
        gateway.get("/").await;
        let now = bad.requests().len();
        holds(now > seen + 3, format!("{now} of {seen}"))
    })
    .await;
    assert_eq!(health(&gateway).await[&bad.addr.to_string()], "HEALTHY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_stay_at_their_target_until_it_is_gone_also_while_it_drains() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    for upstream in [&one, &two] {
        let name = upstream.addr.to_string();
        upstream.respond(move |_| {
            let name = name.clone();
            async move { Response::new(Full::from(name)) }
        });
    }
    let with = |weights: [u32; 2]| {
        let tags = json!({"tags": ["plinth.sticky-cookie:place"]});
        balanced(&[(one.addr, weights[0]), (two.addr, weights[1])], tags)
    };
    let gateway = Gateway::start(&with([100, 100])).await;
    let mut client = Client::connect(gateway.proxy).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let (_, headers, body) = client.get("/").await.unwrap();
        let cookie = headers[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(cookie.ends_with("; Path=/; SameSite=Lax; HttpOnly"), "{cookie}");
        sessions.push((cookie.split(';').next().unwrap().to_owned(), body));
    }
    let place = |address: SocketAddr| address.to_string();
    assert_eq!(sessions.iter().filter(|(_, body)| *body == place(one.addr)).count(), 2);
    for (cookie, body) in &sessions {
        for _ in 0..3 {
            let (_, headers, again) = client.get_with("/", &[("cookie", cookie)]).await.unwrap();
            assert_eq!((&again, headers.contains_key(header::SET_COOKIE)), (body, false));
        }
    }
    // the first drains: its sessions stay, new ones go to the second
    std::fs::write(&gateway.file, with([0, 100])).unwrap();
    eventually("the new weights hold", LIMIT, || async {
        holds(gateway.metric("gateway_config_generation").await >= 2.0, "not yet")
    })
    .await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.unwrap().2, place(two.addr));
    }
    let of_first = sessions.iter().find(|(_, body)| *body == place(one.addr)).unwrap();
    assert_eq!(client.get_with("/", &[("cookie", &of_first.0)]).await.unwrap().2, place(one.addr));
    one.killed().await;
    let (status, headers, body) = client.get_with("/", &[("cookie", &of_first.0)]).await.unwrap();
    assert_eq!((status, body), (200, Bytes::from(place(two.addr))));
    assert!(headers.contains_key(header::SET_COOKIE), "the session has moved");
}
