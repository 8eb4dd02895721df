//! One configuration for several gateways, kept in config-service: a gateway or the service dies, and what is there is damaged.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use plinth_testbed::{PortLease, eventually, holds, http_client};
use serde_json::{Value, json};

use crate::support::backend::{Backend, Kind};
use crate::support::client::{get, json as parsed, send};
use crate::support::platform::{ready, service};
use crate::support::program::Program;

const LIMIT: Duration = Duration::from_secs(15);
const KEY: &str = "/api/v1/config/plinth/default/gateway/kong";

/// A configuration that answers on `/<name>` by itself, padded so that it takes more than one chunk when `padding` is large.
fn answering(name: &str, padding: usize) -> String {
    let padding = "x".repeat(padding);
    format!(
        "_format_version: \"3.0\"\n# {padding}\nroutes:\n- name: {name}\n  paths: [\"/{name}\"]\n  plugins:\n  \
         - name: request-termination\n    config: {{ status_code: 200, message: {name} }}\n"
    )
}

struct Fleet {
    backend: Backend,
    folder: tempfile::TempDir,
    config: Program,
    /// Nobody else gets the port while config-service is dead.
    lease: PortLease,
}

impl Fleet {
    async fn start(kind: Kind) -> Self {
        let (backend, folder) = (Backend::start(kind).await, tempfile::tempdir().unwrap());
        let lease = PortLease::take();
        let config = config_service(&backend, folder.path(), "config", &lease).await;
        Self { backend, folder, config, lease }
    }

