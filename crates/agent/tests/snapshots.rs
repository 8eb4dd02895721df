//! `/v1/snapshot` on this agent and on a real Consul 1.8.7: what is saved comes back, whole, durable, and nobody's index goes
//! back. What `state.bin` holds is each one's own, so each refuses the other's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use plinth_agent::{Agent, Data, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds, http_client};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

async fn ask(at: SocketAddr, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    http_client::send(method, &format!("http://{at}{path}"), &[], body).await.unwrap()
}

async fn get(at: SocketAddr, path: &str) -> Value {
    let answer = ask(at, Method::GET, path, "").await;
    serde_json::from_slice(answer.body()).unwrap_or(Value::Null)
}

async fn put(at: SocketAddr, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let answer = ask(at, Method::PUT, path, body).await;
    assert_eq!(answer.status(), 200, "{path}: {:?}", answer.body());
    answer
}

fn index(answer: &Response<Bytes>) -> u64 {
    answer.headers()["x-consul-index"].to_str().unwrap().parse().unwrap()
}

async fn saved(at: SocketAddr) -> Bytes {
    let answer = ask(at, Method::GET, "/v1/snapshot", "").await;
    assert_eq!(
        (answer.status(), answer.headers()["content-type"].to_str().unwrap()),
        (http::StatusCode::OK, "application/x-gzip")
    );
    assert!(index(&answer) > 0);
    answer.into_body()
}

async fn value(at: SocketAddr, key: &str) -> String {
    let answer = ask(at, Method::GET, &format!("/v1/kv/{key}?raw"), "").await;
    if answer.status() == 404 {
        "none".to_owned()
    } else {
        String::from_utf8_lossy(answer.body()).into_owned()
    }
}

/// Names and JSON of an archive, as `tar` and anybody's JSON reader see them.
fn listed(archive: &[u8]) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup.snap");
    std::fs::write(&path, archive).unwrap();
    let tar = |arguments: &[&str]| {
        let ran =
            Command::new("tar").args(arguments).arg(&path).args(["-C"]).arg(folder.path()).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    let names = tar(&["-tzf"]);
    tar(&["-xzf"]);
    let sums = Command::new("sha256sum")
        .args(["--check", "SHA256SUMS"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stdout));
    let meta = serde_json::from_slice(&std::fs::read(folder.path().join("meta.json")).unwrap()).unwrap();
    (names, meta)
}

