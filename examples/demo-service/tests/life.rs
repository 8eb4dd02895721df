//! The demo service as its own process, on the embedded agent and on real Consul: found at once, back at once after a
//! kill, gone at once when told to stop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use plinth_core::consul::wire::{NodeVerb, TxnOp};
use plinth_core::consul::{Client, Read, Settings};
use plinth_core::discovery::{Discovery, DiscoverySettings, ServiceSnapshot};
use plinth_core::registration;
use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::{PortLease, eventually, http_client};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_agent() {
    let settings = plinth_agent::Settings { http_port: 0, ..plinth_agent::Settings::default() };
    let agent = plinth_agent::Agent::start(settings).await.unwrap();
    a_whole_life(agent.address()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_real_consul() {
    let consul = RealConsul::start().await;
    a_whole_life(consul.addr).await;
}

async fn a_whole_life(consul: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(Settings::http(consul)).unwrap();
    let settings = DiscoverySettings::default();
    let discovery = Discovery::start(client.clone(), settings, &tokio::runtime::Handle::current());
    let watching = discovery.subscribe("user-service");
    let port = PortLease::take();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo-service"));
        command.args(["--name", "user-service", "--id", "user-1", "--drain", "0s"]);
        command.arg(format!("--listen=127.0.0.1:{}", port.port()));
        command.env_clear().env("CONSUL_HTTP_ADDR", consul.to_string());
        Process::spawn("demo-service", command, folder.path())
    };
    let found = |what: &'static str, wanted: fn(&ServiceSnapshot) -> bool| {
        let watching = watching.clone();
        async move {
            eventually(what, DEADLINE, || async {
                match watching.borrow() {
                    Some(snapshot) if wanted(&snapshot) => Ok(snapshot),
                    other => Err(format!("{other:?}")),
                }
            })
            .await
        }
    };

    let mut demo = start();
    let first = found("it is found", |snapshot| snapshot.passing().count() == 1).await;
    let instance = &first.instances[0];
    assert_eq!((instance.service_id.as_str(), instance.port), ("user-1", port.port()));
    let answer = http_client::get(&format!("http://127.0.0.1:{}/api/v1/users", port.port())).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((&answer["instance"], &answer["path"]), (&"user-1".into(), &"/api/v1/users".into()));
    assert!(demo.output().contains("demo-service: http listening on http://127.0.0.1:"), "{}", demo.output());

    // Killed without warning and found dead, it is back under its id at once: nothing of the former life is in the way.
    demo.kill();
    found_dead(&client, "user-1").await;
    found("it is seen as critical", |snapshot| snapshot.passing().count() == 0).await;
    let begun = Instant::now();
    let mut demo = start();
    let url = format!("http://127.0.0.1:{}/health", port.port());
    eventually("it answers again", DEADLINE, || http_client::get(&url)).await;
    found("it is found again", |snapshot| snapshot.passing().count() == 1).await;
    println!("killed and started again: ready and discoverable after {:?}", begun.elapsed());

    assert!(demo.terminate(DEADLINE).success(), "{}", demo.output());
    found("told to stop it is gone", |snapshot| snapshot.instances.is_empty()).await;
}

/// What a health-aggregator writes when its probe fails.
async fn found_dead(client: &Client, service_id: &str) {
    let node = registration::node_name(service_id);
    let checks = client.health().node(&node, &Read::default()).await.unwrap().value;
    let mut check = checks.into_iter().find(|check| check.service_id == service_id).unwrap();
    check.status = "critical".to_owned();
    client.txn(&[TxnOp::check(NodeVerb::Cas, check)]).await.unwrap();
}

#[test]
fn bad_settings_are_named_and_end_with_64() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo-service"))
        .args(["--listen", "nowhere", "--colour", "red", "--check-interval", "soon"])
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{text}");
    for flag in ["--listen", "--colour", "--check-interval"] {
        assert!(text.contains(flag), "{flag} in {text}");
    }
}
