//! `plinth up` and the operator's commands, on the embedded agent inside it and on a real Consul.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::{eventually, holds};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::{get, get_with};
use crate::support::house::{House, ended, kill, up};
use crate::support::program::command;

const LIMIT: Duration = Duration::from_secs(15);
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../infrastructure/kong/kong.yml");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_on_its_own_agent() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let started = Instant::now();
    let mut house = House::start("up", up(&data, &["--demo"]), &data).await;
    assert!(house.table.contains_key(&("agent".into(), "Consul's HTTP API".into())), "{:?}", house.table);
    assert_eq!(house.demo.len(), 4, "{:?}", house.demo);
    routed(&house).await;
    println!("plinth up --demo: first routed request after {:?} (this profile)", started.elapsed());

    an_instance_dies(&house).await;
    services_commands(&house).await;
    config_commands(&house).await;
    gateway_commands(&house, folder.path());
    other_commands(&house).await;

    // SIGTERM: exit code 0, nobody left behind.
    let status = house.process.terminate(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", house.process.output());
    assert!(house.demo.values().all(|pid| ended(*pid)), "{:?}", house.demo);

    // The same folder: what was written is there; the old instances were deregistered, the new ones come.
    let mut again = House::start("up-again", up(&data, &["--demo"]), &data).await;
    assert_eq!(again.text(&["config", "get", "shop/dev/kept"]).trim(), "{\"rate\":7}");
    let kept = again.json(&["services", "get", "kept-1"]);
    assert_eq!(kept["service_name"], "kept", "{kept}");
    routed(&again).await;

    // SIGKILL to the one process: its children notice and end.
    again.process.signal(Signal::KILL);
    again.process.wait(LIMIT);
    eventually("the demo's instances end by themselves", LIMIT, || async {
        holds(again.demo.values().all(|pid| ended(*pid)), format!("{:?}", again.demo))
    })
    .await;
    let third = House::start("up-third", up(&data, &[]), &data).await;
    assert_eq!(third.text(&["config", "get", "shop/dev/kept"]).trim(), "{\"rate\":7}", "after a SIGKILL");
    assert_eq!(third.json(&["services", "get", "kept-1"])["service_name"], "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_on_real_consul() {
    let consul = RealConsul::start().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = up(&data, &["--demo"]);
    command.env("CONSUL_HTTP_ADDR", consul.addr.to_string());
    let mut house = House::start("up", command, &data).await;
    routed(&house).await;
    assert!(!data.join("agent").exists(), "no agent was started");
    // Services register themselves once they are ready.
    eventually("all are in the catalog", Duration::from_secs(20), || async {
        let catalog = get(&format!("http://{}/v1/catalog/services", consul.addr)).await;
        let catalog: Value = serde_json::from_slice(catalog.body()).map_err(|error| error.to_string())?;
        let all = ["registry-service", "config-service", "health-aggregator", "gateway", "user-service"];
        holds(all.iter().all(|service| catalog.get(service).is_some()), catalog.to_string())
    })
    .await;
    services_commands(&house).await;
    config_commands(&house).await;
    let status = house.process.terminate(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", house.process.output());
    let left = get(&format!("http://{}/v1/catalog/services", consul.addr)).await;
    let left: Value = serde_json::from_slice(left.body()).unwrap();
    for service in ["registry-service", "gateway", "user-service"] {
        assert!(left.get(service).is_none(), "{service} was not deregistered: {left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_says_what_is_in_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for part in ["agent", "registry", "config", "health", "proxy", "admin", "status"] {
        let flag = format!("--{part}-listen=127.0.0.1:{port}");
        let data = folder.path().join(part);
        let mut process = Process::spawn(part, up(&data, &[&flag]), folder.path());
        let status = process.wait(Duration::from_secs(20));
        let output = process.output();
        assert!(status.code().is_some_and(|code| code != 0), "{part}: {status}: {output}");
        let error = output.lines().find(|line| line.starts_with("plinth: ")).unwrap_or_default();
        assert!(error.contains(&port.to_string()), "{part}: {output}");
        assert!(error.to_lowercase().contains("in use"), "{part}: {output}");
    }
    for (args, code, word) in [
        (vec!["--config=/nowhere/kong.yml"], 64, "/nowhere/kong.yml"),
        (vec!["--log-level=loud"], 64, "loud"),
        (vec!["--listen-to-me"], 64, "--listen-to-me"),
    ] {
        let data = folder.path().join("bad");
        let mut process = Process::spawn("bad", up(&data, &args), folder.path());
        let status = process.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(code), "{args:?}: {}", process.output());
        assert!(process.output().contains(word), "{args:?}: {}", process.output());
    }
}

/// The printed curl.
async fn routed(house: &House) {
    let url = format!("{}/api/v1/users/1", house.url("gateway", "proxy"));
    let bearer = format!("Bearer {}", house.token);
    let refused = get(&url).await;
    assert_eq!(refused.status(), 401, "{:?}", refused.body());
    let answer = get_with(&url, &[("authorization", &bearer)]).await;
    assert_eq!(answer.status(), 200, "when the table is there, what it says works: {:?}", answer.body());
}

async fn an_instance_dies(house: &House) {
    let url = format!("{}/api/v1/users/1", house.url("gateway", "proxy"));
    let bearer = format!("Bearer {}", house.token);
    kill(house.demo["user-1"]);
    for number in 0..100 {
        let answer = get_with(&url, &[("authorization", &bearer)]).await;
        assert_eq!(answer.status(), 200, "request {number}: {:?}", answer.body());
    }
    eventually("the dead instance is seen as such", LIMIT, || async {
        let found = house.json(&["services", "discover", "user-service", "--healthy-only"]);
        let ids: Vec<&str> = found["services"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|instance| instance["service_id"].as_str())
            .collect();
        holds(ids == ["user-2"], format!("{found}"))
    })
    .await;
}

async fn services_commands(house: &House) {
    let registered = house.json(&[
        "services",
        "register",
        "kept",
        "--service-id",
        "kept-1",
        "--address",
        "127.0.0.1",
        "--port",
        "9",
        "--tag",
        "a",
        "--metadata",
        "{\"team\":{\"size\":3}}",
    ]);
    assert_eq!(registered["status"], "registered");
    let list = house.json(&["services", "list"]);
    let ids: Vec<&str> =
        list.as_array().unwrap().iter().filter_map(|instance| instance["service_id"].as_str()).collect();
    assert!(ids.contains(&"kept-1") && ids.contains(&"user-2"), "{ids:?}");
    let table = house.text(&["services", "list"]);
    assert!(table.starts_with("SERVICE"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("kept ") && line.contains("127.0.0.1:9")), "{table}");
    let one = house.json(&["services", "get", "kept-1"]);
    assert_eq!(one["metadata"], json!({ "team": { "size": 3 } }), "{one}");
    let found = house.json(&["services", "discover", "kept", "--tag", "a"]);
    assert_eq!(found["services"][0]["service_id"], "kept-1", "{found}");
    house.text(&[
        "services",
        "register",
        "gone",
        "--service-id",
        "gone-1",
        "--address",
        "::1",
        "--port",
        "9",
    ]);
    house.text(&["services", "deregister", "gone-1"]);
    let missing = house.run(&["services", "get", "gone-1"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("404"), "{missing:?}");
    let bad = house.run(&["services", "register", "x y", "--address", "127.0.0.1", "--port", "9"]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("service_name"), "{bad:?}");
    let nobody = house.run(&["services", "list", "--registry-url", "http://127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(69), "{nobody:?}");
    let stranger = house.run(&["services", "list", "--token", "nonsense"]);
    assert_eq!(stranger.status.code(), Some(1), "{stranger:?}");
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("plinth token"), "{stranger:?}");
}

async fn config_commands(house: &House) {
    let first = house.json(&["config", "set", "shop/dev/kept", "{\"rate\":1}", "--description", "a rate"]);
    assert_eq!(first["revision"], 1, "{first}");
    let mut watch = Process::spawn(
        "watch",
        house.command(&["config", "watch", "shop/dev/kept"]),
        house.data.parent().unwrap(),
    );
    let lines = |watch: &Process| -> Vec<Value> {
        let output = watch.output();
        output
            .lines()
            .filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["value"].clone()))
            .collect()
    };
    eventually("the watch prints the value", LIMIT, || async {
        holds(lines(&watch) == [json!({ "rate": 1 })], watch.output())
    })
    .await;
    house.text(&["config", "set", "shop/dev/kept", "{\"rate\":7}", "--revision", "1"]);
    eventually("the watch prints the change", LIMIT, || async {
        holds(lines(&watch).last() == Some(&json!({ "rate": 7 })), watch.output())
    })
    .await;
    watch.assert_running();
    watch.terminate(LIMIT);
    let stale = house.run(&["config", "set", "shop/dev/kept", "0", "--revision", "1"]);
    assert_eq!(stale.status.code(), Some(1), "{stale:?}");
    assert!(String::from_utf8_lossy(&stale.stderr).contains("412"), "{stale:?}");
    assert_eq!(house.text(&["config", "get", "shop/dev/kept"]).trim(), "{\"rate\":7}");
    assert_eq!(house.json(&["config", "get", "shop/dev/kept"])["description"], "a rate");
    house.text(&["config", "set", "shop/dev/word", "hello"]);
    let list = house.json(&["config", "list", "shop/dev"]);
    let keys: Vec<&str> =
        list["items"].as_array().unwrap().iter().filter_map(|item| item["key"].as_str()).collect();
    assert_eq!(keys, ["kept", "word"]);
    let namespaces = house.json(&["config", "list"]);
    assert_eq!(namespaces["namespaces"][0]["namespace"], "shop", "{namespaces}");
    house.text(&["config", "delete", "shop/dev/word"]);
    let gone = house.run(&["config", "get", "shop/dev/word"]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    let history = house.json(&["config", "history", "shop/dev/word"]);
    let kinds: Vec<&Value> =
        history["revisions"].as_array().unwrap().iter().map(|revision| &revision["kind"]).collect();
    assert_eq!(kinds, ["delete", "put"], "{history}");
    assert!(house.text(&["config", "history", "shop/dev/kept"]).starts_with("REVISION"));
}

fn gateway_commands(house: &House, folder: &Path) {
    let check = house.run(&["gateway", "check", SEED]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let (out, err) = (String::from_utf8_lossy(&check.stdout), String::from_utf8_lossy(&check.stderr));
    assert!(out.contains("valid") && err.contains("warning: "), "{check:?}");
    assert!(format!("{out}{err}").contains("iat"), "what Kong would refuse is named: {check:?}");
    let report = house.json(&["gateway", "check", SEED]);
    assert_eq!(report["valid"], true);
    assert!(!report["fields"].as_array().unwrap().is_empty());
    let broken = folder.join("broken.yml");
    std::fs::write(&broken, "_format_version: \"3.0\"\nservices:\n  - name: a\n    port: 99999\n").unwrap();
    let broken = broken.display().to_string();
    let check = house.run(&["gateway", "check", &broken]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    assert!(
        String::from_utf8_lossy(&check.stderr).contains("error parsing declarative config file"),
        "{check:?}"
    );
    let check = house.run(&["gateway", "check", &broken, "--output", "json"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    assert_eq!(serde_json::from_slice::<Value>(&check.stdout).unwrap()["valid"], false);
    // valid for Kong, but not what the gateway takes
    let text = "_format_version: \"3.0\"\nupstreams: [{name: a, tags: [\"plinth.breaker:ratoi=5\"]}]\n";
    std::fs::write(&broken, text).unwrap();
    let check = house.run(&["gateway", "check", &broken]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    assert!(String::from_utf8_lossy(&check.stderr).contains("plinth.breaker:ratoi=5"), "{check:?}");
    let none = house.run(&["gateway", "check", "/nowhere/kong.yml"]);
    assert_eq!(none.status.code(), Some(64), "{none:?}");
    let status = house.text(&["gateway", "status"]);
    assert!(status.contains("user-api") && status.contains("user-service.service.consul"), "{status}");
    assert!(house.json(&["gateway", "status"])["configuration_hash"].is_string());
    explains_and_compares(house, folder);
}

fn explains_and_compares(house: &House, folder: &Path) {
    let told = house.text(&["gateway", "explain", "/api/v1/users/1"]);
    for word in ["proxied to user-service", "user-api", "jwt", "rate-limiting", "TARGET"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert_eq!(house.json(&["gateway", "explain", "/nowhere"])["route"], Value::Null);

    let seed = std::fs::read_to_string(SEED).unwrap();
    let changed = folder.join("changed.yml");
    std::fs::write(&changed, seed.replacen("retries: 3", "retries: 4", 1)).unwrap();
    let changed = changed.display().to_string();
    let same = house.run(&["gateway", "diff", SEED, SEED]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    let differs = house.run(&["gateway", "diff", SEED, &changed]);
    assert_eq!(differs.status.code(), Some(1), "as diff has it: {differs:?}");
    let table = String::from_utf8_lossy(&differs.stdout).into_owned();
    let row = table.lines().find(|line| line.contains("retries")).unwrap_or_else(|| panic!("{table}"));
    for word in ["changed", "services", "user-service", "3", "4"] {
        assert!(row.contains(word), "{word}: {row}");
    }
    // One file: against what runs, which is the demo's own.
    let running = house.run(&["gateway", "diff", &changed, "--output", "json"]);
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    assert!(!serde_json::from_slice::<Vec<Value>>(&running.stdout).unwrap().is_empty());
}

async fn other_commands(house: &House) {
    // The instance that was killed is removed after its 30 s; one service at a time says the same sooner.
    let document = house.json(&["health", "document-service"]);
    assert_eq!(document["status"], "healthy", "{document}");
    assert!(house.text(&["health", "document-service"]).contains("document-1"));
    let system = house.run(&["health", "--output", "json"]);
    assert!(matches!(system.status.code(), Some(0 | 1)), "{system:?}");
    let status = serde_json::from_slice::<Value>(&system.stdout).unwrap()["status"].clone();
    assert_eq!(status == "healthy", system.status.success(), "{system:?}");
    let unknown = house.run(&["health", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");

    let token = house.text(&["token", "--scope", "config:read:shop/dev", "--ttl", "5m"]);
    let item = house.run(&["config", "get", "shop/dev/kept", "--token", token.trim()]);
    assert!(item.status.success(), "{item:?}");
    let more = house.run(&["config", "set", "shop/dev/kept", "0", "--token", token.trim()]);
    assert_eq!(more.status.code(), Some(1), "{more:?}");
    assert!(String::from_utf8_lossy(&more.stderr).contains("403"), "{more:?}");
    let bad = house.run(&["token", "--scope", "everything"]);
    assert_eq!(bad.status.code(), Some(64), "{bad:?}");

    let bash = house.text(&["completions", "bash"]);
    assert!(bash.contains("_plinth()"), "{bash}");
    let help = tokio::task::block_in_place(|| command("plinth").arg("--help").output().unwrap());
    assert_eq!(help.status.code(), Some(0));
    let wrong = tokio::task::block_in_place(|| command("plinth").arg("sevices").output().unwrap());
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
}