/// The same on both.
async fn saves_and_restores(at: SocketAddr) {
    put(at, "/v1/kv/a/kept", "old").await;
    let node = r#"{"Node":"n","Address":"10.0.0.1","Service":{"Service":"web","Port":80},"Check":{"Name":"c","Status":"passing"}}"#;
    put(at, "/v1/catalog/register", node).await;
    put(at, "/v1/config", r#"{"Kind":"service-defaults","Name":"web","Protocol":"http"}"#).await;
    let archive = saved(at).await;
    let (names, meta) = listed(&archive);
    assert_eq!(names, "meta.json\nstate.bin\nSHA256SUMS\n");
    assert!(meta["Index"].as_u64().unwrap() > 0 && meta["Size"].as_u64().unwrap() > 0, "{meta}");

    put(at, "/v1/kv/a/kept", "new").await;
    put(at, "/v1/kv/a/more", "x").await;
    put(at, "/v1/catalog/deregister", r#"{"Node":"n"}"#).await;
    assert_eq!(ask(at, Method::DELETE, "/v1/config/service-defaults/web", "").await.status(), 200);
    put(at, "/v1/snapshot", archive.clone()).await;
    eventually("the saved state is back", SOON, || async {
        let seen = (value(at, "a/kept").await, value(at, "a/more").await);
        holds(seen == ("old".to_owned(), "none".to_owned()), format!("{seen:?}"))
    })
    .await;
    assert_eq!(get(at, "/v1/health/service/web?passing").await[0]["Node"]["Node"], "n");
    assert_eq!(get(at, "/v1/config/service-defaults/web").await["Protocol"], "http");
    put(at, "/v1/kv/a/after", "writes go on").await;

    for (what, bad) in [
        ("nothing", Bytes::new()),
        ("no archive", Bytes::from_static(b"garbage")),
        ("half of one", archive.slice(..archive.len() / 2)),
    ] {
        let answer = ask(at, Method::PUT, "/v1/snapshot", bad).await;
        assert_eq!(answer.status(), 500, "{what}");
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(text.starts_with("failed to "), "{what}: {text}");
    }
    assert_eq!(value(at, "a/after").await, "writes go on", "a refused restore changes nothing");
}

async fn agent() -> Agent {
    Agent::start(Settings { http_port: 0, ..Settings::default() }).await.unwrap()
}

#[tokio::test]
async fn both_save_and_restore() {
    let (agent, consul) = (agent().await, RealConsul::start().await);
    saves_and_restores(agent.address()).await;
    saves_and_restores(consul.addr).await;
    // neither can read what is in the other's
    let (ours, theirs) = (saved(agent.address()).await, saved(consul.addr).await);
    let answer = ask(agent.address(), Method::PUT, "/v1/snapshot", theirs).await;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(
        answer.status() == 500 && text.contains("snapshots of Consul itself cannot be restored here"),
        "{text}"
    );
    let answer = ask(consul.addr, Method::PUT, "/v1/snapshot", ours).await;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(answer.status() == 500 && text.contains("unsupported snapshot version"), "{text}");
    agent.shutdown().await;
}

#[tokio::test]
async fn who_waits_sees_the_restored_state_and_no_index_goes_back() {
    let agent = agent().await;
    let at = agent.address();
    put(at, "/v1/kv/k", "old").await;
    let register =
        |id: &str| format!(r#"{{"Name":"web","ID":"{id}","Check":{{"TTL":"1h","Status":"passing"}}}}"#);
    put(at, "/v1/agent/service/register", register("one")).await;
    let archive = saved(at).await;
    put(at, "/v1/kv/k", "new").await;
    put(at, "/v1/agent/service/register", register("two")).await;
    let paths =
        ["/v1/kv/k", "/v1/kv/?recurse", "/v1/health/service/web", "/v1/catalog/nodes", "/v1/session/list"];
    let mut waiting = Vec::new();
    for path in paths {
        let before = index(&ask(at, Method::GET, path, "").await);
        let joint = if path.contains('?') { '&' } else { '?' };
        let blocking = format!("{path}{joint}index={before}&wait=60s");
        waiting.push((path, before, tokio::spawn(async move { ask(at, Method::GET, &blocking, "").await })));
    }
    eventually("all wait", SOON, || async {
        let about = get(at, "/v1/agent/self").await;
        let count = about["Stats"]["plinth"]["waiting_queries"].clone();
        holds(count.as_str().is_some_and(|text| text.parse() == Ok(paths.len())), count.to_string())
    })
    .await;
    put(at, "/v1/snapshot", archive).await;
    for (path, before, task) in waiting {
        let answer =
            tokio::time::timeout(SOON, task).await.unwrap_or_else(|_| panic!("{path}: not woken")).unwrap();
        assert!(index(&answer) > before, "{path}: {} after {before}", index(&answer));
    }
    assert_eq!(value(at, "k").await, "old");
    let services = get(at, "/v1/agent/services").await;
    assert!(services.get("one").is_some() && services.get("two").is_none(), "{services}");
    assert_eq!(get(at, "/v1/health/service/web").await.as_array().unwrap().len(), 1);
    // a check-and-set goes by the index that the key had when it was saved
    let key = get(at, "/v1/kv/k").await;
    let cas = format!("/v1/kv/k?cas={}", key[0]["ModifyIndex"]);
    assert_eq!(put(at, &cas, "by cas").await.body(), "true");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_restore_is_durable_and_moves_to_another_agent() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |name: &str| Settings {
        http_port: 0,
        node_name: name.to_owned(),
        data: Data::Dir(folder.path().join(name)),
        ..Settings::default()
    };
    let first = Agent::start(settings("first")).await.unwrap();
    put(first.address(), "/v1/kv/k", "saved").await;
    put(first.address(), "/v1/agent/service/register", r#"{"Name":"web","Port":80}"#).await;
    let archive = saved(first.address()).await;
    put(first.address(), "/v1/kv/k", "later").await;
    put(first.address(), "/v1/snapshot", archive.clone()).await;
    // as after a kill: nobody brings anything to disk any more
    drop(first);
    let again = eventually("the folder is free again", SOON, || async {
        Agent::start(settings("first")).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(value(again.address(), "k").await, "saved");
    assert!(get(again.address(), "/v1/agent/services").await.get("web").is_some());
    again.shutdown().await;

    let other = Agent::start(settings("other")).await.unwrap();
    let at = other.address();
    put(at, "/v1/snapshot", archive).await;
    assert_eq!(value(at, "k").await, "saved");
    assert_eq!(
        get(at, "/v1/catalog/service/web").await[0]["Node"],
        "first",
        "the catalog is that of the archive"
    );
    assert_eq!(
        get(at, "/v1/agent/services").await,
        serde_json::json!({}),
        "registrations stay with their agent"
    );
    let own = get(at, "/v1/agent/self").await;
    assert_eq!(get(at, "/v1/catalog/node/other").await["Node"]["ID"], own["Config"]["NodeID"]);
    other.shutdown().await;
}
