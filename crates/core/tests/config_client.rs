//! The configuration client against a scripted configuration service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use plinth_core::config_client::{ConfigClient, ConfigSettings, ConfigStatus, Origin};
use plinth_core::consul::Address;
use plinth_core::{Error, Secret};
use plinth_testbed::chaos::{Mode, Proxy};
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, holds};
use serde_json::{Value, json};
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(10);

/// One key with long polls, as the configuration service answers them.
struct Service {
    upstream: Upstream,
    proxy: Proxy,
    state: watch::Sender<(u64, Option<Value>)>,
}

impl Service {
    async fn start(value: Option<Value>) -> Self {
        let upstream = Upstream::start().await;
        let proxy = Proxy::start(upstream.addr).await;
        let state = watch::Sender::new((7, value));
        let source = state.clone();
        upstream.respond(move |request| answer(request, source.subscribe()));
        Self { upstream, proxy, state }
    }

    fn set(&self, value: Option<Value>) {
        self.state.send_modify(|(index, current)| {
            *index += 1;
            *current = value;
        });
    }

    fn settings(&self) -> ConfigSettings {
        ConfigSettings {
            environment: "prod".into(),
            token: Some(Secret::new("t0ken")),
            request_timeout: Duration::from_secs(2),
            wait: Duration::from_secs(1),
            ..ConfigSettings::new(Address::Http(self.proxy.addr().to_string()), "shop")
        }
    }

    fn client(&self) -> ConfigClient {
        ConfigClient::new(self.settings()).unwrap()
    }
}

async fn answer(
    request: Request<Bytes>,
    mut state: watch::Receiver<(u64, Option<Value>)>,
) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let number = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).map(str::to_owned);
    if let Some(after) = number("index=").and_then(|text| text.parse::<u64>().ok()) {
        assert_eq!(number("wait=").as_deref(), Some("1s"));
        let changed = state.wait_for(|(index, _)| *index > after);
        let _unchanged = tokio::time::timeout(Duration::from_secs(1), changed).await;
    }
    let (index, value) = state.borrow().clone();
    let builder = Response::builder().header("x-plinth-index", index);
    match value {
        Some(value) => {
            let item = json!({"key": "limits/max", "value": value, "revision": index, "modify_index": index,
                "description": null, "created_at": "2026-01-02T03:04:05Z", "namespace": "shop"});
            builder.body(Full::from(item.to_string())).unwrap()
        }
        None => builder.status(404).body(Full::from("{}")).unwrap(),
    }
}

async fn becomes(client: &ConfigClient, wanted: u32) {
    eventually("the value arrives", SOON, || async {
        let found: u32 = client.get("limits/max", 0).await.map_err(|error| error.to_string())?;
        holds(found == wanted, format!("{found}"))
    })
    .await;
}

#[tokio::test]
async fn reads_types_defaults_and_changes() {
    let service = Service::start(None).await;
    let client = service.client();
    assert_eq!(client.get("limits/max", 5u32).await.unwrap(), 5);
    assert_eq!(client.find::<u32>("limits/max").await.unwrap(), None);
    service.set(Some(json!(10)));
    becomes(&client, 10).await;

    let requests = service.upstream.requests();
    let first = &requests[0];
    assert_eq!(first.uri().path(), "/api/v1/config/shop/prod/limits/max");
    assert_eq!(first.headers()["authorization"], "Bearer t0ken");

    // Served from memory: many reads, no request.
    let before = service.upstream.requests().len();
    for _ in 0..100 {
        assert_eq!(client.get("limits/max", 0u32).await.unwrap(), 10);
    }
    assert!(service.upstream.requests().len() <= before + 1, "only the poll asks");
    assert_eq!(client.get_with("limits/max", 0u32, false).await.unwrap(), 10);
    assert!(service.upstream.requests().len() > before);

    let error = client.get("limits/max", String::new()).await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error}");
}

