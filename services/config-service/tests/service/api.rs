//! The life of items over HTTP.

use http::Method;
use plinth_testbed::{eventually, holds};
use serde_json::json;

use crate::support::{Consul, DEADLINE, Service};

crate::on_both! { an_items_life values_keep_their_spelling lists_and_namespaces }

async fn an_items_life(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let path = "/api/v1/config/shop/prod/database/host";
    service.get(path).await.expect(404);

    let body = r#"{"value":"db1","description":"primary"}"#;
    let created = service.call(Method::PUT, path, &[("if-none-match", "*")], body).await.expect(201);
    assert_eq!(created.etag(), "\"1\"");
    assert_eq!(created.body["key"], "database/host");
    assert_eq!(created.body["namespace"], "shop");
    assert_eq!(created.body["environment"], "prod");
    assert_eq!((&created.body["revision"], &created.body["version"]), (&json!(1), &json!(1)));
    assert_eq!(created.body["description"], "primary");
    assert_eq!(created.body["author"], "anonymous");
    assert_eq!(created.body["modify_index"], created.index());
    assert_eq!(
        consul.kv("shop/prod/database/host").await,
        Some((1, "\"db1\"".into())),
        "plain JSON, Flags = revision"
    );

    let read = service.get(path).await.expect(200);
    assert_eq!(read.body["value"], created.body["value"], "read your writes");
    eventually("whole, with its history", DEADLINE, || async {
        let read = service.get(path).await;
        holds(read.body == created.body, format!("{read:?}"))
    })
    .await;
    assert_eq!(read.headers["x-plinth-snapshot-age"], "0");
    service.call(Method::GET, path, &[("if-none-match", "\"1\"")], "").await.expect(304);

    service.call(Method::PUT, path, &[("if-none-match", "*")], body).await.expect(412);
    let stale = service.call(Method::PUT, path, &[("if-match", "\"9\"")], body).await.expect(412);
    assert_eq!(stale.etag(), "\"1\"");
    assert_eq!(stale.headers["content-type"], "application/problem+json");

    let changed =
        service.call(Method::PUT, path, &[("if-match", "\"1\"")], r#"{"value":"db2"}"#).await.expect(200);
    assert_eq!(changed.body["description"], "primary", "an absent description stays");
    assert_eq!(changed.body["created_at"], created.body["created_at"]);
    let repeated = service.call(Method::PUT, path, &[], r#"{"value":"db2"}"#).await.expect(200);
    assert_eq!(repeated.etag(), "\"2\"", "no change, no revision");

    service.call(Method::DELETE, path, &[("if-match", "\"1\"")], "").await.expect(412);
    let deleted = service.call(Method::DELETE, path, &[("if-match", "\"2\"")], "").await.expect(204);
    assert!(deleted.index() > changed.index());
    service.get(path).await.expect(404);
    assert_eq!(consul.kv("shop/prod/database/host").await, None);
    service.call(Method::DELETE, path, &[], "").await.expect(404);

    let back = service.put("shop/prod/database/host", "3").await.expect(201);
    assert_eq!(back.etag(), "\"4\"", "revisions are never used twice");

    let history = service.get("/api/v1/history/shop/prod/database/host").await.expect(200);
    let kinds: Vec<_> =
        history.body["revisions"].as_array().unwrap().iter().map(|r| (&r["revision"], &r["kind"])).collect();
    let expected =
        [(4, "put"), (3, "delete"), (2, "put"), (1, "put")].map(|(n, kind)| (json!(n), json!(kind)));
    assert_eq!(kinds, expected.iter().map(|(n, kind)| (n, kind)).collect::<Vec<_>>());
    let page = service.get("/api/v1/history/shop/prod/database/host?limit=1&before=3").await.expect(200);
    assert_eq!(page.body["revisions"][0]["value"], "db2");
    assert_eq!(page.body["revisions"].as_array().unwrap().len(), 1);
    service.get("/api/v1/history/shop/prod/never").await.expect(404);
}

async fn values_keep_their_spelling(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    for (n, value) in
        ["{\"z\":1,\"a\":[1.10,12345678901234567890123]}", "null", "\"ü\\u0000\"", "[]"].iter().enumerate()
    {
        service.put(&format!("a/b/k{n}"), value).await.expect(201);
        let url = format!("{}/api/v1/config/a/b/k{n}", service.base);
        let answer = plinth_testbed::http_client::get(&url).await.unwrap();
        let text = String::from_utf8(answer.body().to_vec()).unwrap();
        assert!(text.contains(&format!("\"value\":{value},")), "{text}");
        assert_eq!(consul.kv(&format!("a/b/k{n}")).await.unwrap().1, *value);
    }
}

async fn lists_and_namespaces(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    for item in ["shop/prod/b", "shop/prod/db/host", "shop/prod/db/port", "shop/test/b", "cms/prod/b"] {
        service.put(item, "1").await.expect(201);
    }
    let keys = |body: &serde_json::Value| -> Vec<String> {
        body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = service.get("/api/v1/config/shop/prod").await.expect(200);
    assert_eq!(keys(&all.body), ["b", "db/host", "db/port"]);
    assert_eq!(all.body["index"], all.index());
    assert_eq!(keys(&service.get("/api/v1/config/shop/prod?prefix=db/").await.body), ["db/host", "db/port"]);
    assert_eq!(keys(&service.get("/api/v1/config/none/prod").await.expect(200).body), [""; 0]);
    let namespaces = service.get("/api/v1/config").await.expect(200);
    assert_eq!(
        namespaces.body["namespaces"],
        json!([
            {"namespace": "cms", "environment": "prod", "items": 1},
            {"namespace": "shop", "environment": "prod", "items": 3},
            {"namespace": "shop", "environment": "test", "items": 1},
        ])
    );
}
