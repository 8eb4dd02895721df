//! Bad input is answered with problem documents that name the field.

use http::Method;
use serde_json::Value;

use crate::support::{Consul, Service, spawn};

crate::on_both! { every_fault_names_its_field }

/// Method, path, a header, body, and the fields that are named.
type Case<'a> = (Method, &'a str, (&'a str, &'a str), &'a str, &'a [&'a str]);

fn fields(body: &Value) -> Vec<&str> {
    body["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

async fn every_fault_names_its_field(consul: Consul) {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(consul.addr(), folder.path(), "config", &[]).await;
    let large = format!("{{\"value\":\"{}\"}}", "x".repeat(256 * 1024 - 1));
    let long = format!("{{\"value\":1,\"description\":\"{}\"}}", "x".repeat(1025));
    let ok = "{\"value\":1}";
    let cases: [Case<'_>; 12] = [
        (Method::PUT, "/api/v1/config/Shop/prod/k", ("x-a", "b"), ok, &["namespace"]),
        (
            Method::PUT,
            "/api/v1/config/Shop/p%20/k..%2F",
            ("x-a", "b"),
            ok,
            &["namespace", "environment", "key"],
        ),
        (Method::PUT, "/api/v1/config/shop/prod/a%2F..%2Fb", ("x-a", "b"), ok, &["key"]),
        (Method::PUT, "/api/v1/config/shop/prod/k", ("x-a", "b"), "{}", &["value"]),
        (Method::PUT, "/api/v1/config/shop/prod/k", ("x-a", "b"), "{\"value\":1,\"extra\":2}", &["extra"]),
        (Method::PUT, "/api/v1/config/shop/prod/k", ("x-a", "b"), &large, &["value"]),
        (Method::PUT, "/api/v1/config/shop/prod/k", ("x-a", "b"), &long, &["description"]),
        (Method::PUT, "/api/v1/config/shop/prod/k", ("if-match", "abc"), ok, &["If-Match"]),
        (Method::PUT, "/api/v1/config/shop/prod/k", ("if-none-match", "\"1\""), ok, &["If-None-Match"]),
        (Method::GET, "/api/v1/config/shop/prod?index=1&wait=soon", ("x-a", "b"), "", &["wait"]),
        (Method::GET, "/api/v1/config/shop/prod?wait=1s", ("x-a", "b"), "", &["index"]),
        (Method::GET, "/api/v1/history/shop/prod/k?limit=0", ("x-a", "b"), "", &["limit"]),
    ];
    for (method, path, header, body, expected) in cases {
        let answer = service.call(method, path, &[header], body).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        assert_eq!(fields(&answer.body), expected, "{path}");
    }
    service.call(Method::PUT, "/api/v1/config/shop/prod/k", &[], "{\"value\":").await.expect(400);
    service.call(Method::POST, "/api/v1/config/shop/prod/k", &[], ok).await.expect(405);
    service.get("/api/v1/nothing").await.expect(404);
    service.get("/api/v1/config/shop/prod/k").await.expect(404);
    assert_eq!(consul.kv("shop/prod/k").await, None, "nothing of it was written");
    let largest = format!("\"{}\"", "x".repeat(256 * 1024 - 2));
    service.put("shop/prod/k", &largest).await.expect(201);
    assert_eq!(service.value("shop/prod/k").await.as_str().unwrap().len(), 256 * 1024 - 2);
}

#[tokio::test]
async fn bad_settings_end_the_process_with_64_and_name_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let flags = ["--database-url", "mysql://user:hunter2@host/db", "--watch-max", "0"];
    let mut process = spawn(nowhere, folder.path(), "config", &flags);
    assert_eq!(process.wait(crate::support::DEADLINE).code(), Some(64));
    let output = process.output();
    assert!(output.contains("database-url") || output.contains("database.url"), "{output}");
    assert!(output.contains("watch"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
}