#[tokio::test]
async fn calls_back_once_per_change() {
    let service = Service::start(Some(json!(1))).await;
    let client = service.client();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let watching = client.watch::<u32, _>("limits/max", move |value| {
        sender.send(value.map_err(|error| error.to_string())).unwrap();
    });
    let mut next = async || tokio::time::timeout(SOON, seen.recv()).await.expect("a call back").unwrap();
    assert_eq!(next().await, Ok(Some(1)));
    for value in 2..5 {
        service.set(Some(json!(value)));
        assert_eq!(next().await, Ok(Some(value)));
    }
    // Written again with the same value: no call, so the next one is the deletion.
    service.set(Some(json!(4)));
    eventually("the poll has seen it", SOON, || async {
        let known = client.known("limits/max").await.unwrap().item.unwrap();
        holds(known.revision == service.state.borrow().0, format!("{}", known.revision))
    })
    .await;
    service.set(None);
    assert_eq!(next().await, Ok(None));
    service.set(Some(json!("text")));
    assert!(next().await.is_err(), "a value of another type is handed over as an error");
    service.set(Some(json!(9)));
    assert_eq!(next().await, Ok(Some(9)));
    drop(watching);
    service.set(Some(json!(10)));
    assert!(tokio::time::timeout(SOON, seen.recv()).await.expect("the end, not a call").is_none());
}

#[tokio::test]
async fn outlives_the_service() {
    let service = Service::start(Some(json!(1))).await;
    let client = service.client();
    becomes(&client, 1).await;
    for mode in [Mode::Refuse, Mode::Status500, Mode::BlackHole] {
        eventually("it is live", SOON, || async {
            let status = client.status();
            holds(status == ConfigStatus { watched: 1, unconfirmed: 0 }, format!("{status:?}"))
        })
        .await;
        service.proxy.set(mode);
        eventually("the loss is known", SOON, || async {
            let status = client.status();
            holds(status.unconfirmed == 1, format!("{mode:?} {status:?}"))
        })
        .await;
        let known = client.known("limits/max").await.unwrap();
        assert_eq!((known.origin, known.item.unwrap().value), (Origin::Stale, json!(1)));
        assert!(client.get_with("limits/max", 0u32, false).await.unwrap_err().is_unavailable());
        service.proxy.set(Mode::Pass);
    }
    service.set(Some(json!(2)));
    becomes(&client, 2).await;
}

fn with_file(service: &Service, path: &Path) -> Result<ConfigClient, Error> {
    ConfigClient::new(ConfigSettings { last_good: Some(path.to_owned()), ..service.settings() })
}

#[tokio::test]
async fn starts_from_the_last_good_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last-good.json");
    let service = Service::start(Some(json!(42))).await;
    let client = with_file(&service, &path).unwrap();
    becomes(&client, 42).await;
    eventually("the file is written", SOON, || async { std::fs::metadata(&path).map(drop) }).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(client);

    service.proxy.set(Mode::Refuse);
    let offline = with_file(&service, &path).unwrap();
    assert_eq!(offline.get("limits/max", 0u32).await.unwrap(), 42);
    assert_eq!(offline.known("limits/max").await.unwrap().origin, Origin::File);
    let error = offline.get("other", 0u32).await.unwrap_err();
    assert!(error.is_unavailable(), "a default would hide that nothing is known: {error}");
    assert!(service.client().get("limits/max", 0u32).await.unwrap_err().is_unavailable());

    service.proxy.set(Mode::Pass);
    service.set(Some(json!(43)));
    becomes(&offline, 43).await;
    eventually("the file follows", SOON, || async {
        let text = std::fs::read_to_string(&path).unwrap();
        holds(text.contains("43"), text.clone())
    })
    .await;

    let foreign = folder.path().join("foreign");
    std::fs::write(&foreign, "not ours").unwrap();
    assert!(matches!(with_file(&service, &foreign), Err(Error::Document { .. })));
}
