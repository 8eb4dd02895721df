//! The example of typed sections, over core's client.

use std::sync::mpsc;

use plinth_core::config_client::{ConfigClient, ConfigSettings};
use plinth_testbed::{eventually, holds};
use serde_json::Value;

use crate::support::{Consul, DEADLINE, Service};

#[path = "../../examples/typed_sections/sections.rs"]
mod example;

use example::{SectionError, Sections};

crate::on_both! { typed_sections_have_no_default_passwords }

async fn typed_sections_have_no_default_passwords(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let client = || {
        let mut settings = ConfigSettings::new(service.base.parse().unwrap(), "shop");
        settings.environment = "prod".into();
        settings.last_good = Some(folder.path().join("last-good.json"));
        ConfigClient::new(settings).unwrap()
    };
    let missing = Sections::load(&client()).await.unwrap_err();
    assert!(matches!(missing, SectionError::Missing("database.password")), "{missing}");
    service.put("shop/prod/database", r#"{"host":"db1","password":"s3cret"}"#).await.expect(201);
    let missing = Sections::load(&client()).await.unwrap_err();
    assert_eq!(missing.to_string(), "redis.password is not set and has no default");
    service.put("shop/prod/redis", r#"{"password":"t0p"}"#).await.expect(201);

    let client = client();
    let found = Sections::load(&client).await.unwrap();
    assert_eq!((found.database.host.as_str(), found.database.port), ("db1", 5432));
    assert_eq!(found.database.password.expose(), "s3cret");
    assert_eq!((found.database.name.as_str(), found.database.user.as_str()), ("app", "app"));
    assert_eq!(found.database.max_connections, 10);
    assert_eq!((found.redis.host.as_str(), found.redis.port, found.redis.database), ("localhost", 6379, 0));
    assert_eq!(found.redis.password.expose(), "t0p");
    assert_eq!(found.api_gateway.url, "http://localhost:8000");
    assert_eq!(
        (found.api_gateway.admin_url.as_str(), found.api_gateway.timeout_ms),
        ("http://localhost:8001", 30_000)
    );
    assert!(!format!("{found:?}").contains("s3cret"), "secrets are not printed");

    let (sender, received) = mpsc::channel();
    let _watch = client.watch("api_gateway", move |changed: Result<Option<Value>, _>| {
        let _ = sender.send(changed.map_err(|error| error.to_string()));
    });
    service.put("shop/prod/api_gateway", r#"{"url":"http://gateway:8000"}"#).await.expect(201);
    eventually("the callback sees the change", DEADLINE, || async {
        let seen: Vec<_> = received.try_iter().collect();
        let last = seen.last().cloned();
        holds(
            matches!(&last, Some(Ok(Some(value))) if value["url"] == "http://gateway:8000"),
            format!("{seen:?}"),
        )
    })
    .await;
    service.put("shop/prod/api_gateway", r#"{"timeout":1}"#).await.expect(200);
    eventually("a mistyped field is an error", DEADLINE, || async {
        match Sections::load(&client).await {
            Err(SectionError::Section { section: "api_gateway", .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