    /// A gateway that follows config-service and keeps a copy in the file `copy`; it need not be ready.
    async fn gateway(&self, label: &str, copy: &str) -> Program {
        let mut command = service(&self.backend, self.folder.path(), "gateway", label);
        let (url, copy) = (self.config.url("http", ""), self.folder.path().join(copy));
        command.args(["--config-service-url", &url, "--config-service-last-good"]).arg(copy);
        for listen in ["--proxy-listen", "--admin-listen", "--status-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
        Program::start(label, command, self.folder.path(), &["proxy", "admin", "status"]).await
    }

    async fn config_again(&mut self) {
        self.config = config_service(&self.backend, self.folder.path(), "config-again", &self.lease).await;
    }

    async fn head(&self) -> Value {
        parsed(&get(&self.config.url("http", KEY)).await)["value"].clone()
    }
}

async fn config_service(backend: &Backend, folder: &Path, label: &str, port: &PortLease) -> Program {
    let mut command = service(backend, folder, "config-service", "config");
    command.args(["--listen", &format!("127.0.0.1:{}", port.port())]);
    let program = Program::start(label, command, folder, &["http"]).await;
    ready(&program, "http").await;
    program
}

async fn post(gateway: &Program, text: &str) -> Response<Bytes> {
    let url = gateway.url("admin", "/config");
    http_client::send(Method::POST, &url, &[("content-type", "text/yaml")], text.to_owned()).await.unwrap()
}

async fn ready_status(gateway: &Program) -> u16 {
    get(&gateway.url("status", "/status/ready")).await.status().as_u16()
}

async fn last_reload(gateway: &Program) -> Value {
    parsed(&get(&gateway.url("status", "/status")).await)["plinth"]["last_reload"].clone()
}

/// Waits until the gateway answers on `/<name>`.
async fn serves(gateway: &Program, name: &str) {
    eventually(&format!("{} serves /{name}", gateway.name), LIMIT, || async {
        // A gateway without a configuration takes no connection.
        match http_client::get(&gateway.url("proxy", &format!("/{name}"))).await {
            Ok(answer) => holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body())),
            Err(error) => Err(format!("{error}; it printed:\n{}", gateway.process.output())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_a_configuration_on_the_embedded_agent() {
    shared(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_a_configuration_on_real_consul() {
    shared(Kind::Consul).await;
}

async fn shared(kind: Kind) {
    let mut fleet = Fleet::start(kind).await;
    let (one, mut two) = tokio::join!(fleet.gateway("gateway-1", "one"), fleet.gateway("gateway-2", "two"));
    assert_eq!(ready_status(&one).await, 503, "ready only with a configuration");

    // What one takes, both have, large ones included.
    let answer = post(&one, &answering("first", 500_000)).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body());
    serves(&two, "first").await;
    // A gateway says that it is ready after it serves, not at the same moment.
    eventually("both are ready", LIMIT, || async {
        let answers = (ready_status(&one).await, ready_status(&two).await);
        holds(answers == (200, 200), format!("{answers:?}"))
    })
    .await;
    let head = fleet.head().await;
    assert_eq!((&head["revision"], &head["chunks"]), (&json!(1), &json!(3)), "{head}");
    let answer = post(&two, &answering("second", 0)).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body());
    serves(&one, "second").await;
    assert_eq!(get(&one.url("proxy", "/first")).await.status(), 404);

    // What would be refused is not written.
    let answer = post(&one, "_format_version: \"3.0\"\nroutes:\n- name: bad\n  pahts: [/x]\n").await;
    assert_eq!(answer.status(), 400, "{:?}", answer.body());
    assert_eq!(fleet.head().await["revision"], 2);

    // A gateway that was away has the present configuration before it is ready.
    two.process.kill();
    assert_eq!(post(&one, &answering("third", 0)).await.status(), 201);
    two = fleet.gateway("gateway-2-again", "two").await;
    serves(&two, "third").await;

    // Without config-service: traffic goes on, a change is refused and changes nothing, a restart takes the copy.
    fleet.config.process.kill();
    let answer = post(&one, &answering("fourth", 0)).await;
    assert_eq!(answer.status(), 503, "{:?}", answer.body());
    assert_eq!(get(&one.url("proxy", "/fourth")).await.status(), 404);
    two.process.kill();
    two = fleet.gateway("gateway-2-without", "two").await;
    serves(&two, "third").await;
    serves(&one, "third").await;
    let new = fleet.gateway("gateway-3", "three").await;
    assert_eq!(ready_status(&new).await, 503, "it has no copy, and nothing to serve");

    fleet.config_again().await;
    serves(&new, "third").await;
    assert_eq!(post(&two, &answering("fifth", 0)).await.status(), 201);
    for gateway in [&one, &two, &new] {
        serves(gateway, "fifth").await;
    }
    damaged(&fleet, &one, &new).await;
}

/// Chunks that are missing or are not what the head tells of: refused, said, and forgotten with the next good one.
async fn damaged(fleet: &Fleet, one: &Program, other: &Program) {
    let good = fleet.head().await;
    let item = fleet.config.url("http", KEY);
    let heads = [
        ("is missing", json!({ "revision": 90, "sha256": "00", "size": 10, "chunks": 1 })),
        ("SHA-256", {
            let mut head = good.clone();
            head["size"] = json!(3);
            head
        }),
        ("holds no configuration's head", json!({ "revision": "x" })),
    ];
    for (told, head) in heads {
        let answer = send(Method::PUT, &item, &json!({ "value": head })).await;
        assert!(answer.status().is_success(), "{:?}", answer.body());
        for gateway in [one, other] {
            eventually(&format!("{} says: {told}", gateway.name), LIMIT, || async {
                let last = last_reload(gateway).await;
                let said = last["error"].as_str().is_some_and(|error| error.contains(told));
                holds(last["ok"] == false && said, last.to_string())
            })
            .await;
            assert_eq!(get(&gateway.url("proxy", "/fifth")).await.status(), 200);
        }
    }
    // The Admin API cannot build on a head it does not understand; an operator's hand puts the good one back.
    assert_eq!(post(one, &answering("sixth", 0)).await.status(), 503);
    assert!(send(Method::PUT, &item, &json!({ "value": good })).await.status().is_success());
    let answer = post(one, &answering("sixth", 0)).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body());
    serves(other, "sixth").await;
    eventually("the refusal is forgotten", LIMIT, || async {
        let last = last_reload(other).await;
        holds(last["ok"] == true, last.to_string())
    })
    .await;
}
