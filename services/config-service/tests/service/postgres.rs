//! PostgreSQL killed and brought back.

use http::StatusCode;
use plinth_testbed::postgres::Postgres;
use plinth_testbed::{eventually, holds};

use crate::support::{Consul, DEADLINE, Service};

crate::on_both! { postgres_killed_and_back starts_before_its_database }

async fn postgres_killed_and_back(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start().await;
    let url = postgres.url();
    let flags = ["--database-url", url.as_str(), "--database-acquire-timeout", "500ms"];
    let service = Service::start(consul.addr(), folder.path(), "config", &flags).await;
    service.put("shop/prod/k", "1").await.expect(201);
    postgres.kill();
    let refused = service.put("shop/prod/k", "2").await.expect(503);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert!(!refused.body["detail"].as_str().unwrap().contains("127.0.0.1"), "{:?}", refused.body);
    assert_eq!(service.value("shop/prod/k").await, 1, "reads go on");
    service.get("/api/v1/history/shop/prod/k").await.expect(503);
    let health = service.get("/health").await;
    assert_eq!(health.body["checks"]["sql"]["status"], "fail", "{:?}", health.body);
    consul.kv_put("shop/prod/k", "7").await;
    eventually("an edit shows without its history", DEADLINE, || async {
        let answer = service.get("/api/v1/config/shop/prod/k").await.expect(200);
        holds(answer.body["value"] == 7 && answer.body["author"].is_null(), format!("{answer:?}"))
    })
    .await;
    postgres.start_again().await;
    eventually("writes are taken again", DEADLINE, || async {
        let answer = service.put("shop/prod/k", "3").await;
        holds(answer.status == StatusCode::OK, format!("{answer:?}"))
    })
    .await;
    assert_eq!(service.value("shop/prod/k").await, 3);
}

async fn starts_before_its_database(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start().await;
    let url = postgres.url();
    postgres.kill();
    let service = Service::launch(consul.addr(), folder.path(), "config", &["--database-url", &url]).await;
    service.get("/health/ready").await.expect(503);
    service.put("shop/prod/k", "1").await.expect(503);
    postgres.start_again().await;
    eventually("it becomes ready", DEADLINE, || async {
        let answer = service.get("/health/ready").await;
        holds(answer.status == StatusCode::OK, format!("{answer:?}"))
    })
    .await;
    service.put("shop/prod/k", "1").await.expect(201);
}
