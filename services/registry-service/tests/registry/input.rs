//! Bad input, and what every service serves.

use http::{Method, StatusCode};
use plinth_testbed::{eventually, holds, http_client};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Platform, instance};

pub async fn bad_input_is_named(platform: Platform) {
    let replica = platform.replica("a").await;
    let owner = platform.owner("team");
    let with = |member: &str, value: Value| {
        let mut body = instance("user-service", "u-1");
        body[member] = value;
        body
    };
    let table = [
        (json!({}), "service_name"),
        (json!({"service_name": "a", "port": 1}), "address"),
        (json!({"service_name": "a", "address": "10.0.0.1"}), "port"),
        (with("service_name", json!("")), "service_name"),
        (with("service_name", json!("not a name")), "service_name"),
        (with("service_name", json!("x".repeat(300))), "service_name"),
        (with("service_id", json!("")), "service_id"),
        (with("service_id", json!("discover")), "service_id"),
        (with("service_id", json!("x".repeat(300))), "service_id"),
        (with("address", json!("0.0.0.0")), "address"),
        (with("address", json!("::")), "address"),
        (with("address", json!("239.1.2.3")), "address"),
        (with("address", json!("http://10.0.0.1")), "address"),
        (with("address", json!("10.0.0.1:80")), "address"),
        (with("port", json!(0)), "port"),
        (with("port", json!(65_536)), "port"),
        (with("port", json!(-1)), "port"),
        (with("port", json!("80")), "port"),
        (with("health_check", json!("health")), "health_check"),
        (with("tags", json!("a")), "tags"),
        (with("tags", json!([1])), "tags[0]"),
        (with("metadata", json!([])), "metadata"),
        (with("weight", json!(0)), "weight"),
        (with("colour", json!("red")), "colour"),
        (with("check", json!({"type": "smtp"})), "check.type"),
        (with("check", json!({"type": "http", "interval": "soon"})), "check.interval"),
        (with("check", json!({"type": "ttl"})), "check.ttl"),
        (with("check", json!({"type": "http", "path": "x"})), "check.path"),
    ];
    for (body, field) in table {
        let answer = owner.register(&replica, body.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {answer:?}");
        assert!(answer.faults().iter().any(|found| found == field), "{body}: {answer:?}");
    }
    for (ttl, bad) in [("9s", true), ("10s", false), ("24h", false), ("25h", true)] {
        let answer = owner.register(&replica, with("check", json!({"type": "ttl", "ttl": ttl}))).await;
        assert_eq!(answer.status == StatusCode::BAD_REQUEST, bad, "{ttl}: {answer:?}");
    }
    let differs = owner.put(replica.url("/api/v1/services/u-2"), instance("user-service", "u-1")).await;
    assert_eq!((differs.status, differs.faults()), (StatusCode::BAD_REQUEST, vec!["service_id".to_owned()]));

    for (query, field) in
        [("healthy_only=maybe", "healthy_only"), ("index=x", "index"), ("index=1&wait=x", "wait")]
    {
        let answer = owner.get(replica.url(&format!("/api/v1/services/discover/user-service?{query}"))).await;
        assert_eq!(
            (answer.status, answer.faults()),
            (StatusCode::BAD_REQUEST, vec![field.to_owned()]),
            "{query}"
        );
    }
    for (method, path, status) in [
        (Method::GET, "/api/v1/nothing", 404),
        (Method::DELETE, "/api/v1/services/register", 405),
        (Method::PATCH, "/api/v1/services/u-1", 405),
    ] {
        let answer = owner.send(method.clone(), &replica.url(path), None).await;
        assert_eq!(answer.status, status, "{method} {path}");
        answer.faults();
    }
    let url = replica.url("/api/v1/services/register");
    let bearer = owner.bearer();
    for (content_type, body, status) in [
        ("application/json", "{".to_owned(), 400),
        ("application/json", String::new(), 400),
        ("text/plain", "{}".to_owned(), 415),
        // Just over the limit of 2 MiB: the whole body is on its way before the refusal can close the connection.
        ("application/json", format!("{{\"service_name\":\"{}\"}}", "x".repeat(2 << 20)), 413),
    ] {
        let headers = [("content-type", content_type), ("authorization", bearer.as_str())];
        let answer = http_client::send(Method::POST, &url, &headers, body).await.unwrap();
        assert_eq!(answer.status(), status, "{content_type}: {:?}", answer.body());
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
}

pub async fn what_kit_serves_is_there(platform: Platform) {
    let replica = platform.replica("a").await;
    let document = http_client::get(&replica.url("/openapi.json")).await.unwrap();
    let document: Value = serde_json::from_slice(document.body()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in [
        ("/api/v1/services", vec!["get"]),
        ("/api/v1/services/register", vec!["post"]),
        ("/api/v1/services/discover/{service_name}", vec!["get"]),
        ("/api/v1/services/{service_id}", vec!["get", "put", "delete"]),
        ("/api/v1/services/{service_id}/heartbeat", vec!["put"]),
    ] {
        for method in methods {
            let responses = paths[path][method]["responses"].as_object().unwrap();
            let problem = &responses["401"]["content"]["application/problem+json"]["schema"];
            assert_eq!(problem["$ref"], "#/components/schemas/Problem", "{method} {path}");
        }
    }
    let owner = platform.owner("team");
    owner.register(&replica, instance("a", "a-1")).await;
    owner.get(replica.url("/api/v1/services/discover/a")).await;
    let metrics = http_client::get(&replica.url("/metrics")).await.unwrap();
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    for line in [
        "registry_registrations_total",
        "registry_discover_requests_total",
        "registry_snapshot_age_seconds",
        "registry_watches",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    eventually("no health-aggregator runs here", DEADLINE, || async {
        let health = http_client::get(&replica.url("/health")).await.map_err(|error| error.to_string())?;
        let health: Value = serde_json::from_slice(health.body()).map_err(|error| error.to_string())?;
        let of = |check: &str| health["checks"][check]["status"].clone();
        let right =
            health["status"] == "degraded" && of("consul") == "pass" && of("health_aggregator") == "fail";
        holds(right, health.to_string())
    })
    .await;
    assert_eq!(http_client::get(&replica.url("/docs/")).await.unwrap().status(), 200);
}
