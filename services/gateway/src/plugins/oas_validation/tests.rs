use http::{Method, StatusCode};
use serde_json::json;

use super::super::tests::Gateway;
use crate::context::{EarlyBody, EarlyResponse};

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

fn gateway(more: serde_json::Value) -> Gateway {
    let mut config = json!({"api_spec": DOCUMENT});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let text = json!({
        "services": [{"host": "h", "routes": [{"name": "r", "paths": ["/"]}]}],
        "plugins": [{"name": "oas-validation", "config": config}],
    });
    // its members, as lines of the file the other tests write by hand
    let lines = text.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {value}\n"));
    Gateway::new(&lines.collect::<String>())
}

fn said(answer: EarlyResponse) -> String {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let EarlyBody::Verbatim(body) = answer.body else { panic!("{:?}", answer.body) };
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    body["message"].as_str().unwrap().to_owned()
}

async fn told(gateway: &Gateway, method: Method, uri: &str, headers: &[(&'static str, &str)]) -> String {
    let mut ctx = gateway.request(method, uri, headers);
    gateway.access(&mut ctx).await.map_or_else(String::new, said)
}

async fn sent(gateway: &Gateway, kind: &str, body: &str) -> String {
    let length = body.len().to_string();
    let mut ctx =
        gateway.request(Method::POST, "/pets", &[("content-type", kind), ("content-length", &length)]);
    match gateway.send(&mut ctx, body).await {
        Ok(upstream) => {
            assert_eq!(upstream, body, "the upstream gets what the client sent");
            String::new()
        }
        Err(answer) => said(*answer),
    }
}

#[tokio::test]
async fn what_does_not_conform_is_400_with_or_without_the_reason() {
    let (plain, verbose) = (gateway(json!({})), gateway(json!({"verbose_response": true})));
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

#[tokio::test]
async fn bodies_are_checked_by_their_type() {
    let gateway = gateway(json!({"verbose_response": true}));
    let wrong = |why: &str| format!("request body validation failed with error: '{why}'");
    let legs = "property legs validation failed: wrong type: expected integer, got string";
    let part = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let multipart = "multipart/form-data; boundary=b";
    for (kind, body, wanted) in [
        ("application/json", r#"{"name": "x", "legs": 4}"#.to_owned(), String::new()),
        ("application/json; charset=utf-8", r#"{"legs": 4}"#.to_owned(), wrong("property \"name\" is required")),
        ("application/json", r#"{"name": "x", "legs": "4"}"#.to_owned(), wrong(legs)),
        ("application/json", "{".to_owned(), wrong("not JSON")),
        ("application/x-www-form-urlencoded", "name=x&legs=4".to_owned(), String::new()),
        ("application/x-www-form-urlencoded", "name=x&legs=many".to_owned(), wrong(legs)),
        (multipart, format!("{}{}--b--\r\n", part("name", "x"), part("legs", "4")), String::new()),
        (multipart, format!("{}{}--b--\r\n", part("name", "x"), part("legs", "y")), wrong(legs)),
        (multipart, "nonsense".to_owned(), wrong("not multipart")),
        // only that it is allowed
        ("application/xml", "<pet/>".to_owned(), String::new()),
        ("text/plain", "x".to_owned(), "validation failed: content-type 'text/plain' is not supported".to_owned()),
    ] {
        assert_eq!(sent(&gateway, kind, &body).await, wanted, "{kind} {body}");
    }
}

#[tokio::test]
async fn parts_can_be_left_unchecked_and_undeclared_ones_refused() {
    let lax = gateway(json!({
        "validate_request_body": false, "validate_request_query_params": false,
        "validate_request_uri_params": false, "validate_request_header_params": false,
    }));
    assert_eq!(told(&lax, Method::GET, "/pets", &[]).await, "");
    assert_eq!(told(&lax, Method::DELETE, "/pets/x", &[("x-why", "because")]).await, "");
    assert_eq!(sent(&lax, "text/plain", "x").await, "");

    let strict = gateway(json!({
        "verbose_response": true, "query_parameter_check": true, "header_parameter_check": true,
        "allowed_header_parameters": "Host, Accept",
    }));
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

#[tokio::test]
async fn it_can_only_notify() {
    let gateway = gateway(json!({"notify_only_request_validation_failure": true}));
    assert_eq!(told(&gateway, Method::GET, "/nowhere", &[]).await, "");
    assert_eq!(sent(&gateway, "application/json", "{").await, "");
}

#[tokio::test]
async fn bodies_are_held_only_where_they_are_checked() {
    let gateway = gateway(json!({"notify_only_request_validation_failure": true}));
    for (method, uri, kind, held) in [
        (Method::POST, "/pets", "application/json", true),
        (Method::POST, "/pets", "application/xml", false),
        (Method::POST, "/nowhere", "application/json", false),
        (Method::DELETE, "/pets/7", "application/json", false),
    ] {
        let mut ctx = gateway.request(method.clone(), uri, &[("content-type", kind), ("content-length", "2000")]);
        // more than is held for plugins
        let outcome = gateway.send(&mut ctx, &"x".repeat(2000)).await;
        assert_eq!(outcome.is_err(), held, "{method} {uri} {kind}");
        if let Err(answer) = outcome {
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
}
