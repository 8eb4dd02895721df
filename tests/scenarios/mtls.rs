//! Everything encrypted: all services with mutual TLS from Consul's certificate authority, each its own process, on a real
//! Consul. They register, find, probe and configure each other; whoever shows no certificate, or may not call, is refused.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::Method;
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds, http_client};
use serde_json::{Value, json};

use crate::support::backend::Backend;
use crate::support::client::{get, json as parsed, send};
use crate::support::mesh::{Mesh, files};
use crate::support::platform::service;
use crate::support::program::{Program, command};

const LIMIT: Duration = Duration::from_secs(30);
const KONG: &str = r#"
_format_version: "3.0"
services:
- name: users
  host: user-service.service.consul
  port: 80
  retries: 0
  tags: [plinth.mtls]
  routes:
  - name: users
    paths: [/users]
- name: registry
  host: registry-service.service.consul
  port: 8510
  tags: [plinth.mtls]
  routes:
  - name: registry
    paths: [/registry]
"#;

struct House {
    backend: Backend,
    folder: tempfile::TempDir,
    operator: Mesh,
}

impl House {
    async fn start() -> Self {
        let consul = RealConsul::start_with(&["connect { enabled = true }"]).await;
        let operator = Mesh::of(consul.addr, "operator").await;
        Self { backend: Backend::Consul(Box::new(consul)), folder: tempfile::tempdir().unwrap(), operator }
    }

    async fn program(&self, name: &str, label: &str, more: &[&str], listeners: &[&str]) -> Program {
        let mut command = service(&self.backend, self.folder.path(), name, label);
        command.args(["--mtls-source", "connect", "--mtls-intention-cache", "500ms"]).args(more);
        Program::start(label, command, self.folder.path(), listeners).await
    }

    async fn plain(&self, name: &str, label: &str) -> Program {
        self.program(name, label, &["--listen", "127.0.0.1:0"], &["http"]).await
    }

