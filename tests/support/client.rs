//! HTTP as the tests speak it.

use bytes::Bytes;
use http::{Method, Response};
use plinth_testbed::http_client;
use serde_json::Value;

pub async fn get(url: &str) -> Response<Bytes> {
    http_client::get(url).await.unwrap_or_else(|error| panic!("GET {url}: {error}"))
}

pub async fn get_with(url: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    http_client::send(Method::GET, url, headers, "")
        .await
        .unwrap_or_else(|error| panic!("GET {url}: {error}"))
}

/// Sends JSON.
pub async fn send(method: Method, url: &str, body: &Value) -> Response<Bytes> {
    let headers = [("content-type", "application/json")];
    let sent = http_client::send(method.clone(), url, &headers, body.to_string()).await;
    sent.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

pub fn json(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body())
        .unwrap_or_else(|error| panic!("{}: not JSON ({error}): {:?}", answer.status(), answer.body()))
}

pub fn header<'a>(answer: &'a Response<Bytes>, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}
