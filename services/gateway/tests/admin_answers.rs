//! What the Admin API tells: why a request goes where it goes, faults by entity, bodies it takes, health set by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use harness::{Gateway, config};
use http::{Method, Response};
use plinth_testbed::http_client;
use plinth_testbed::upstream::Upstream;
use serde_json::{Value, json};

use bytes::Bytes;

fn body(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body())
        .unwrap_or_else(|error| panic!("{error}: {} {:?}", answer.status(), answer.body()))
}

async fn call(gateway: &Gateway, method: Method, path: &str, kind: &str, text: &str) -> Response<Bytes> {
    let url = format!("http://{}{path}", gateway.admin);
    http_client::send(method, &url, &[("content-type", kind)], text.to_owned()).await.unwrap()
}

async fn explained(gateway: &Gateway, query: &str) -> Value {
    let answer = call(gateway, Method::GET, &format!("/explain{query}"), "", "").await;
    assert_eq!(answer.status(), 200, "{query}: {:?}", answer.body());
    body(&answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_the_route_its_rivals_its_plugins_and_its_targets() {
    let upstream = Upstream::start().await;
    let text = json!({
        "_format_version": "3.0",
        "plugins": [
            {"name": "cors"},
            {"name": "rate-limiting", "config": {"minute": 5, "policy": "local"}},
        ],
        "services": [{
            "name": "users", "url": format!("http://{}/base", upstream.addr),
            "plugins": [{"name": "rate-limiting", "config": {"minute": 9, "policy": "local"}}],
            "routes": [
                {"name": "short", "paths": ["/api"]},
                {"name": "long", "paths": ["/api/users"], "strip_path": true},
                {"name": "number", "paths": ["~/api/users/(?<id>\\d+)$"], "methods": ["GET"], "strip_path": false},
                {"name": "safe", "paths": ["/safe"], "protocols": ["https"], "https_redirect_status_code": 301},
                {"name": "host", "hosts": ["only.example"], "paths": ["/api/users"]},
            ],
        }],
    });
    let gateway = Gateway::start(&text.to_string()).await;

    let told = explained(&gateway, "?path=/api/users/7").await;
    assert_eq!((&told["route"]["name"], &told["route"]["captures"]["id"]), (&json!("number"), &json!("7")));
    assert_eq!(told["outcome"], "proxied to users");
    assert_eq!(told["route"]["matched"]["methods"], json!(["GET"]));
    let rivals: Vec<_> = told["competitors"].as_array().unwrap().iter().collect();
    let why = |name: &str| {
        let rival = rivals.iter().find(|rival| rival["route"]["name"] == name);
        rival.unwrap_or_else(|| panic!("{name} is no rival: {told}"))["why"].clone()
    };
    assert_eq!(why("long"), "has 1 kinds of criteria, the chosen route 2");
    let plugins: Vec<_> = told["plugins"].as_array().unwrap().iter().collect();
    let limits: Vec<_> = plugins
        .iter()
        .filter(|plugin| plugin["name"] == "rate-limiting")
        .map(|plugin| (plugin["scope"].clone(), plugin["runs"].clone()))
        .collect();
    assert_eq!(limits, [(json!("service"), json!(true)), (json!("global"), json!(false))]);
    assert_eq!(plugins[0]["name"], "cors", "in order of priority");
    assert_eq!(told["upstream"]["path"], "/base/api/users/7");
    assert_eq!(told["upstream"]["targets"][0]["address"], upstream.addr.to_string());

    // It tells what happens: the same questions asked of the proxy.
    let told = explained(&gateway, "?path=/api/users/x").await;
    assert_eq!((&told["route"]["name"], &told["upstream"]["path"]), (&json!("long"), &json!("/base/x")));
    assert_eq!(gateway.get("/api/users/x").await.status(), 200);
    assert_eq!(upstream.requests().last().unwrap().uri().path(), "/base/x");
    let told = explained(&gateway, "?path=/api/users/x&host=only.example").await;
    assert_eq!(told["route"]["name"], "host");
    assert_eq!(explained(&gateway, "?path=/safe").await["outcome"], "301 to https");
    assert_eq!(gateway.get("/safe").await.status(), 301);
    assert_eq!(explained(&gateway, "?path=/safe&scheme=https").await["outcome"], "proxied to users");
    let told = explained(&gateway, "?path=/nowhere").await;
    assert_eq!((&told["route"], told["outcome"].as_str().unwrap().starts_with("404")), (&Value::Null, true));
    assert_eq!(upstream.requests().len(), 1, "nothing is sent");

    for (query, named) in
        [("?path=x", "path"), ("?scheme=ftp", "scheme"), ("?header=a", "header"), ("?hots=a", "hots")]
    {
        let answer = call(&gateway, Method::GET, &format!("/explain{query}"), "", "").await;
        assert_eq!(answer.status(), 400);
        assert!(body(&answer)["message"].as_str().unwrap().contains(named), "{query}: {:?}", answer.body());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_listed_by_entity_when_asked_for() {
    let gateway = Gateway::start(&config(&[], "")).await;
    let text = "_format_version: \"3.0\"\nservices:\n- name: a\n  url: http://h\n  tags: [team]\n  retries: -1\n  routes:\n  - name: r\n    \
        paths: [\"/x\"]\n    protocols: [gopher]\n    wrong: 1\n";
    let answer = call(&gateway, Method::POST, "/config?flatten_errors=1", "text/yaml", text).await;
    assert_eq!(answer.status(), 400);
    let told = body(&answer);
    let of = |kind: &str| {
        let all = told["flattened_errors"].as_array().unwrap();
        all.iter().find(|one| one["entity_type"] == kind).unwrap_or_else(|| panic!("no {kind}: {told}"))
    };
    let service = of("service");
    assert_eq!((&service["entity_name"], &service["entity_tags"]), (&json!("a"), &json!(["team"])));
    assert_eq!(
        (&service["errors"][0]["field"], &service["errors"][0]["type"]),
        (&json!("retries"), &json!("field"))
    );
    assert!(service["entity"].get("routes").is_none(), "nested entities stand by themselves: {service}");
    let route = of("route");
    let fields: Vec<_> = route["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(route["entity_name"], "r");
    assert!(fields.iter().any(|field| **field == "wrong"), "{route}");
    let plain = body(&call(&gateway, Method::POST, "/config", "text/yaml", text).await);
    assert!(plain.get("flattened_errors").is_none() && plain["fields"]["services"].is_array(), "{plain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_comes_in_any_of_kongs_bodies() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&config(&[], "")).await;
    let route = |name: &str| {
        format!(
            "_format_version: \"3.0\"\nservices:\n- name: {name}\n  url: http://{}\n  routes:\n  - paths: [\"/{name}\"]\n",
            upstream.addr
        )
    };
    let encoded: String = route("form").bytes().map(|byte| format!("%{byte:02X}")).collect();
    let multipart = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\r\n--edge\r\nContent-Disposition: form-data; \
         name=\"config\"; filename=\"kong.yml\"\r\nContent-Type: application/x-yaml\r\n\r\n{}\r\n--edge--\r\n",
        route("parts")
    );
    let plain = json!({"_format_version": "3.0", "services": [{"name": "object", "url": format!("http://{}", upstream.addr),
        "routes": [{"paths": ["/object"]}]}]});
    for (name, kind, text) in [
        ("form", "application/x-www-form-urlencoded", format!("config={encoded}")),
        ("parts", "multipart/form-data; boundary=edge", multipart),
        ("wrapped", "application/json", json!({"config": route("wrapped")}).to_string()),
        ("object", "application/json", plain.to_string()),
    ] {
        let answer = call(&gateway, Method::POST, "/config", kind, &text).await;
        assert_eq!(answer.status(), 201, "{name}: {:?}", answer.body());
        assert_eq!(gateway.get(&format!("/{name}")).await.status(), 200, "{name}");
    }
    for (kind, text) in [("application/json", "{}"), ("multipart/form-data; boundary=edge", "--edge--")] {
        assert_eq!(call(&gateway, Method::POST, "/config", kind, text).await.status(), 400, "{kind}");
    }
    assert_eq!(gateway.get("/object").await.status(), 200, "a refusal changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_set_by_hand() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let text = json!({
        "_format_version": "3.0",
        "upstreams": [
            {"name": "up", "targets": [{"target": one.addr.to_string()}, {"target": two.addr.to_string()}],
             "healthchecks": {"passive": {"unhealthy": {"http_failures": 5}}}},
            {"name": "unchecked", "targets": [{"target": one.addr.to_string()}]},
        ],
        "services": [{"name": "s", "host": "up", "routes": [{"paths": ["/"]}]},
            {"name": "t", "host": "unchecked", "routes": [{"paths": ["/t"]}]}],
    });
    let gateway = Gateway::start(&text.to_string()).await;
    let put = async |path: &str| call(&gateway, Method::PUT, path, "", "").await.status().as_u16();
    let healths = async || -> Vec<Value> {
        let told = body(&call(&gateway, Method::GET, "/upstreams/up/health", "", "").await);
        told["data"].as_array().unwrap().iter().map(|target| target["health"].clone()).collect()
    };
    assert_eq!(healths().await, ["HEALTHY", "HEALTHY"]);
    assert_eq!(put(&format!("/upstreams/up/targets/{}/unhealthy", one.addr)).await, 204);
    assert_eq!(healths().await, ["UNHEALTHY", "HEALTHY"]);
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (0, 6), "what is unhealthy gets nothing");
    let address = format!("/upstreams/up/targets/{}/{}/healthy", one.addr, one.addr);
    assert_eq!(put(&address).await, 204);
    assert_eq!(healths().await, ["HEALTHY", "HEALTHY"]);
    assert_eq!(put("/upstreams/up/targets/nobody:1/healthy").await, 404);
    assert_eq!(put("/upstreams/nobody/targets/a:1/healthy").await, 404);
    assert_eq!(put(&format!("/upstreams/up/targets/{}/tired", one.addr)).await, 404);
    assert_eq!(put(&format!("/upstreams/unchecked/targets/{}/unhealthy", one.addr)).await, 400);
}
