//! Core's configuration client over the running service.

use std::path::Path;
use std::time::Duration;

use http::Method;
use plinth_core::Error;
use plinth_core::config_client::{ConfigClient, ConfigSettings, ConfigStatus, Known, Origin};
use plinth_testbed::{PortLease, eventually, holds};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{Consul, DEADLINE, Service};

crate::on_both! {
    reads_are_typed_cached_and_follow
    a_watch_calls_back_once_per_change
    a_client_outlives_its_service
    a_wrong_address_is_no_empty_configuration
}

fn client(service: &Service, last_good: Option<&Path>) -> ConfigClient {
    ConfigClient::new(ConfigSettings {
        environment: "prod".into(),
        request_timeout: Duration::from_secs(3),
        last_good: last_good.map(Path::to_owned),
        ..ConfigSettings::new(service.base.parse().unwrap(), "shop")
    })
    .unwrap()
}

async fn becomes(client: &ConfigClient, key: &str, wanted: u32) {
    eventually("the value arrives", DEADLINE, || async {
        let found: u32 = client.get(key, 0).await.map_err(|error| error.to_string())?;
        holds(found == wanted, format!("{found}"))
    })
    .await;
}

async fn is_confirmed(client: &ConfigClient, wanted: bool) {
    eventually("the client notices", DEADLINE, || async {
        let status = client.status();
        let unconfirmed = if wanted { 0 } else { status.watched };
        holds(status.unconfirmed == unconfirmed, format!("{status:?}"))
    })
    .await;
}

