//! oas-validation through a real gateway: what is refused and how, which bodies are held.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use bytes::Bytes;
use harness::Gateway;
use http::{Method, Response};
use plinth_testbed::upstream::Upstream;
use serde_json::json;

const DOCUMENT: &str = r##"{
  "openapi": "3.0.3",
  "paths": {
    "/pets": {
      "get": {"parameters": [{"name": "status", "in": "query", "required": true, "schema": {"enum": ["sold", "free"]}}]},
      "post": {"requestBody": {"required": true, "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}},
        "application/x-www-form-urlencoded": {"schema": {"$ref": "#/components/schemas/Pet"}},
        "multipart/form-data": {"schema": {"$ref": "#/components/schemas/Pet"}},
        "application/xml": {"schema": {"$ref": "#/components/schemas/Pet"}}
      }}}
    },
    "/pets/{id}": {"delete": {"parameters": [
      {"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}},
      {"name": "X-Why", "in": "header", "schema": {"type": "string", "maxLength": 3}}
    ]}}
  },
  "components": {"schemas": {"Pet": {
    "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "legs": {"type": "integer"}}
  }}}
}"##;

struct Api {
    gateway: Gateway,
    upstream: Upstream,
}

async fn api(more: serde_json::Value) -> Api {
    let upstream = Upstream::start().await;
    let mut config = json!({"api_spec": DOCUMENT});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let text = json!({
        "_format_version": "3.0",
        "services": [{"url": format!("http://{}", upstream.addr), "routes": [{"name": "r", "paths": ["/"]}]}],
        "plugins": [{"name": "oas-validation", "config": config}],
    });
    let gateway = Gateway::start_with(&text.to_string(), &["--plugin-body-limit", "1KiB"]).await;
    Api { gateway, upstream }
}

/// The message of a refusal; nothing when the upstream was asked.
fn said(answer: &Response<Bytes>) -> String {
    if answer.status() == 200 {
        return String::new();
    }
    assert_eq!(answer.status(), 400);
    let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    body["message"].as_str().unwrap().to_owned()
}

