//! What was acknowledged survives: torn tails, damage, snapshots, a full disk, a writer that panics. The kills under load and
//! a really full disk are in the system tests, the disk that loses what was not synced is `engine/simulation.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use plinth_agent::{Agent, Data, Error, Settings};
use plinth_testbed::{eventually, holds, http_client};
use serde_json::Value;

mod disks {
    pub mod moody;
}
use disks::moody::{Mood, Moody};

fn settings(dir: &Path, compact_after: u64) -> Settings {
    Settings { http_port: 0, data: Data::Dir(dir.to_owned()), compact_after, ..Settings::default() }
}

async fn put(base: &str, path: &str, body: impl Into<Bytes>) -> std::io::Result<Response<Bytes>> {
    http_client::send(Method::PUT, &format!("{base}{path}"), &[], body).await
}

async fn get(base: &str, path: &str) -> Response<Bytes> {
    http_client::get(&format!("{base}{path}")).await.unwrap()
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut logs: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap();
    let base = format!("http://{}", agent.address());
    put(&base, "/v1/kv/a", "1").await.unwrap();
    put(&base, "/v1/kv/b", "2").await.unwrap();
    agent.shutdown().await;
    let log = logs(folder.path()).pop().unwrap();
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    let agent = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap();
    let base = format!("http://{}", agent.address());
    assert_eq!(get(&base, "/v1/kv/a?raw").await.body(), "1");
    assert_eq!(get(&base, "/v1/kv/b").await.status(), 404);
    put(&base, "/v1/kv/b", "3").await.unwrap();
    agent.shutdown().await;
    let agent = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap();
    assert_eq!(get(&format!("http://{}", agent.address()), "/v1/kv/b?raw").await.body(), "3");
    agent.shutdown().await;
    let kept = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(kept.into_iter().any(|n| n.to_string_lossy().contains("cut-at")));
}

#[tokio::test]
async fn a_restart_restores_everything_through_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let small = 4_000;
    let agent = Agent::start(settings(folder.path(), small)).await.unwrap();
    let base = format!("http://{}", agent.address());
    let created = put(&base, "/v1/session/create", r#"{"LockDelay":"0s"}"#).await.unwrap();
    let session: Value = serde_json::from_slice(created.body()).unwrap();
    let session = session["ID"].as_str().unwrap().to_owned();
    put(&base, &format!("/v1/kv/lock?acquire={session}"), "held").await.unwrap();
    for n in 0..100 {
        put(&base, &format!("/v1/kv/k/{n}"), format!("{n}")).await.unwrap();
        let service = format!(
            r#"{{"Name":"s{}","ID":"i{n}","Port":{n},"Tags":["t{n}"],"Check":{{"TTL":"1h"}}}}"#,
            n % 7
        );
        put(&base, "/v1/agent/service/register", service).await.unwrap();
    }
    http_client::send(Method::DELETE, &format!("{base}/v1/kv/k/7"), &[], "").await.unwrap();
    put(&base, "/v1/agent/service/deregister/i13", "").await.unwrap();
    let paths = [
        "/v1/kv/?recurse",
        "/v1/kv/k/?recurse",
        "/v1/kv/gone/?recurse",
        "/v1/catalog/services",
        "/v1/catalog/nodes",
        "/v1/catalog/node/plinth",
        "/v1/health/service/s3",
        "/v1/health/service/none",
        "/v1/health/state/any",
        "/v1/session/list",
        "/v1/agent/services",
        "/v1/agent/checks",
        "/v1/catalog/service/s6",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(get(&base, path).await);
    }
    agent.shutdown().await;
    let snapshots = std::fs::read_dir(folder.path()).unwrap();
    assert!(snapshots.map(|e| e.unwrap().path()).any(|p| p.extension().is_some_and(|e| e == "snapshot")));
    let agent = Agent::start(settings(folder.path(), small)).await.unwrap();
    let base = format!("http://{}", agent.address());
    for (path, before) in paths.iter().zip(before) {
        let after = get(&base, path).await;
        assert_eq!(after.body(), before.body(), "{path}");
        let of = |a: &Response<Bytes>| a.headers().get("x-consul-index").cloned();
        assert_eq!(of(&after), of(&before), "{path}");
    }
    put(&base, &format!("/v1/session/destroy/{session}"), "").await.unwrap();
    let lock: Value = serde_json::from_slice(get(&base, "/v1/kv/lock").await.body()).unwrap();
    assert!(lock[0].get("Session").is_none(), "the restored lock is bound to its session");
    agent.shutdown().await;
}

