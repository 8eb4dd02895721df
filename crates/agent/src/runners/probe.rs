//! One probe: HTTP or TCP, with Consul's outputs.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http::LONGEST_OUTPUT;
use crate::state::local::{LocalCheck, Runner};
use crate::state::model::{Definition, Status};

pub(super) async fn probe(check: &LocalCheck) -> (Status, String) {
    match check.runner {
        Runner::Http { timeout, .. } => http(&check.target, timeout).await,
        Runner::Tcp { timeout, .. } => tcp(&check.target.tcp, timeout).await,
        _ => (Status::Critical, "this agent cannot run gRPC checks yet".to_owned()),
    }
}

async fn tcp(address: &str, timeout: Duration) -> (Status, String) {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => (Status::Passing, format!("TCP connect {address}: Success")),
        Ok(Err(error)) => (Status::Critical, format!("dial tcp {address}: connect: {error}")),
        Err(_) => (Status::Critical, format!("dial tcp {address}: i/o timeout")),
    }
}

async fn http(target: &Definition, timeout: Duration) -> (Status, String) {
    let method = if target.method.is_empty() { "GET" } else { &target.method };
    match tokio::time::timeout(timeout, exchange(target, method)).await {
        Err(_) => (Status::Critical, format!("{method} {:?}: timeout after {timeout:?}", target.http)),
        Ok(Err(why)) => (Status::Critical, format!("{method} {:?}: {why}", target.http)),
        Ok(Ok((code, body))) => {
            let status = match code.as_u16() {
                200..=299 => Status::Passing,
                429 => Status::Warning,
                _ => Status::Critical,
            };
            (status, format!("HTTP {method} {}: {code} Output: {body}", target.http))
        }
    }
}

async fn exchange(target: &Definition, method: &str) -> Result<(http::StatusCode, String), String> {
    let uri: http::Uri = target.http.parse().map_err(|e| format!("{e}"))?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// checks are run by this agent".to_owned());
    }
    let host = uri.host().ok_or("no host in the address")?;
    let port = uri.port_u16().unwrap_or(80);
    let stream =
        TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map_or(host, |a| a.as_str());
    let mut request = Request::builder().method(method).uri(path);
    let named_host = target.header.keys().any(|k| k.eq_ignore_ascii_case("host"));
    if !named_host {
        request = request.header("host", authority);
    }
    request = request.header("accept", "text/plain, text/*, */*").header("user-agent", "Consul Health Check");
    for (name, values) in &target.header {
        for value in values {
            request = request.header(name.as_str(), value.as_str());
        }
    }
    let body = Full::new(Bytes::from(target.body.clone()));
    let request = request.body(body).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let code = response.status();
    // more than this is not shown anyway
    let text = match Limited::new(response.into_body(), LONGEST_OUTPUT).collect().await {
        Ok(whole) => String::from_utf8_lossy(&whole.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    driver.abort();
    Ok((code, text))
}