async fn told(api: &Api, method: Method, uri: &str, headers: &[(&'static str, &str)]) -> String {
    let before = api.upstream.requests().len();
    let told = said(&api.gateway.send(method, uri, headers, "").await);
    assert_eq!(api.upstream.requests().len(), before + usize::from(told.is_empty()));
    told
}

async fn sent(api: &Api, kind: &str, body: &str) -> String {
    let headers = [("content-type", kind)];
    let told = said(&api.gateway.send(Method::POST, "/pets", &headers, body.to_owned()).await);
    if told.is_empty() {
        let request = api.upstream.requests().pop().unwrap();
        assert_eq!(request.body(), body, "the upstream gets what the client sent");
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_conform_is_400_with_or_without_the_reason() {
    let (plain, verbose) = (api(json!({})).await, api(json!({"verbose_response": true})).await);
    const REQUEST: &str = "request doesn't conform to schema";
    const PARAMETER: &str = "request param doesn't conform to schema";
    for (method, uri, headers, general, detail) in [
        (Method::GET, "/pets?status=sold", &[][..], "", ""),
        (
            Method::GET,
            "/pets",
            &[],
            PARAMETER,
            "query 'status' validation failed with error: 'required parameter value not found in request'",
        ),
        (
            Method::GET,
            "/pets?status=new",
            &[],
            PARAMETER,
            "query 'status' validation failed with error: 'matches none of the enum values'",
        ),
        (Method::GET, "/nowhere", &[], REQUEST, "validation failed, path not found in api specification"),
        (Method::PATCH, "/pets", &[], REQUEST, "validation failed, path not found in api specification"),
        (Method::DELETE, "/pets/7", &[], "", ""),
        (Method::DELETE, "/pets//7", &[], "", ""),
        (
            Method::DELETE,
            "/pets/x",
            &[],
            PARAMETER,
            "path 'id' validation failed with error: 'wrong type: expected integer, got string'",
        ),
        (
            Method::DELETE,
            "/pets/7",
            &[("x-why", "because")],
            PARAMETER,
            "header 'X-Why' validation failed with error: 'string too long, expected at most 3, got 7'",
        ),
        (
            Method::POST,
            "/pets",
            &[],
            PARAMETER,
            "request body validation failed with error: 'required body not found in request'",
        ),
    ] {
        assert_eq!(told(&plain, method.clone(), uri, headers).await, general, "{method} {uri}");
        assert_eq!(told(&verbose, method.clone(), uri, headers).await, detail, "{method} {uri}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_checked_by_their_type() {
    let gateway = api(json!({"verbose_response": true})).await;
    let wrong = |why: &str| format!("request body validation failed with error: '{why}'");
    let legs = "property legs validation failed: wrong type: expected integer, got string";
    let part = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let multipart = "multipart/form-data; boundary=b";
    for (kind, body, wanted) in [
        ("application/json", r#"{"name": "x", "legs": 4}"#.to_owned(), String::new()),
        (
            "application/json; charset=utf-8",
            r#"{"legs": 4}"#.to_owned(),
            wrong("property \"name\" is required"),
        ),
        ("application/json", r#"{"name": "x", "legs": "4"}"#.to_owned(), wrong(legs)),
        ("application/json", "{".to_owned(), wrong("not JSON")),
        ("application/x-www-form-urlencoded", "name=x&legs=4".to_owned(), String::new()),
        ("application/x-www-form-urlencoded", "name=x&legs=many".to_owned(), wrong(legs)),
        (multipart, format!("{}{}--b--\r\n", part("name", "x"), part("legs", "4")), String::new()),
        (multipart, format!("{}{}--b--\r\n", part("name", "x"), part("legs", "y")), wrong(legs)),
        (multipart, "nonsense".to_owned(), wrong("not multipart")),
        // only that it is allowed
        ("application/xml", "<pet/>".to_owned(), String::new()),
        (
            "text/plain",
            "x".to_owned(),
            "validation failed: content-type 'text/plain' is not supported".to_owned(),
        ),
    ] {
        assert_eq!(sent(&gateway, kind, &body).await, wanted, "{kind} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_can_be_left_unchecked_and_undeclared_ones_refused() {
    let lax = api(json!({
        "validate_request_body": false, "validate_request_query_params": false,
        "validate_request_uri_params": false, "validate_request_header_params": false,
    }))
    .await;
    assert_eq!(told(&lax, Method::GET, "/pets", &[]).await, "");
    assert_eq!(told(&lax, Method::DELETE, "/pets/x", &[("x-why", "because")]).await, "");
    assert_eq!(sent(&lax, "text/plain", "x").await, "");

    let strict = api(json!({
        "verbose_response": true, "query_parameter_check": true, "header_parameter_check": true,
        "allowed_header_parameters": "Host, Accept, Content-Length",
    }))
    .await;
    assert_eq!(told(&strict, Method::GET, "/pets?status=sold", &[("accept", "*/*")]).await, "");
    assert_eq!(told(&strict, Method::DELETE, "/pets/7", &[("x-why", "so")]).await, "");
    assert_eq!(
        told(&strict, Method::GET, "/pets?status=sold&page=1", &[]).await,
        "validation failed with error: query parameter 'page' does not exist in specification"
    );
    assert_eq!(
        told(&strict, Method::GET, "/pets?status=sold", &[("x-other", "1")]).await,
        "validation failed with error: header parameter 'x-other' does not exist in specification"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_only_notify() {
    let gateway = api(json!({"notify_only_request_validation_failure": true})).await;
    assert_eq!(told(&gateway, Method::GET, "/nowhere", &[]).await, "");
    assert_eq!(sent(&gateway, "application/json", "{").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_held_only_where_they_are_checked() {
    let gateway = api(json!({"notify_only_request_validation_failure": true})).await;
    for (method, uri, kind, held) in [
        (Method::POST, "/pets", "application/json", true),
        (Method::POST, "/pets", "application/xml", false),
        (Method::POST, "/nowhere", "application/json", false),
        (Method::DELETE, "/pets/7", "application/json", false),
    ] {
        // more than is held for plugins
        let headers = [("content-type", kind)];
        let answer = gateway.gateway.send(method.clone(), uri, &headers, "x".repeat(2000)).await;
        assert_eq!(answer.status(), if held { 413 } else { 200 }, "{method} {uri} {kind}");
    }
}
