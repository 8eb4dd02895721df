//! Mutual TLS between services: identities from files and from Consul's authority, on a real Consul and on the embedded
//! agent, with Consul's own proxy as a foreign peer on either side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "mtls/connect.rs"]
mod connect;
#[path = "mtls/files.rs"]
mod files;
#[path = "mtls/foreign.rs"]
mod foreign;
#[path = "mtls/settings.rs"]
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use plinth_core::identity::{Identity, MeshConnector};
use plinth_kit::mtls::Mtls;
use plinth_kit::server::{BoundListener, Peer, ServerSettings, Stop, TlsSource, serve};

const LIMIT: Duration = Duration::from_secs(10);

/// A listener that says who called.
struct Listener {
    address: SocketAddr,
    registry: prometheus::Registry,
    stop: Stop,
}

impl Listener {
    async fn start(mtls: Mtls) -> Self {
        let registry = prometheus::Registry::new();
        mtls.register(&registry).unwrap();
        let tls = TlsSource::mutual(mtls).unwrap();
        let listener = BoundListener::bind("http", "127.0.0.1:0".parse().unwrap(), Some(tls)).await.unwrap();
        let (address, stop) = (listener.address(), Stop::default());
        let caller = get(|Extension(peer): Extension<Peer>| async move {
            let id = peer.caller.as_ref().and_then(|caller| caller.id.as_ref());
            id.map_or_else(|| "nobody".to_owned(), ToString::to_string)
        });
        let router = Router::new().route("/caller", caller);
        tokio::spawn(serve(listener, router, ServerSettings::default(), stop.clone()));
        Self { address, registry, stop }
    }

    fn url(&self) -> String {
        format!("https://{}/caller", self.address)
    }

    /// A counter's value; zero when it was never counted.
    fn counted(&self, reason: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "plinth_mtls_rejected_total");
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let of_reason = metrics.iter().find(|metric| metric.get_label()[0].value() == reason);
        of_reason.map_or(0.0, |metric| metric.get_counter().get_value())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.hard.cancel();
    }
}

type Http = Client<MeshConnector, Empty<Bytes>>;

/// A client whose connections are kept.
fn client(identity: Option<&Identity>, service: &str) -> Http {
    let connector = MeshConnector::new(identity, service, LIMIT).unwrap();
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn ask(client: &Http, url: &str) -> Result<String, String> {
    let told = |error: &dyn std::error::Error| plinth_core::error::chain(error);
    let request = http::Request::get(url).body(Empty::new()).unwrap();
    let answer = tokio::time::timeout(LIMIT, client.request(request)).await.map_err(|error| told(&error))?;
    let answer = answer.map_err(|error| told(&error))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| told(&error))?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status == 200 { Ok(body) } else { Err(format!("{status} {body}")) }
}

/// One request on a connection of its own.
async fn once(identity: Option<&Identity>, service: &str, url: &str) -> Result<String, String> {
    ask(&client(identity, service), url).await
}

/// Constant load: some on connections that are kept, some each on a new one.
struct Load {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(identity: &Identity, service: &'static str, url: String) -> Self {
        let (ended, sent, failures) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let tasks = (0..4)
            .map(|number| {
                let (ended, sent, failures) = (ended.clone(), sent.clone(), failures.clone());
                let (identity, url) = (identity.clone(), url.clone());
                tokio::spawn(async move {
                    let kept = client(Some(&identity), service);
                    while !ended.load(Ordering::Relaxed) {
                        let answer = if number % 2 == 0 {
                            ask(&kept, &url).await
                        } else {
                            once(Some(&identity), service, &url).await
                        };
                        sent.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = answer {
                            failures.lock().push(error);
                        }
                        // Constant, not as much as the machine can.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                })
            })
            .collect();
        Self { ended, sent, failures, tasks }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many requests were sent; none of them failed.
    async fn end(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let failures = self.failures.lock();
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {sent} failed, the first with {}", failures.len(), failures[0]);
        sent
    }
}
