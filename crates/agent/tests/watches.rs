//! Blocking queries: who is woken, by what, with which index; and that nobody else is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response};
use plinth_agent::{Agent, Settings};
use plinth_testbed::{eventually, holds, http_client};
use serde_json::Value;

struct Api(String);

impl Api {
    async fn start() -> (Agent, Api) {
        let agent = Agent::start(Settings { http_port: 0, ..Settings::default() }).await.unwrap();
        let base = format!("http://{}", agent.address());
        (agent, Api(base))
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        http_client::get(&format!("{}{path}", self.0)).await.unwrap()
    }

    async fn put(&self, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let answer = http_client::send(Method::PUT, &format!("{}{path}", self.0), &[], body).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer
    }

    async fn delete(&self, path: &str) {
        http_client::send(Method::DELETE, &format!("{}{path}", self.0), &[], "").await.unwrap();
    }

    async fn index(&self, path: &str) -> u64 {
        index(&self.get(path).await)
    }

    /// A query that blocks at the index `path` has now; comes back when the agent counts it as waiting.
    async fn watch(&self, path: &str) -> (u64, tokio::task::JoinHandle<Response<Bytes>>) {
        let before = self.waiting().await;
        let after = self.index(path).await;
        let joint = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}{path}{joint}index={after}&wait=60s", self.0);
        let task = tokio::spawn(async move { http_client::get(&url).await.unwrap() });
        eventually("the query waits", Duration::from_secs(5), || async {
            let now = self.waiting().await;
            holds(now > before, format!("{now} waiting"))
        })
        .await;
        (after, task)
    }

    async fn waiting(&self) -> u64 {
        self.count("waiting_queries").await
    }

    async fn encoded(&self) -> u64 {
        self.count("encoded_bodies").await
    }

    /// How often a waiting query was woken so far.
    async fn wakes(&self) -> u64 {
        self.count("woken_queries").await
    }

    async fn count(&self, name: &str) -> u64 {
        let body: Value = serde_json::from_slice(self.get("/v1/agent/self").await.body()).unwrap();
        body["Stats"]["plinth"][name].as_str().unwrap().parse().unwrap()
    }

    async fn register(&self, name: &str, id: &str) {
        let body = format!(r#"{{"Name":"{name}","ID":"{id}","Check":{{"TTL":"1h"}}}}"#);
        self.put("/v1/agent/service/register", body).await;
    }
}

fn index(answer: &Response<Bytes>) -> u64 {
    answer.headers()["x-consul-index"].to_str().unwrap().parse().unwrap()
}

async fn woken(watch: (u64, tokio::task::JoinHandle<Response<Bytes>>)) -> Response<Bytes> {
    let answer = tokio::time::timeout(Duration::from_secs(10), watch.1).await.expect("not woken").unwrap();
    assert!(index(&answer) > watch.0, "index {} after {}", index(&answer), watch.0);
    answer
}

