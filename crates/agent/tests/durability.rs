//! What was acknowledged survives: kill -9 under writers, torn and damaged tails, snapshots, a full disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use plinth_agent::{Agent, Data, Error, Settings};
use plinth_testbed::http_client;
use serde_json::Value;

/// Rounds of kill -9; more with `PLINTH_KILL_ROUNDS`.
const ROUNDS: usize = 10;
const WRITERS: u64 = 8;

/// Set in the child that [`serve_for_the_kill_test`] becomes.
const CHILD: &str = "PLINTH_AGENT_TEST_DIR";

/// Not a test of its own: started again by the kill test as a process that can be killed.
#[tokio::test]
async fn serve_for_the_kill_test() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let settings = settings(Path::new(&dir), 200_000);
    let agent = Agent::start(settings).await.unwrap();
    println!("\nlistening {}", agent.address());
    std::future::pending::<()>().await;
}

fn settings(dir: &Path, compact_after: u64) -> Settings {
    Settings { http_port: 0, data: Data::Dir(dir.to_owned()), compact_after, ..Settings::default() }
}

struct Process {
    child: Child,
    base: String,
}

impl Process {
    fn start(dir: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_for_the_kill_test", "--nocapture"])
            .env(CHILD, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening ").map(str::to_owned))
            .expect("the agent did not start");
        Process { child, base: format!("http://{address}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn put(base: &str, path: &str, body: impl Into<Bytes>) -> std::io::Result<Response<Bytes>> {
    http_client::send(Method::PUT, &format!("{base}{path}"), &[], body).await
}

async fn get(base: &str, path: &str) -> Response<Bytes> {
    http_client::get(&format!("{base}{path}")).await.unwrap()
}

fn index(answer: &Response<Bytes>) -> u64 {
    answer.headers()["x-consul-index"].to_str().unwrap().parse().unwrap()
}

/// Each writer counts up in its own key; what was acknowledged last is remembered.
async fn write_until_dead(base: String, writer: u64, acknowledged: Arc<AtomicU64>) {
    loop {
        let next = acknowledged.load(Ordering::SeqCst) + 1;
        let answer = put(&base, &format!("/v1/kv/w/{writer}"), next.to_string()).await;
        match answer {
            Ok(answer) if answer.status() == 200 => acknowledged.store(next, Ordering::SeqCst),
            _ => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_acknowledged() {
    let rounds = std::env::var("PLINTH_KILL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    let acknowledged: Vec<_> = (0..WRITERS).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut highest = 0;
    for round in 0..rounds {
        let process = Process::start(folder.path());
        let base = process.base.clone();
        for (writer, last) in acknowledged.iter().enumerate() {
            let answer = get(&base, &format!("/v1/kv/w/{writer}?raw")).await;
            let stored: u64 = match answer.status().as_u16() {
                200 => std::str::from_utf8(answer.body()).unwrap().parse().expect("a torn value"),
                _ => 0,
            };
            let known = last.load(Ordering::SeqCst);
            assert!(
                stored == known || stored == known + 1,
                "round {round}: {stored} stored, {known} acknowledged"
            );
            last.store(stored, Ordering::SeqCst);
        }
        let now = index(&get(&base, "/v1/kv/?recurse").await);
        assert!(now >= highest, "the index went back from {highest} to {now}");
        let writers: Vec<_> = acknowledged
            .iter()
            .enumerate()
            .map(|(n, last)| tokio::spawn(write_until_dead(base.clone(), n as u64, last.clone())))
            .collect();
        let goal = acknowledged[0].load(Ordering::SeqCst) + 20 + fastrand::u64(0..40);
        plinth_testbed::eventually("the writers write", Duration::from_secs(60), || async {
            let now = acknowledged[0].load(Ordering::SeqCst);
            plinth_testbed::holds(now >= goal, format!("{now} of {goal}"))
        })
        .await;
        highest = index(&get(&base, "/v1/kv/?recurse").await);
        drop(process);
        for writer in writers {
            writer.await.unwrap();
        }
    }
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
