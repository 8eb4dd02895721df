//! kill -9 under concurrent writers of every kind. Promised: what was acknowledged is there, what was not is there whole
//! or not at all, no reader ever sees an index go back, and a transaction's keys change together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use plinth_testbed::{eventually, holds};
use serde_json::{Value, json};

use super::client::{Client, Unknown, index, json as parsed};
use super::node::Node;

/// Rounds; more with `PLINTH_KILL_ROUNDS`.
const ROUNDS: usize = 10;
/// Writers of each kind.
const WRITERS: usize = 3;
const TXN_KEYS: usize = 3;
/// As large as a small file, so that a torn one could be seen.
const PADDING: usize = 600;

/// What one writer knows of its own counter: the last acknowledged number.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn acknowledged(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// What is stored is what was acknowledged, or the write that was under way.
    fn check(&self, what: &str, stored: u64) {
        let known = self.acknowledged();
        assert!(stored == known || stored == known + 1, "{what}: {stored} stored, {known} acknowledged");
        self.0.store(stored, Ordering::SeqCst);
    }

    /// Counts up until the server is gone.
    async fn count(self, mut client: Client, path: String, body: impl Fn(u64) -> String) {
        loop {
            let next = self.acknowledged() + 1;
            match client.put(&path, body(next)).await {
                Ok(answer) => assert_eq!(answer.status(), 200, "{:?}", answer.body()),
                Err(Unknown) => return,
            }
            self.0.store(next, Ordering::SeqCst);
        }
    }
}

fn padded(number: u64) -> String {
    format!("{number} {}", "x".repeat(PADDING))
}

fn number(text: &[u8]) -> u64 {
    let text = std::str::from_utf8(text).unwrap();
    let (number, padding) = text.split_once(' ').expect("a torn value");
    assert_eq!(padding.len(), PADDING, "a torn value");
    number.parse().unwrap()
}

#[derive(Default)]
struct Sessions {
    /// Acknowledged and not destroyed as far as we know.
    live: BTreeSet<String>,
    destroyed: BTreeSet<String>,
    /// A destroy that was not answered.
    unknown: Option<String>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Counter>,
    services: Vec<Counter>,
    txns: Vec<Counter>,
    sessions: Mutex<Sessions>,
    /// Highest index of `kv/?recurse` that any reader has seen.
    highest: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_acknowledged() {
    let rounds = std::env::var("PLINTH_KILL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new(folder.path());
    let counters = || (0..WRITERS).map(|_| Counter::default()).collect();
    let known =
        Arc::new(Known { keys: counters(), services: counters(), txns: counters(), ..Known::default() });
    for round in 0..rounds {
        while fastrand::u8(0..3) == 0 {
            node.start_and_kill().await;
        }
        let base = node.start().await;
        check(&base, &known).await;
        let tasks = start(&base, &known);
        let goal = known.keys[0].acknowledged() + fastrand::u64(5..60);
        eventually("the writers write", Duration::from_secs(60), || async {
            let now = known.keys[0].acknowledged();
            holds(now >= goal, format!("round {round}: {now} of {goal}"))
        })
        .await;
        node.kill();
        for task in tasks {
            task.await.unwrap();
        }
    }
    check(&node.start().await, &known).await;
}

/// After a start: everything is as somebody was told, and nobody else is there.
async fn check(base: &str, known: &Known) {
    let mut client = Client::new(base);
    for (n, counter) in known.keys.iter().enumerate() {
        let answer = client.get(&format!("/v1/kv/w/{n}?raw")).await.unwrap();
        counter.check("key", if answer.status() == 404 { 0 } else { number(answer.body()) });
    }
    for (n, counter) in known.services.iter().enumerate() {
        let instances = parsed(&client.get(&format!("/v1/health/service/s-{n}")).await.unwrap());
        let port = instances[0]["Service"]["Port"].as_u64();
        if let Some(port) = port {
            assert_eq!(instances[0]["Checks"][1]["Notes"], port.to_string(), "half a registration");
        }
        counter.check("service", port.unwrap_or(0));
    }
    for (n, counter) in known.txns.iter().enumerate() {
        let answer = client.get(&format!("/v1/kv/t/{n}/?recurse")).await.unwrap();
        counter.check("transaction", together(&answer));
    }
    let sessions = std::mem::take(&mut *known.sessions.lock());
    let sessions = check_sessions(&mut client, sessions).await;
    *known.sessions.lock() = sessions;
    let now = index(&client.get("/v1/kv/?recurse").await.unwrap());
    let highest = known.highest.load(Ordering::SeqCst);
    assert!(now >= highest, "the index went back from {highest} to {now}");
}

async fn check_sessions(client: &mut Client, mut sessions: Sessions) -> Sessions {
    let listed = parsed(&client.get("/v1/session/list").await.unwrap());
    let there: BTreeSet<String> =
        listed.as_array().unwrap().iter().map(|s| s["ID"].as_str().unwrap().to_owned()).collect();
    if let Some(id) = sessions.unknown.take() {
        if there.contains(&id) {
            sessions.live.insert(id);
        } else {
            sessions.destroyed.insert(id);
        }
    }
    let lost: Vec<_> = sessions.live.difference(&there).collect();
    assert!(lost.is_empty(), "acknowledged sessions are gone: {lost:?}");
    let back: Vec<_> = sessions.destroyed.intersection(&there).collect();
    assert!(back.is_empty(), "destroyed sessions are back: {back:?}");
    let locks = client.get("/v1/kv/lock?recurse").await.unwrap();
    if locks.status() == 200 {
        for lock in parsed(&locks).as_array().unwrap() {
            let holder = lock.get("Session").and_then(Value::as_str);
            assert!(holder.is_none_or(|id| there.contains(id)), "a lock without its session");
        }
    }
    // The next life begins without; also without the one whose creation was under way, of which nobody knows.
    sessions.live.clear();
    for id in there {
        let answer = client.put(&format!("/v1/session/destroy/{id}"), "").await.unwrap();
        assert_eq!(answer.status(), 200);
        sessions.destroyed.insert(id);
    }
    sessions
}

/// The number that all keys of a transaction have.
fn together(answer: &http::Response<bytes::Bytes>) -> u64 {
    if answer.status() == 404 {
        return 0;
    }
    let entries = parsed(answer);
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), TXN_KEYS, "a torn transaction: {entries:?}");
    let value = |entry: &Value| number(&base64(entry["Value"].as_str().unwrap()));
    let all: BTreeSet<_> = entries.iter().map(|e| (value(e), e["ModifyIndex"].as_u64())).collect();
    assert_eq!(all.len(), 1, "a torn transaction: {all:?}");
    all.first().unwrap().0
}

