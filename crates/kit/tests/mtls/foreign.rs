//! Consul's own proxy (`consul connect proxy`) as the peer, on either side.

use std::process::Command;
use std::time::Duration;

use plinth_core::registration::{Owner, Registrar, Registration};
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{PortLease, eventually, holds, http_client, tools};

use crate::connect::Consul;
use crate::once;

const LIMIT: Duration = Duration::from_secs(30);

fn proxy(consul: &Consul, folder: &std::path::Path, label: &str, arguments: &[&str]) -> Process {
    let binary = tools::program(
        "consul",
        "PLINTH_TEST_CONSUL_BIN",
        &[tools::folder().join("consul-1.8.7/usr/bin/consul")],
        "Consul 1.8.7",
    );
    let mut command = Command::new(binary);
    command.args(["connect", "proxy", "-log-level=debug"]);
    command.arg(format!("-http-addr={}", consul.address())).args(arguments);
    Process::spawn(label, command, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_a_service_behind_consuls_proxy() {
    let consul = Consul::real().await;
    let folder = tempfile::tempdir().unwrap();
    let (upstream, port) = (Upstream::start().await, PortLease::take());
    let listen = format!("127.0.0.1:{}", port.port());
    let behind = upstream.addr.to_string();
    let mut proxy = proxy(
        &consul,
        folder.path(),
        "proxy",
        &["-service=plain", "-service-addr", &behind, "-listen", &listen],
    );
    let caller = consul.identity("shop").await;
    let url = format!("https://{listen}/");
    let answer = eventually("the proxy lets the call through", LIMIT, || {
        proxy.assert_running();
        once(Some(&caller), "plain", &url)
    })
    .await;
    assert_eq!(answer, "ok");
    assert_eq!(upstream.requests().len(), 1);
    let refused = once(Some(&caller), "other", &url).await.unwrap_err();
    assert!(refused.contains("expected the service \"other\""), "{refused}");
    // The proxy asks the same intentions.
    consul.intend("shop", "plain", "deny").await;
    eventually("the proxy refuses", LIMIT, || async {
        match once(Some(&caller), "plain", &url).await {
            Ok(_) => Err(proxy.output()),
            Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuls_proxy_calls_our_listener() {
    let consul = Consul::real().await;
    let folder = tempfile::tempdir().unwrap();
    let (_identity, listener) = consul.listener("ours").await;
    // As a service registers itself with mtls.source = connect; the proxy finds it by that.
    let mut registration = Registration::new("ours", "ours-1", "127.0.0.1", listener.address.port());
    registration.connect_native = true;
    let registrar = Registrar::new(consul.client());
    registrar
        .register(&registration, &Owner::new("test"), plinth_core::health::Status::Passing)
        .await
        .unwrap();

    let port = PortLease::take();
    let upstream = format!("ours:127.0.0.1:{}", port.port());
    let mut proxy = proxy(&consul, folder.path(), "proxy", &["-service=shop", "-upstream", &upstream]);
    let url = format!("http://127.0.0.1:{}/caller", port.port());
    let caller = eventually("the call arrives", LIMIT, || {
        proxy.assert_running();
        let (url, output) = (url.clone(), proxy.output());
        async move {
            let answer = through(&url).await.map_err(|error| format!("{error}: {output}"))?;
            holds(answer.status() == 200, format!("{} {output}", answer.status()))?;
            Ok::<_, String>(String::from_utf8_lossy(answer.body()).into_owned())
        }
    })
    .await;
    assert!(caller.ends_with("/svc/shop"), "our listener knows who called: {caller}");

    consul.intend("shop", "ours", "deny").await;
    eventually("it is refused", LIMIT, || async {
        match through(&url).await {
            Ok(answer) => Err(answer.status().to_string()),
            Err(_) => Ok(()),
        }
    })
    .await;
    assert!(listener.counted("intention") >= 1.0);
}

/// The proxy may keep a connection open that leads nowhere.
async fn through(url: &str) -> std::io::Result<http::Response<bytes::Bytes>> {
    let asked = tokio::time::timeout(Duration::from_secs(5), http_client::get(url)).await;
    asked.unwrap_or_else(|late| Err(std::io::Error::other(late)))
}
