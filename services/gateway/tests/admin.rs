//! The Admin API from outside: who may use it, replacing the configuration, SIGHUP, lists, its description.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use harness::{Binary, Gateway, config};
use http::{Method, Response};
use plinth_kit::auth::TokenKey;
use plinth_testbed::redis::Redis;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, holds, http_client};
use rustix::process::Signal;
use serde_json::{Value, json};

fn body(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_file_and_a_broken_one_changes_nothing() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = Binary::start(&config(&[one.addr], ""), &["--config-poll", "1h"]).await;
    let get = async || {
        http_client::get(&format!("http://{}/", gateway.proxy)).await.map_err(|error| error.to_string())
    };
    assert_eq!(get().await.unwrap().status(), 200);

    std::fs::write(&gateway.file, config(&[two.addr], "")).unwrap();
    gateway.process.signal(Signal::HUP);
    eventually("the new file is used", Duration::from_secs(10), || async {
        let status = get().await?.status();
        holds(status == 200 && !two.requests().is_empty(), status.to_string())
    })
    .await;

    std::fs::write(&gateway.file, "services: {").unwrap();
    gateway.process.signal(Signal::HUP);
    let status = format!("http://{}/status", gateway.status);
    let refused = eventually("the refusal shows", Duration::from_secs(10), || async {
        let status = body(&http_client::get(&status).await.map_err(|error| error.to_string())?);
        let reload = status["plinth"]["last_reload"].clone();
        if reload["ok"] == json!(false) { Ok(reload) } else { Err(reload.to_string()) }
    })
    .await;
    assert!(refused["origin"].as_str().unwrap().ends_with("kong.yml"), "{refused}");
    let before = two.requests().len();
    assert_eq!(get().await.unwrap().status(), 200);
    assert_eq!(two.requests().len(), before + 1);
    gateway.process.assert_running();
    assert!(gateway.process.terminate(Duration::from_secs(20)).success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_posted_configuration_replaces_the_running_one_unless_it_is_the_same() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::start_with(&config(&[one.addr], ""), &["--config-poll", "1h"]).await;
    let url = format!("http://{}/config", gateway.admin);
    let post = async |query: &str, kind: &str, text: &str| {
        let headers = [("content-type", kind)];
        http_client::send(Method::POST, &format!("{url}{query}"), &headers, text.to_owned()).await.unwrap()
    };
    let generation = async || gateway.metric("gateway_config_generation").await;
    let text = config(&[two.addr], "");
    let first = post("?check_hash=1", "text/yaml", &text).await;
    assert_eq!(first.status(), 201, "{:?}", first.body());
    let services = body(&first)["services"].clone();
    assert_eq!(services.as_object().unwrap().values().next().unwrap()["name"], "s");
    assert_eq!(generation().await, 2.0);
    let same = post("?check_hash=1", "text/yaml", &text).await;
    assert_eq!((same.status().as_u16(), same.body().len()), (304, 0));
    assert_eq!(generation().await, 2.0);
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!((one.requests().len(), two.requests().len()), (0, 1));

    let wrapped = json!({"config": config(&[one.addr], "")}).to_string();
    assert_eq!(post("", "application/json", &wrapped).await.status(), 201);
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(one.requests().len(), 1);

    let bad = post("", "text/yaml", "_format_version: \"3.0\"\nservices: [{name: x}]\n").await;
    assert_eq!(bad.status(), 400);
    assert_eq!(body(&bad)["code"], 14);
    assert!(body(&bad)["fields"]["services"].is_array(), "{:?}", bad.body());
    assert_eq!(post("", "text/yaml", " ").await.status(), 400);
    assert_eq!(generation().await, 3.0);

    // what is shown can be posted again
    let shown = body(&http_client::get(&url).await.unwrap())["config"].as_str().unwrap().to_owned();
    let again = post("", "text/yaml", &shown).await;
    assert_eq!(again.status(), 201, "{:?}", again.body());
    assert_eq!(gateway.get("/").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tokens_with_the_scope_may_use_the_admin_api() {
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(folder.path()).unwrap();
    let stranger = TokenKey::load_or_create(&folder.path().join("stranger")).unwrap();
    let public = folder.path().join("public.pem");
    std::fs::write(&public, key.public_pem()).unwrap();
    let upstream = Upstream::start().await;
    let flags = ["--auth-key-file", public.to_str().unwrap()];
    let gateway = Gateway::start_with(&config(&[upstream.addr], ""), &flags).await;
    let bearer = |key: &TokenKey, scope: &str| {
        format!("Bearer {}", key.issue("ann", &[scope.parse().unwrap()], Duration::from_secs(60)).unwrap())
    };
    let admin = bearer(&key, "gateway:admin");
    let other = bearer(&key, "services:write");
    let forged = bearer(&stranger, "gateway:admin");
    let call = async |method: Method, path: &str, token: Option<&str>| {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let url = format!("http://{}{path}", gateway.admin);
        http_client::send(method, &url, &headers, config(&[], "")).await.unwrap().status().as_u16()
    };
    for path in
        ["/", "/status", "/config", "/services", "/services/s", "/services/s/routes", "/upstreams/up/health"]
    {
        assert_eq!(call(Method::GET, path, None).await, 401, "{path}");
        assert_eq!(call(Method::GET, path, Some(&forged)).await, 401, "{path}");
        assert_eq!(call(Method::GET, path, Some(&other)).await, 403, "{path}");
        assert_eq!(call(Method::GET, path, Some(&admin)).await, 200, "{path}");
    }
    assert_eq!(call(Method::POST, "/config", None).await, 401);
    assert_eq!(call(Method::POST, "/config", Some(&other)).await, 403);
    assert_eq!(
        gateway.get("/").await.status(),
        200,
        "nothing was replaced, and the proxy asks for no token of ours"
    );
    let status = http_client::get(&format!("http://{}/status", gateway.status)).await.unwrap();
    assert_eq!(status.status(), 200, "the Status API is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_have_pages_and_tags_and_entities_are_read_only() {
    let services: Vec<Value> = (0..5)
        .map(|number| json!({"name": format!("s{number}"), "url": "http://127.0.0.1:1", "tags": [format!("t{}", number % 2), "all"],
            "routes": [{"name": format!("r{number}"), "paths": [format!("/{number}")]}]}))
        .collect();
    let gateway = Gateway::start(&json!({"_format_version": "3.0", "services": services}).to_string()).await;
    let call = async |method: Method, path: &str| {
        let url = format!("http://{}{path}", gateway.admin);
        let answer = http_client::send(method, &url, &[], "").await.unwrap();
        (answer.status().as_u16(), body(&answer))
    };
    let names = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = call(Method::GET, "/services?size=2").await;
    assert_eq!(names(&first), ["s0", "s1"]);
    let (_, second) = call(Method::GET, first["next"].as_str().unwrap()).await;
    assert_eq!(names(&second), ["s2", "s3"]);
    let (_, last) = call(Method::GET, second["next"].as_str().unwrap()).await;
    assert_eq!(
        (names(&last), &last["next"], last.get("offset")),
        (vec!["s4".to_owned()], &Value::Null, None)
    );
    assert_eq!(names(&call(Method::GET, "/services?tags=t1,all").await.1), ["s1", "s3"]);
    assert_eq!(names(&call(Method::GET, "/services?tags=t1/t0").await.1).len(), 5);
    assert_eq!(call(Method::GET, "/services?size=0").await.0, 400);
    assert_eq!(names(&call(Method::GET, "/services/s3/routes").await.1), ["r3"]);
    assert_eq!(call(Method::GET, "/routes/r3/service").await.1["name"], "s3");
    assert_eq!(call(Method::GET, "/services/nobody").await.0, 404);
    assert_eq!(call(Method::GET, "/nothing").await.0, 404);
    for (method, path) in
        [(Method::POST, "/services"), (Method::PUT, "/services/s1"), (Method::DELETE, "/routes/r1")]
    {
        let (status, refusal) = call(method, path).await;
        assert_eq!((status, refusal["code"].as_u64()), (405, Some(12)), "{path}: {refusal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_described_path_is_there() {
    let gateway = Gateway::start(&config(&[], "")).await;
    let url = format!("http://{}/openapi.json", gateway.admin);
    let document = body(&http_client::get(&url).await.unwrap());
    assert!(document["components"]["securitySchemes"]["bearer"].is_object());
    let values = BTreeMap::from([
        ("{collection}", "services"),
        ("{entity}", "s"),
        ("{nested}", "routes"),
        ("{child}", "r"),
        ("{name}", "services"),
        ("{upstream}", "up"),
    ]);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 10, "{:?}", paths.keys());
    // entries of a cache have a test of their own below: they have to be there first
    let readable =
        |operations: &Value| operations["get"].is_object() && operations["get"]["tags"][0] != "cache";
    for (path, operations) in paths.iter().filter(|(_, operations)| readable(operations)) {
        let path = values.iter().fold(path.clone(), |path, (name, value)| path.replace(name, value));
        let status = operations["get"]["tags"][0] == "status";
        let address = if status { gateway.status } else { gateway.admin };
        // readiness comes a moment after the start
        eventually("the path answers", Duration::from_secs(10), || async {
            let answer = http_client::get(&format!("http://{address}{path}")).await.unwrap();
            holds(answer.status() == 200, format!("{path}: {:?}", answer.body()))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_answers_are_shown_and_purged() {
    let upstream = Upstream::start().await;
    upstream.respond(|request| async move {
        let answer = Response::builder().header("content-type", "text/plain").header("x-of", "upstream");
        answer.body(http_body_util::Full::from(request.uri().to_string())).unwrap()
    });
    let id = "0a2a3b1c-56c1-4d8a-9e36-6e8e3f1c9a01";
    let text = format!(
        "{}plugins: [{{id: {id}, name: proxy-cache, config: {{strategy: memory}}}}]\n",
        config(&[upstream.addr], "")
    );
    let gateway = Gateway::start(&text).await;
    let admin = async |method: Method, path: &str| {
        http_client::send(method, &format!("http://{}{path}", gateway.admin), &[], "").await.unwrap()
    };
    // status of the cache, and the key
    let ask = async |path: &str| {
        let answer = gateway.get(path).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        (header("x-cache-status"), header("x-cache-key"))
    };
    let (first, key) = ask("/a").await;
    assert_eq!((first.as_str(), ask("/a").await), ("Miss", ("Hit".to_owned(), key.clone())));
    let (_, other) = ask("/b").await;

    for path in [format!("/proxy-cache/{key}"), format!("/proxy-cache/{id}/caches/{key}")] {
        let shown = admin(Method::GET, &path).await;
        assert_eq!(shown.status(), 200, "{path}");
        let entry = body(&shown);
        assert_eq!(
            (&entry["status"], &entry["body"], &entry["body_len"]),
            (&json!(200), &json!("/a"), &json!(2))
        );
        assert_eq!((&entry["headers"]["x-of"], &entry["ttl"]), (&json!("upstream"), &json!(300)));
        assert_eq!(admin(Method::DELETE, &path).await.status(), 204);
        assert_eq!(admin(Method::GET, &path).await.status(), 404);
        assert_eq!(admin(Method::DELETE, &path).await.status(), 404);
        assert_eq!(ask("/a").await.0, "Miss");
    }
    let stranger = format!("/proxy-cache/{}/caches/{other}", id.replace("01", "02"));
    for path in [stranger.as_str(), "/proxy-cache/nothing", &format!("/proxy-cache/x/caches/{other}")] {
        assert_eq!(admin(Method::GET, path).await.status(), 404, "{path}");
        assert_eq!(admin(Method::DELETE, path).await.status(), 404, "{path}");
    }
    assert_eq!(ask("/b").await.0, "Hit", "others stay");
    assert_eq!(admin(Method::GET, "/proxy-cache").await.status(), 405);
    assert_eq!(admin(Method::DELETE, "/proxy-cache").await.status(), 204);
    assert_eq!((ask("/a").await.0, ask("/b").await.0), ("Miss".to_owned(), "Miss".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_kept_in_redis_are_purged_for_all_gateways() {
    let mut redis = Redis::start().await;
    let upstream = Upstream::start().await;
    upstream.respond(|request| async move {
        let answer = Response::builder().header("content-type", "text/plain");
        answer.body(http_body_util::Full::from(request.uri().to_string())).unwrap()
    });
    let text = format!(
        "{}plugins: [{{name: proxy-cache, config: {{strategy: redis, redis: {{host: 127.0.0.1, port: {}}}}}}}]\n",
        config(&[upstream.addr], ""),
        redis.addr.port()
    );
    let (one, other) = (Gateway::start(&text).await, Gateway::start(&text).await);
    let admin = async |of: &Gateway, method: Method, path: &str| {
        http_client::send(method, &format!("http://{}{path}", of.admin), &[], "").await.unwrap()
    };
    let ask = async |of: &Gateway, path: &str| {
        let answer = of.get(path).await;
        answer.headers()["x-cache-status"].to_str().unwrap().to_owned()
    };
    let mut keys = Vec::new();
    for path in ["/a", "/b", "/c"] {
        eventually("both have it", Duration::from_secs(10), || async {
            let found = (ask(&one, path).await, ask(&other, path).await);
            holds(found.0 == "Hit" && found.1 == "Hit", format!("{found:?}"))
        })
        .await;
        keys.push(one.get(path).await.headers()["x-cache-key"].to_str().unwrap().to_owned());
    }
    let first = format!("/proxy-cache/{}", keys[0]);
    let shown = admin(&other, Method::GET, &first).await;
    assert_eq!((shown.status().as_u16(), &body(&shown)["body"]), (200, &json!("/a")));
    assert_eq!(admin(&other, Method::DELETE, &first).await.status(), 204);
    assert_eq!(admin(&one, Method::DELETE, &first).await.status(), 404);
    assert_eq!(ask(&one, "/a").await, "Miss");
    // An answer is kept behind the client's back: what is still under way would come after the purge.
    eventually("it is kept again", Duration::from_secs(10), || async {
        let status = admin(&one, Method::GET, &first).await.status();
        holds(status == 200, status.to_string())
    })
    .await;
    assert_eq!(admin(&one, Method::DELETE, "/proxy-cache").await.status(), 204);
    for key in &keys {
        assert_eq!(admin(&other, Method::GET, &format!("/proxy-cache/{key}")).await.status(), 404);
    }
    redis.kill();
    assert_eq!(admin(&one, Method::GET, &first).await.status(), 503);
    assert_eq!(admin(&one, Method::DELETE, "/proxy-cache").await.status(), 503);
}