#[tokio::test]
async fn a_key_wakes_its_watchers_and_no_others() {
    let (agent, api) = Api::start().await;
    for key in ["a", "b", "dir/x", "dir2/x"] {
        api.put(&format!("/v1/kv/{key}"), "1").await;
    }
    let others = [
        api.watch("/v1/kv/b").await,
        api.watch("/v1/kv/dir2/?recurse").await,
        api.watch("/v1/health/service/consul").await,
        api.watch("/v1/catalog/nodes").await,
    ];
    let key = api.watch("/v1/kv/a").await;
    api.put("/v1/kv/a", "2").await;
    assert!(std::str::from_utf8(woken(key).await.body()).unwrap().contains("Mg=="));
    let prefix = api.watch("/v1/kv/dir/?recurse").await;
    let keys = api.watch("/v1/kv/dir/?keys").await;
    api.delete("/v1/kv/dir/x").await;
    assert_eq!(woken(prefix).await.status(), 404);
    woken(keys).await;
    let gone = api.watch("/v1/kv/a").await;
    api.delete("/v1/kv/a").await;
    assert_eq!(woken(gone).await.status(), 404);
    assert!(others.iter().all(|(_, task)| !task.is_finished()), "an uninvolved watcher was woken");
    assert_eq!(api.waiting().await, 4);
    agent.shutdown().await;
    for (_, task) in others {
        assert_eq!(task.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_deleted_key_moves_the_index_of_its_prefix() {
    let (agent, api) = Api::start().await;
    for key in ["p/a", "p/b", "q/a"] {
        api.put(&format!("/v1/kv/{key}"), "1").await;
    }
    let before = api.index("/v1/kv/p/?recurse").await;
    let other = api.index("/v1/kv/q/?recurse").await;
    api.delete("/v1/kv/p/b").await;
    assert!(api.index("/v1/kv/p/?recurse").await > before);
    assert_eq!(api.index("/v1/kv/q/?recurse").await, other);
    agent.shutdown().await;
}

#[tokio::test]
async fn writes_that_change_nothing_move_nothing() {
    let (agent, api) = Api::start().await;
    api.put("/v1/kv/a?flags=3", "1").await;
    api.register("web", "w1").await;
    let paths = [
        "/v1/kv/a",
        "/v1/health/service/web",
        "/v1/catalog/services",
        "/v1/health/state/any",
        "/v1/catalog/nodes",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(api.index(path).await);
    }
    api.put("/v1/kv/a?flags=3", "1").await;
    api.put("/v1/kv/a?cas=1", "2").await;
    api.register("web", "w1").await;
    api.put("/v1/agent/check/fail/service:w1", "").await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(api.index(path).await, before, "{path}");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn a_service_wakes_for_instances_checks_and_its_node() {
    let (agent, api) = Api::start().await;
    api.register("db", "d1").await;
    let other = api.watch("/v1/health/service/other").await;
    let unborn = api.watch("/v1/health/service/web").await;
    api.register("web", "w1").await;
    woken(unborn).await;
    let check = api.watch("/v1/health/service/web?passing").await;
    api.put("/v1/agent/check/pass/service:w1", "").await;
    assert!(woken(check).await.body().len() > 2);
    let node = api.watch("/v1/health/service/web").await;
    api.put("/v1/agent/maintenance?enable=true", "").await;
    woken(node).await;
    let last = api.watch("/v1/health/service/web").await;
    let names = api.watch("/v1/catalog/services").await;
    api.put("/v1/agent/service/deregister/w1", "").await;
    assert_eq!(&woken(last).await.body()[..], b"[]");
    woken(names).await;
    assert!(!other.1.is_finished());
    agent.shutdown().await;
}

/// Every kind of list: encoded once per change for all its watchers, on several threads; and nobody else is woken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_body_is_encoded_once_for_all_its_watchers() {
    const WATCHERS: u64 = 40;
    let (agent, api) = Api::start().await;
    api.register("web", "w1").await;
    api.register("other", "o1").await;
    api.put("/v1/kv/dir/key", "1").await;
    let others = [
        api.watch("/v1/health/service/other").await,
        api.watch("/v1/catalog/service/other").await,
        api.watch("/v1/health/checks/other").await,
        api.watch("/v1/kv/other").await,
        api.watch("/v1/kv/dir/key2/?recurse").await,
    ];
    for path in [
        "/v1/health/service/web",
        "/v1/health/service/web?passing",
        "/v1/health/checks/web",
        "/v1/health/state/any",
        "/v1/catalog/service/web?tag=a",
        "/v1/catalog/services",
        "/v1/catalog/node/plinth",
        "/v1/kv/dir/key",
        "/v1/kv/dir/?recurse",
        "/v1/kv/dir/?keys",
    ] {
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            watchers.push(api.watch(path).await);
        }
        let (encoded, wakes) = (api.encoded().await, api.wakes().await);
        if path.starts_with("/v1/kv/") {
            api.put("/v1/kv/dir/key", path).await;
        } else {
            api.register("web", &format!("another for {path}")).await;
        }
        let mut bodies = Vec::new();
        for watcher in watchers {
            bodies.push(woken(watcher).await.into_body());
        }
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{path}");
        assert_eq!(api.encoded().await - encoded, 1, "{path}");
        assert_eq!(api.wakes().await - wakes, WATCHERS, "{path}");
    }
    assert!(others.iter().all(|(_, task)| !task.is_finished()), "an uninvolved watcher was woken");
    agent.shutdown().await;
    for (_, task) in others {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_unchanged_answer() {
    let (agent, api) = Api::start().await;
    api.put("/v1/kv/a", "1").await;
    let before = api.index("/v1/kv/a").await;
    let started = Instant::now();
    let answer = api.get(&format!("/v1/kv/a?index={}&wait=160ms", before + 1000)).await;
    let took = started.elapsed();
    assert_eq!(index(&answer), before, "an index from the future gets the true one after the wait");
    assert!(took >= Duration::from_millis(160), "{took:?}");
    agent.shutdown().await;
}

#[tokio::test]
async fn ttl_checks_expire() {
    let (agent, api) = Api::start().await;
    let body = r#"{"Name":"t","TTL":"100ms","Status":"passing"}"#;
    api.put("/v1/agent/check/register", body).await;
    eventually("the check expires", Duration::from_secs(5), || async {
        let answer = api.get("/v1/health/state/critical").await;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        holds(text.contains("\"Output\":\"TTL expired\""), text)
    })
    .await;
    api.put("/v1/agent/check/pass/t?note=fine", "").await;
    eventually("it expires again", Duration::from_secs(5), || async {
        let answer = api.get("/v1/agent/checks").await;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        holds(text.contains("TTL expired (last output before timeout follows): fine"), text)
    })
    .await;
    agent.shutdown().await;
}

/// What follows a write must not depend on the client's patience: a check whose time never starts stays passing for ever.
#[tokio::test]
async fn a_client_that_leaves_early_does_not_stop_the_clock() {
    use tokio::io::AsyncWriteExt as _;
    const CHECKS: usize = 30;
    let folder = tempfile::tempdir().unwrap();
    let data = plinth_agent::Data::Dir(folder.path().to_owned());
    let agent = Agent::start(Settings { http_port: 0, data, ..Settings::default() }).await.unwrap();
    let api = Api(format!("http://{}", agent.address()));
    for n in 0..CHECKS {
        let body = format!(r#"{{"Name":"t{n}","TTL":"100ms","Status":"passing"}}"#);
        let head = format!(
            "PUT /v1/agent/check/register HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(agent.address()).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        // Long enough to be taken up, too short to be answered by a disk: any point in between may be hit.
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
    }
    // Of some the agent may never have seen the request; those it took must expire.
    eventually("all that were registered expire", Duration::from_secs(10), || async {
        let answer = api.get("/v1/agent/checks").await;
        let checks: Value = serde_json::from_slice(answer.body()).unwrap();
        let checks = checks.as_object().unwrap();
        let expired = checks.values().filter(|c| c["Status"] == "critical").count();
        holds(expired > 0 && expired == checks.len(), format!("{expired} of {}", checks.len()))
    })
    .await;
    agent.shutdown().await;
}

#[tokio::test]
async fn http_and_tcp_checks_run() {
    let (agent, api) = Api::start().await;
    let address = agent.address();
    let body = format!(
        r#"{{"Name":"self","Checks":[{{"HTTP":"http://{address}/v1/status/leader","Interval":"1s"}},{{"TCP":"{address}","Interval":"1s"}},{{"HTTP":"http://{address}/nope","Interval":"1s","Status":"passing"}}]}}"#
    );
    api.put("/v1/agent/service/register", body).await;
    eventually("probes report", Duration::from_secs(10), || async {
        let body: Value = serde_json::from_slice(api.get("/v1/agent/checks").await.body()).unwrap();
        let status = |n: u8| body[format!("service:self:{n}")]["Status"].as_str().unwrap().to_owned();
        let seen = [status(1), status(2), status(3)];
        holds(seen == ["passing", "passing", "critical"], format!("{seen:?}"))
    })
    .await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_token_protects_everything() {
    let settings =
        Settings { http_port: 0, token: Some(plinth_agent::Secret::new("secret")), ..Settings::default() };
    let agent = Agent::start(settings).await.unwrap();
    let url = format!("http://{}/v1/kv/?keys", agent.address());
    assert_eq!(http_client::get(&url).await.unwrap().status(), 403);
    for header in [("x-consul-token", "secret"), ("authorization", "Bearer secret")] {
        assert_eq!(http_client::send(Method::GET, &url, &[header], "").await.unwrap().status(), 200);
    }
    let wrong = http_client::send(Method::GET, &url, &[("x-consul-token", "secre")], "").await.unwrap();
    assert_eq!(wrong.status(), 403);
    agent.shutdown().await;
    let open = Settings { bind: [0, 0, 0, 0].into(), http_port: 0, ..Settings::default() };
    assert!(matches!(Agent::start(open).await, Err(plinth_agent::Error::OpenWithoutToken(_))));
}

#[tokio::test]
async fn the_metadata_of_a_node_wakes_who_chooses_services_by_it() {
    let (agent, api) = Api::start().await;
    let body = r#"{"Node":"a","Address":"10.0.0.1","Service":{"Service":"web"}}"#;
    api.put("/v1/catalog/register", body).await;
    let chosen = api.watch("/v1/catalog/services?node-meta=x:y").await;
    let all = api.watch("/v1/catalog/services").await;
    let body = r#"{"Node":"a","Address":"10.0.0.1","NodeMeta":{"x":"y"}}"#;
    api.put("/v1/catalog/register", body).await;
    assert!(std::str::from_utf8(woken(chosen).await.body()).unwrap().contains("\"web\""));
    assert!(!all.1.is_finished(), "names and tags are the same");
    all.1.abort();
    agent.shutdown().await;
}