    /// With a status listener, which probes without a certificate use.
    async fn with_status(&self, name: &str, label: &str) -> Program {
        let listen = ["--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];
        self.program(name, label, &listen, &["http", "status"]).await
    }

    async fn demo(&self, id: &str) -> Program {
        let more = ["--listen", "127.0.0.1:0", "--name", "user-service", "--id", id];
        self.program("demo-service", id, &more, &["http"]).await
    }

    async fn intend(&self, source: &str, destination: &str, action: &str) -> String {
        let url = format!("http://{}/v1/connect/intentions", self.backend.address());
        let body = json!({"SourceName": source, "DestinationName": destination, "SourceType": "consul", "Action": action});
        let answer = send(Method::POST, &url, &body).await;
        parsed(&answer)["ID"].as_str().unwrap().to_owned()
    }

    async fn forget(&self, intention: &str) {
        let url = format!("http://{}/v1/connect/intentions/{intention}", self.backend.address());
        assert_eq!(http_client::send(Method::DELETE, &url, &[], "").await.unwrap().status(), 200);
    }

    /// What a service answers to the operator.
    async fn asked(
        &self,
        service: &str,
        program: &Program,
        listener: &str,
        path: &str,
    ) -> Result<Value, String> {
        let answer = self.operator.get(service, &secure(program, listener, path)).await?;
        if answer.status().is_success() {
            Ok(parsed(&answer))
        } else {
            Err(format!("{} {:?}", answer.status(), answer.body()))
        }
    }

    async fn ready(&self, service: &str, program: &Program) {
        eventually(&format!("{} is ready", program.name), LIMIT, || {
            self.asked(service, program, "http", "/health/ready")
        })
        .await;
    }
}

fn secure(program: &Program, listener: &str, path: &str) -> String {
    program.url(listener, path).replacen("http://", "https://", 1)
}

/// The operator's commands with the files that Consul's authority gave.
fn plinth(arguments: &[&str], tls: &[&Path]) -> (Option<i32>, String) {
    let mut command = command("plinth");
    command.args(arguments).args(["--output", "json"]);
    for (option, file) in ["--ca-cert", "--client-cert", "--client-key"].iter().zip(tls) {
        command.arg(option).arg(file);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_encrypted_and_nothing_else_is_let_in() {
    let house = House::start().await;
    let (one, two, first, second, config) = tokio::join!(
        house.plain("registry-service", "registry-1"),
        house.with_status("registry-service", "registry-2"),
        house.plain("health-aggregator", "health-1"),
        house.with_status("health-aggregator", "health-2"),
        house.plain("config-service", "config"),
    );
    for (service, program) in [
        ("registry-service", &one),
        ("registry-service", &two),
        ("health-aggregator", &first),
        ("health-aggregator", &second),
        ("config-service", &config),
    ] {
        assert!(program.process.output().contains("listening on https://"), "{}", program.process.output());
        house.ready(service, program).await;
    }
    for program in [&two, &second] {
        assert_eq!(
            get(&program.url("status", "/health/ready")).await.status(),
            200,
            "probes need no certificate"
        );
    }
    let _users = tokio::join!(house.demo("user-1"), house.demo("user-2"));
    found_and_probed(&house, &one, "user-service", 2).await;
    found_and_probed(&house, &two, "registry-service", 2).await;
    found_and_probed(&house, &one, "health-aggregator", 2).await;
    probe_times_move(&house, &one).await;
    members_see_each_other(&house, &first).await;

    let gateway = gateway(&house, &config).await;
    routes(&house, &gateway).await;
    reports(&house, &one, &gateway).await;
    refusals(
        &house,
        [
            ("registry-service", &one, "http"),
            ("config-service", &config, "http"),
            ("health-aggregator", &first, "http"),
            ("gateway", &gateway, "admin"),
        ],
    )
    .await;
    operators_commands(&house, &one, &first).await;
    intentions(&house, &gateway, &one).await;
}

/// Healthy in the registry's eyes: the aggregators probe with their identity and verify the instances'. The time of the last probe
/// comes from the aggregators' API, again over mutual TLS.
async fn found_and_probed(house: &House, registry: &Program, name: &str, count: usize) {
    let path = format!("/api/v1/services/discover/{name}?healthy_only=true");
    eventually(&format!("{count} healthy, probed instances of {name}"), LIMIT, || async {
        let found = house.asked("registry-service", registry, "http", &path).await?;
        let all = found["services"].as_array().cloned().unwrap_or_default();
        let probed = all.iter().filter(|one| one["last_check"].is_string()).count();
        holds(all.len() == count && probed == count, found.to_string())
    })
    .await;
}

/// Only a probe moves the time of an instance that stays healthy.
async fn probe_times_move(house: &House, registry: &Program) {
    let path = "/api/v1/services/discover/user-service?healthy_only=true";
    let newest = async || {
        let found = house.asked("registry-service", registry, "http", path).await?;
        let times = found["services"].as_array().into_iter().flatten();
        Ok::<_, String>(times.filter_map(|one| one["last_check"].as_str().map(str::to_owned)).max())
    };
    let before = newest().await.unwrap();
    eventually("times of probes arrive", LIMIT, || async {
        let now = newest().await?;
        holds(now > before, format!("{before:?} {now:?}"))
    })
    .await;
}

async fn members_see_each_other(house: &House, aggregator: &Program) {
    eventually("the aggregators see each other", LIMIT, || async {
        let system = house.asked("health-aggregator", aggregator, "http", "/api/v1/health/system").await?;
        let text = system.to_string();
        let (live, silent) = (count(&system, "live"), count(&system, "silent"));
        holds(live == Some(1) && silent == Some(0), text)
    })
    .await;
}

/// Length of the first list of this name anywhere in a document.
fn count(value: &Value, name: &str) -> Option<usize> {
    match value {
        Value::Object(map) => match map.get(name) {
            Some(Value::Array(list)) => Some(list.len()),
            _ => map.values().find_map(|value| count(value, name)),
        },
        Value::Array(list) => list.iter().find_map(|value| count(value, name)),
        _ => None,
    }
}

/// A gateway that has its configuration from config-service, given to its Admin API; all of it over mutual TLS.
async fn gateway(house: &House, config: &Program) -> Program {
    let url = secure(config, "http", "");
    let listen =
        ["--proxy-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];
    let more = [&listen[..], &["--config-service-url", &url]].concat();
    let gateway = house.program("gateway", "gateway", &more, &["proxy", "admin", "status"]).await;
    let answer = house
        .operator
        .send(
            Method::POST,
            "gateway",
            &secure(&gateway, "admin", "/config"),
            &[("content-type", "text/yaml")],
            KONG,
        )
        .await
        .unwrap();
    assert_eq!(answer.status(), 201, "{:?}", answer.body());
    // Followed by a second one, which gets it through its watch.
    let follower = house.program("gateway", "follower", &more, &["proxy", "admin", "status"]).await;
    for gateway in [&gateway, &follower] {
        eventually(&format!("{} is ready", gateway.name), LIMIT, || async {
            let answer = get(&gateway.url("status", "/status/ready")).await;
            holds(answer.status() == 200, gateway.process.output())
        })
        .await;
    }
    gateway
}

async fn routes(house: &House, gateway: &Program) {
    for path in ["/users/hello", "/registry/api/v1/services/discover/user-service"] {
        eventually(&format!("the gateway answers {path}"), LIMIT, || async {
            let answer = get(&gateway.url("proxy", path)).await;
            holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
        })
        .await;
    }
    // A gateway does not let the configuration name somebody else behind a service's host.
    let wrong = KONG.replacen("tags: [plinth.mtls]", "tags: [\"plinth.mtls:config-service\"]", 1);
    let url = secure(gateway, "admin", "/config");
    let post = async |text: &str| {
        house
            .operator
            .send(Method::POST, "gateway", &url, &[("content-type", "text/yaml")], text)
            .await
            .unwrap()
    };
    assert_eq!(post(&wrong).await.status(), 201);
    eventually("an upstream that is somebody else is refused", LIMIT, || async {
        let answer = get(&gateway.url("proxy", "/users/hello")).await;
        holds(answer.status() == 502, format!("{} {:?}", answer.status(), answer.body()))
    })
    .await;
    let unknown = post(&KONG.replacen("plinth.mtls", "plinth.mtsl", 1)).await;
    assert_eq!(unknown.status(), 400, "{:?}", unknown.body());
    assert_eq!(post(KONG).await.status(), 201);
    eventually("the gateway answers again", LIMIT, || async {
        let answer = get(&gateway.url("proxy", "/users/hello")).await;
        holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
    })
    .await;
}

async fn reports(house: &House, registry: &Program, gateway: &Program) {
    let health = house.asked("registry-service", registry, "http", "/health").await.unwrap();
    let identity = &health["checks"]["identity"];
    assert_eq!(identity["status"], "pass", "{health}");
    assert!(identity["details"]["id"].as_str().unwrap().ends_with("/svc/registry-service"), "{health}");
    let metrics =
        house.operator.get("registry-service", &secure(registry, "http", "/metrics")).await.unwrap();
    for text in [metrics, get(&gateway.url("status", "/metrics")).await] {
        let text = String::from_utf8_lossy(text.body()).into_owned();
        for name in ["plinth_certificate_expiry_timestamp_seconds{", "plinth_mtls_rotations_total{"] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}

async fn refusals(house: &House, listeners: [(&str, &Program, &str); 4]) {
    let stranger = tempfile::tempdir().unwrap();
    let [_, _, ca] = files(house.backend.address(), "operator", stranger.path()).await;
    for (service, program, listener) in listeners {
        let plain = http_client::get(&program.url(listener, "/health")).await;
        assert!(plain.is_err(), "{service} answers plain HTTP: {plain:?}");
        let option = match service {
            "registry-service" => vec!["services", "list", "--registry-url"],
            "config-service" => vec!["config", "list", "--config-url"],
            "health-aggregator" => vec!["health", "--health-url"],
            _ => vec!["gateway", "status", "--admin-url"],
        };
        let url = secure(program, listener, "");
        let arguments: Vec<&str> = option.into_iter().chain([url.as_str()]).collect();
        let (code, said) = plinth(&arguments, &[&ca]);
        assert_eq!(code, Some(69), "{service} serves a caller without a certificate: {said}");
        let another = if service == "gateway" { "registry-service" } else { "gateway" };
        let error = house.operator.get(another, &secure(program, listener, "/health")).await.unwrap_err();
        assert!(error.contains("expected the service"), "{error}");
    }
}

async fn operators_commands(house: &House, registry: &Program, aggregator: &Program) {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key, ca] = files(house.backend.address(), "operator", folder.path()).await;
    let tls = [ca.as_path(), cert.as_path(), key.as_path()];
    let (code, said) = plinth(&["services", "list", "--registry-url", &secure(registry, "http", "")], &tls);
    assert!(code == Some(0) && said.contains("user-1"), "{code:?} {said}");
    let (code, said) = plinth(&["health", "--health-url", &secure(aggregator, "http", "")], &tls);
    assert!(code == Some(0) && said.contains("replicas"), "{code:?} {said}");
    let (code, said) = plinth(&["health", "--health-url", &secure(registry, "http", "")], &tls);
    assert!(
        code == Some(69) && said.contains("health-aggregator"),
        "not the service that was asked: {code:?} {said}"
    );
}

/// What Consul's operators say counts within the second: also for connections that are open.
async fn intentions(house: &House, gateway: &Program, registry: &Program) {
    let through = async || get(&gateway.url("proxy", "/users/hello")).await.status().as_u16();
    assert_eq!(through().await, 200);
    let denied = house.intend("gateway", "user-service", "deny").await;
    eventually("the gateway may not call any more", LIMIT, || async {
        let status = through().await;
        holds(status >= 500, status.to_string())
    })
    .await;
    let direct = get(&gateway.url("proxy", "/registry/api/v1/services/discover/user-service")).await;
    assert_eq!(direct.status(), 200, "other services are not concerned");
    house.forget(&denied).await;
    eventually("the gateway may call again", LIMIT, || async {
        let status = through().await;
        holds(status == 200, status.to_string())
    })
    .await;

    house.intend("operator", "registry-service", "deny").await;
    eventually("the operator is refused", LIMIT, || async {
        match house.operator.get("registry-service", &secure(registry, "http", "/health/ready")).await {
            Ok(answer) => Err(answer.status().to_string()),
            Err(_) => Ok(()),
        }
    })
    .await;
    assert!(registry.process.output().contains("connection refused"), "{}", registry.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_serves_without_an_identity() {
    let away = SocketAddr::from(([127, 0, 0, 1], plinth_testbed::free_port()));
    let folder = tempfile::tempdir().unwrap();
    for name in ["registry-service", "config-service", "health-aggregator", "gateway", "demo-service"] {
        let mut command = command(name);
        command.env("CONSUL_HTTP_ADDR", away.to_string());
        command.args(["--mtls-source", "connect", "--mtls-start-timeout", "1s"]);
        match name {
            "gateway" => command.args([
                "--proxy-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
                "--status-listen",
                "off",
            ]),
            _ => command.args(["--listen", "127.0.0.1:0"]),
        };
        if name == "config-service" {
            command.arg("--data-dir").arg(folder.path());
        }
        let output = command.output().unwrap();
        let (said, printed) =
            (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(
            said.contains("mutual TLS cannot be set up") && said.contains("certificate authority"),
            "{name}: {said}"
        );
        assert!(!printed.contains("listening on"), "{name}: {printed}");
    }
}