async fn reads_are_typed_cached_and_follow(consul: Consul) {
    #[derive(Debug, Deserialize, PartialEq, Default)]
    struct Pool {
        host: String,
        size: u16,
    }
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let client = client(&service, None);
    assert_eq!(client.get("limits/max", 5u32).await.unwrap(), 5, "the default");
    assert_eq!(client.find::<u32>("limits/max").await.unwrap(), None);

    service.put("shop/prod/limits/max", "10").await.expect(201);
    service.put("shop/prod/pool", r#"{"host":"db1","size":8}"#).await.expect(201);
    service.put("shop/test/limits/max", "99").await.expect(201);
    assert_eq!(client.get_with("limits/max", 5u32, false).await.unwrap(), 10, "past the cache, at once");
    becomes(&client, "limits/max", 10).await;
    let pool: Pool = client.get("pool", Pool::default()).await.unwrap();
    assert_eq!(pool, Pool { host: "db1".into(), size: 8 });
    let mistyped = client.get("pool", 1u32).await.unwrap_err();
    assert!(matches!(mistyped, Error::Decode { .. }), "{mistyped}");
    let invalid = client.get("no key!", 1u32).await.unwrap_err();
    assert_eq!(invalid.status(), Some(400), "not the default: {invalid}");

    let known = client.known("limits/max").await.unwrap();
    let item = known.item.unwrap();
    assert_eq!((known.origin, item.key.as_str(), item.revision), (Origin::Live, "limits/max", 1));
    assert!(item.modify_index > 0);
    // The service answers without times and author when its history is slow, and has them a second later.
    eventually("it has its times", DEADLINE, || async {
        let read = client.read("limits/max").await.map_err(|error| error.to_string())?;
        holds(read.as_ref().is_some_and(|item| item.created_at.is_some()), format!("{read:?}"))
    })
    .await;

    service.put("shop/prod/limits/max", "11").await.expect(200);
    becomes(&client, "limits/max", 11).await;
    service.call(Method::DELETE, "/api/v1/config/shop/prod/limits/max", &[], "").await.expect(204);
    becomes(&client, "limits/max", 0).await;
}

type Seen = UnboundedReceiver<Result<Option<u32>, String>>;

async fn next(seen: &mut Seen) -> Result<Option<u32>, String> {
    tokio::time::timeout(DEADLINE, seen.recv()).await.expect("a call back").expect("the watch goes on")
}

async fn a_watch_calls_back_once_per_change(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let client = client(&service, None);
    let (sender, mut seen) = unbounded_channel();
    let watching = client.watch::<u32, _>("k", move |value| {
        sender.send(value.map_err(|error| error.to_string())).unwrap();
    });
    assert_eq!(next(&mut seen).await, Ok(None));
    service.put("shop/prod/k", "1").await.expect(201);
    assert_eq!(next(&mut seen).await, Ok(Some(1)));
    service.put("shop/prod/other", "1").await.expect(201);
    service.put("shop/prod/k", "2").await.expect(200);
    assert_eq!(next(&mut seen).await, Ok(Some(2)), "another key's change is none");
    service.call(Method::DELETE, "/api/v1/config/shop/prod/k", &[], "").await.expect(204);
    assert_eq!(next(&mut seen).await, Ok(None));
    service.put("shop/prod/k", "\"text\"").await.expect(201);
    assert!(next(&mut seen).await.is_err(), "a value of another type is handed over as an error");
    service.put("shop/prod/k", "3").await.expect(200);
    assert_eq!(next(&mut seen).await, Ok(Some(3)));
    drop(watching);
    assert!(tokio::time::timeout(DEADLINE, seen.recv()).await.expect("the end").is_none());
}

async fn a_client_outlives_its_service(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let last_good = folder.path().join("last-good.json");
    let lease = PortLease::take();
    let address = format!("127.0.0.1:{}", lease.port());
    let same_port = ["--listen", address.as_str()];
    let mut service = Service::start(consul.addr(), folder.path(), "config", &same_port).await;
    service.put("shop/prod/k", "1").await.expect(201);
    let old = client(&service, Some(&last_good));
    becomes(&old, "k", 1).await;
    assert_eq!(old.get("absent", 7u32).await.unwrap(), 7);
    let (sender, mut seen) = unbounded_channel();
    let _watching = old.watch::<u32, _>("k", move |value| {
        sender.send(value.map_err(|error| error.to_string())).unwrap();
    });
    assert_eq!(next(&mut seen).await, Ok(Some(1)));

    for (value, crash) in [(2, true), (3, false)] {
        is_confirmed(&old, true).await;
        eventually("the file has both answers", DEADLINE, || async {
            let text = std::fs::read(&last_good).map_err(|error| error.to_string())?;
            let file: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            let both = file["k"]["value"] == value - 1 && file.get("absent") == Some(&Value::Null);
            holds(both, file.to_string())
        })
        .await;
        if crash {
            service.process.kill();
        } else {
            assert!(service.process.terminate(Duration::from_secs(5)).success());
        }
        is_confirmed(&old, false).await;
        let known = old.known("k").await.unwrap();
        assert_eq!((known.origin, known.item.unwrap().value), (Origin::Stale, json!(value - 1)));
        assert_eq!(old.get("k", 0u32).await.unwrap(), value - 1);
        assert!(old.get_with("k", 0u32, false).await.unwrap_err().is_unavailable());

        // A file belongs to one client.
        let copy = folder.path().join(format!("copy-{value}.json"));
        std::fs::copy(&last_good, &copy).unwrap();
        let new = client(&service, Some(&copy));
        let kept = new.known("k").await.unwrap();
        assert_eq!((kept.origin, kept.item.unwrap().value), (Origin::File, json!(value - 1)));
        assert_eq!(new.get("absent", 7u32).await.unwrap(), 7, "known to be absent: the default");
        assert_eq!(new.known("absent").await.unwrap(), Known { item: None, origin: Origin::File });
        let unknown = new.get("never-asked", 7u32).await.unwrap_err();
        assert!(unknown.is_unavailable(), "a default would hide that nothing is known: {unknown}");

        service = Service::start(consul.addr(), folder.path(), "config", &same_port).await;
        for client in [&old, &new] {
            eventually("the client is back", DEADLINE, || async {
                let known = client.known("k").await.map_err(|error| error.to_string())?;
                holds(known.origin == Origin::Live, format!("{known:?}"))
            })
            .await;
        }
        service.put("shop/prod/k", &value.to_string()).await.expect(200);
        becomes(&old, "k", value).await;
        becomes(&new, "k", value).await;
        assert_eq!(next(&mut seen).await, Ok(Some(value)), "one call per change, none for the outage");
    }
}

async fn a_wrong_address_is_no_empty_configuration(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let last_good = folder.path().join("last-good.json");
    std::fs::write(&last_good, r#"{"k":{"key":"k","value":1,"revision":1}}"#).unwrap();
    // Consul answers 404 to the service's paths, as any other server does.
    let client = ConfigClient::new(ConfigSettings {
        last_good: Some(last_good.clone()),
        ..ConfigSettings::new(consul.addr().to_string().parse().unwrap(), "shop")
    })
    .unwrap();
    let error = client.get_with("k", 9u32, false).await.unwrap_err();
    assert_eq!(error.status(), Some(404), "{error}");
    assert_eq!(client.get("absent", 9u32).await.unwrap_err().status(), Some(404));
    eventually("the file's value is served", DEADLINE, || async {
        let found = client.get("k", 9u32).await.map_err(|error| error.to_string())?;
        holds(found == 1, format!("{found}"))
    })
    .await;
    assert_eq!(client.status(), ConfigStatus { watched: 2, unconfirmed: 2 });
    assert!(std::fs::read_to_string(&last_good).unwrap().contains("\"value\":1"), "the file is left alone");
}