/// What is taken is read back, from the log and from a snapshot: values nested as deep as a body may be, and fractions.
#[tokio::test]
async fn deep_values_and_long_fractions_come_back() {
    let nested =
        |levels: usize| format!("{}1.2345678901234567890{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    type Body = fn(String) -> String;
    let ways: [(&str, Body); 3] = [
        ("/v1/agent/service/register", |config| {
            let proxy = format!(r#"{{"DestinationServiceName":"web","Config":{config}}}"#);
            format!(r#"{{"Kind":"connect-proxy","Name":"local","Port":1,"Proxy":{proxy}}}"#)
        }),
        ("/v1/catalog/register", |config| {
            let service = format!(r#"{{"Service":"remote","Proxy":{{"Config":{config}}}}}"#);
            format!(r#"{{"Node":"n","Address":"10.0.0.1","Service":{service}}}"#)
        }),
        ("/v1/config", |config| format!(r#"{{"Kind":"proxy-defaults","Name":"global","Config":{config}}}"#)),
    ];
    let looks = [
        "/v1/agent/service/local",
        "/v1/catalog/service/local",
        "/v1/catalog/service/remote",
        "/v1/config/proxy-defaults/global",
    ];
    for compact_after in [u64::MAX, 1] {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(settings(folder.path(), compact_after)).await.unwrap();
        let base = format!("http://{}", agent.address());
        for (path, body) in &ways {
            let deepest = (1..600).rev().map(&nested).map(body);
            let mut refused = 0;
            for body in deepest {
                let answer = put(&base, path, body).await.unwrap();
                if answer.status() == 200 {
                    break;
                }
                assert!(String::from_utf8_lossy(answer.body()).contains("exceeded max depth"), "{answer:?}");
                refused += 1;
            }
            assert!((490..550).contains(&refused), "{path}: {refused} of 599 depths are refused");
        }
        let mut before = Vec::new();
        for path in looks {
            before.push(get(&base, path).await.into_body());
        }
        agent.shutdown().await;
        let agent = Agent::start(settings(folder.path(), compact_after)).await.unwrap();
        let base = format!("http://{}", agent.address());
        for (path, before) in looks.iter().zip(before) {
            let after = get(&base, path).await.into_body();
            assert!(
                before.windows(19).any(|part| part.starts_with(b"1.2345678901234567")),
                "{path}: {before:?}"
            );
            assert_eq!(after, before, "{path}");
        }
        agent.shutdown().await;
    }
}

/// Its log is empty, as right after a snapshot, so that nothing but the gap tells that everything is missing.
#[tokio::test]
async fn a_damaged_snapshot_is_no_empty_start() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(settings(folder.path(), 1)).await.unwrap();
    put(&format!("http://{}", agent.address()), "/v1/kv/a", "1").await.unwrap();
    agent.shutdown().await;
    let ends_in = |what: &str| {
        let mut found: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == what))
            .collect();
        found.sort();
        found
    };
    let snapshot = ends_in("snapshot").pop().unwrap();
    let whole = std::fs::read(&snapshot).unwrap();
    std::fs::write(&snapshot, &whole[..whole.len() / 2]).unwrap();
    for log in ends_in("log") {
        std::fs::write(log, "").unwrap();
    }
    let refused = Agent::start(settings(folder.path(), 1)).await.unwrap_err();
    assert!(matches!(refused, Error::Missing { .. }), "{refused}");
    std::fs::write(&snapshot, &whole).unwrap();
    Agent::start(settings(folder.path(), 1)).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn two_agents_cannot_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap();
    let second = Agent::start(settings(folder.path(), u64::MAX)).await;
    assert!(matches!(second, Err(Error::FolderInUse(_))));
    agent.shutdown().await;
    Agent::start(settings(folder.path(), u64::MAX)).await.unwrap().shutdown().await;
}

/// Acknowledged writes follow what is damaged, so it is no torn end, and nobody shall be without them unasked.
#[tokio::test]
async fn damage_before_acknowledged_writes_refuses_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap();
    let base = format!("http://{}", agent.address());
    put(&base, "/v1/kv/a", "1").await.unwrap();
    let log = logs(folder.path()).pop().unwrap();
    let before = std::fs::metadata(&log).unwrap().len();
    put(&base, "/v1/kv/b", "2").await.unwrap();
    put(&base, "/v1/kv/c", "3").await.unwrap();
    agent.shutdown().await;
    let whole = std::fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[before as usize + 20] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    let refused = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap_err();
    assert!(matches!(refused, Error::Damaged { offset, .. } if offset == before), "{refused}");
    assert_eq!(std::fs::read(&log).unwrap(), damaged, "nothing is changed");
    // What the error says to do for those who give them up.
    std::fs::write(&log, &whole[..before as usize]).unwrap();
    let agent = Agent::start(settings(folder.path(), u64::MAX)).await.unwrap();
    let base = format!("http://{}", agent.address());
    assert_eq!(get(&base, "/v1/kv/a?raw").await.body(), "1");
    assert_eq!(get(&base, "/v1/kv/b").await.status(), 404);
    agent.shutdown().await;
}

async fn read_only(base: &str) -> u64 {
    let metrics: Value = serde_json::from_slice(get(base, "/v1/agent/metrics").await.body()).unwrap();
    let gauges = metrics["Gauges"].as_array().unwrap();
    let gauge = gauges.iter().find(|g| g["Name"] == "plinth.agent.read_only").unwrap();
    gauge["Value"].as_u64().unwrap()
}

#[tokio::test]
async fn a_full_disk_makes_it_read_only_and_it_heals_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Moody::default();
    let settings = || Settings { disk: Arc::new(disk.clone()), ..settings(folder.path(), u64::MAX) };
    let agent = Agent::start(settings()).await.unwrap();
    let base = format!("http://{}", agent.address());
    assert_eq!(put(&base, "/v1/kv/before", "1").await.unwrap().status(), 200);
    disk.set(Mood::Full);
    for _ in 0..2 {
        let refused = put(&base, "/v1/kv/during", "2").await.unwrap();
        assert_eq!(refused.status(), 500);
        let text = std::str::from_utf8(refused.body()).unwrap();
        assert!(text.contains("read-only") && text.contains("No space left"), "{text}");
    }
    assert_eq!(get(&base, "/v1/kv/during").await.status(), 404);
    assert_eq!(get(&base, "/v1/kv/before?raw").await.body(), "1");
    assert_eq!(read_only(&base).await, 1);
    disk.set(Mood::Fine);
    eventually("it heals without a write", Duration::from_secs(20), || async {
        holds(read_only(&base).await == 0, "read-only")
    })
    .await;
    assert_eq!(put(&base, "/v1/kv/after", "3").await.unwrap().status(), 200);
    agent.shutdown().await;

    // A restored agent serves reads although the disk takes nothing at its start.
    disk.set(Mood::Full);
    let agent = Agent::start(settings()).await.unwrap();
    let base = format!("http://{}", agent.address());
    let keys: Vec<String> = serde_json::from_slice(get(&base, "/v1/kv/?keys").await.body()).unwrap();
    assert_eq!(keys, ["after", "before"]);
    assert_eq!(put(&base, "/v1/kv/during", "2").await.unwrap().status(), 500);
    disk.set(Mood::Fine);
    assert_eq!(put(&base, "/v1/kv/during", "2").await.unwrap().status(), 200);
    agent.shutdown().await;
}

/// It must not go on as an agent that answers reads and refuses writes for ever.
#[tokio::test]
async fn a_writer_that_panics_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Moody::default();
    let settings = Settings { disk: Arc::new(disk.clone()), ..settings(folder.path(), u64::MAX) };
    let agent = Agent::start(settings.clone()).await.unwrap();
    let base = format!("http://{}", agent.address());
    assert_eq!(put(&base, "/v1/kv/a", "1").await.unwrap().status(), 200);
    disk.set(Mood::Panics);
    assert_eq!(put(&base, "/v1/kv/b", "2").await.unwrap().status(), 500);
    let part = tokio::time::timeout(Duration::from_secs(10), agent.failed()).await.unwrap();
    assert_eq!(part, "the writer");
    agent.shutdown().await;
    disk.set(Mood::Fine);
    let agent = Agent::start(settings).await.unwrap();
    let base = format!("http://{}", agent.address());
    assert_eq!(get(&base, "/v1/kv/a?raw").await.body(), "1");
    assert_eq!(get(&base, "/v1/kv/b").await.status(), 404);
    agent.shutdown().await;
}