pub fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn start(base: &str, known: &Arc<Known>) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = Vec::new();
    for n in 0..WRITERS {
        let client = || Client::new(base);
        let (key, counter) = (format!("/v1/kv/w/{n}"), known.keys[n].clone());
        tasks.push(tokio::spawn(counter.count(client(), key, padded)));
        let (path, counter) = ("/v1/agent/service/register".to_owned(), known.services[n].clone());
        tasks.push(tokio::spawn(counter.count(client(), path, move |next| service(n, next))));
        let (path, counter) = ("/v1/txn".to_owned(), known.txns[n].clone());
        tasks.push(tokio::spawn(counter.count(client(), path, move |next| transaction(n, next))));
        tasks.push(tokio::spawn(read(Client::new(base), known.clone())));
    }
    tasks.push(tokio::spawn(lock(Client::new(base), known.clone())));
    tasks
}

fn service(n: usize, number: u64) -> String {
    // the check's notes and the port are one write
    json!({ "Name": format!("s-{n}"), "ID": format!("i-{n}"), "Port": number,
        "Check": { "TTL": "1h", "Notes": number.to_string() } })
    .to_string()
}

fn transaction(n: usize, number: u64) -> String {
    use base64::Engine as _;
    let value = base64::engine::general_purpose::STANDARD.encode(padded(number));
    let set = |key| json!({ "KV": { "Verb": "set", "Key": format!("t/{n}/{key}"), "Value": value } });
    Value::from((0..TXN_KEYS).map(set).collect::<Vec<_>>()).to_string()
}

/// Reads until the server is gone.
async fn read(mut client: Client, known: Arc<Known>) {
    loop {
        let before = known.highest.load(Ordering::SeqCst);
        let Ok(all) = client.get("/v1/kv/?recurse").await else { return };
        let now = index(&all);
        assert!(now >= before, "the index went back from {before} to {now}");
        known.highest.fetch_max(now, Ordering::SeqCst);
        for n in 0..WRITERS {
            let acknowledged = known.txns[n].acknowledged();
            let Ok(answer) = client.get(&format!("/v1/kv/t/{n}/?recurse")).await else { return };
            assert!(together(&answer) >= acknowledged, "an acknowledged transaction is not seen");
        }
    }
}

/// Creates sessions, locks with them, and destroys most of them again.
async fn lock(mut client: Client, known: Arc<Known>) {
    loop {
        let Ok(answer) = client.put("/v1/session/create", r#"{"LockDelay":"0s"}"#).await else { return };
        let id = parsed(&answer)["ID"].as_str().unwrap().to_owned();
        known.sessions.lock().live.insert(id.clone());
        let Ok(answer) = client.put(&format!("/v1/kv/lock?acquire={id}"), "held").await else { return };
        assert_eq!(answer.body(), "true", "the lock is free");
        {
            let mut sessions = known.sessions.lock();
            sessions.live.remove(&id);
            sessions.unknown = Some(id.clone());
        }
        let Ok(answer) = client.put(&format!("/v1/session/destroy/{id}"), "").await else { return };
        assert_eq!(answer.body(), "true");
        let mut sessions = known.sessions.lock();
        sessions.unknown = None;
        sessions.destroyed.insert(id);
    }
}
