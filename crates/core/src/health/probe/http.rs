//! HTTP and HTTPS checks over HTTP/1.1.

use ::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use ::http::{Method, Request, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::{self, Believed};
use super::{At, Finding, OUTPUT_LIMIT, ProbeTarget};
use crate::health::Status;

const USER_AGENT_VALUE: &str = concat!("plinth-health/", env!("CARGO_PKG_VERSION"));

pub(super) async fn look(believed: &Believed<'_>, target: &ProbeTarget, at: Option<&At>) -> Finding {
    let ProbeTarget::Http { url, method, headers, body, .. } = target else {
        return Finding::critical("not an HTTP target".to_owned());
    };
    let asked = Asked { url, method, headers, body, believed, at };
    match exchange(&asked).await {
        Ok((status, text)) => judged(url, method, status, &text),
        Err(reason) => Finding::critical(format!("HTTP {method} {url}: {reason}")),
    }
}

struct Asked<'a> {
    url: &'a str,
    method: &'a str,
    headers: &'a [(String, String)],
    body: &'a str,
    believed: &'a Believed<'a>,
    at: Option<&'a At>,
}

/// Consul's rules, but for redirects.
fn judged(url: &str, method: &str, status: StatusCode, text: &str) -> Finding {
    let result = match status.as_u16() {
        200..=299 => Status::Passing,
        429 => Status::Warning,
        _ => Status::Critical,
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let remark = if status.is_redirection() { " (redirects are not followed)" } else { "" };
    let line = format!("{} {reason}", status.as_u16());
    let output = format!("HTTP {method} {url}: {}{remark} Output: {text}", line.trim_end());
    Finding { status: result, output, http_status: Some(status.as_u16()) }
}

/// The status and the beginning of the body.
async fn exchange(asked: &Asked<'_>) -> Result<(StatusCode, String), String> {
    let uri: Uri = asked.url.parse().map_err(|e| format!("not a URL: {e}"))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("not an http or https URL".to_owned()),
    };
    let host = uri.host().ok_or("no host in the URL")?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let request = request(&uri, asked)?;
    let stream = connect::tcp(&format!("{host}:{port}"), asked.at).await.map_err(|e| e.to_string())?;
    if !tls {
        return answer(stream, request).await;
    }
    let own = asked.at.and_then(|at| at.server_name.as_deref());
    let name = own.unwrap_or_else(|| host.trim_start_matches('[').trim_end_matches(']'));
    let stream = connect::tls(stream, name, asked.believed, &[b"http/1.1"])
        .await
        .map_err(|e| format!("TLS handshake: {e}"))?;
    answer(stream, request).await
}

fn request(uri: &Uri, asked: &Asked<'_>) -> Result<Request<Full<Bytes>>, String> {
    let method = Method::from_bytes(asked.method.as_bytes()).map_err(|e| e.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // User information of a URL is no part of the Host header.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(asked.body.as_bytes())));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|e| format!("not a path: {e}"))?;
    let out = request.headers_mut();
    out.insert(HOST, HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
    out.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
    out.insert(ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
    if let Some(credentials) = credentials(uri) {
        out.insert(AUTHORIZATION, credentials);
    }
    for name in asked.headers.iter().map(|(name, _)| name) {
        out.remove(name.as_str());
    }
    for (name, value) in asked.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| format!("header {name:?}: {e}"))?;
        // The value may be a secret: it is not in the message.
        let value = HeaderValue::from_str(value).map_err(|_| format!("header {name}: not a header value"))?;
        out.append(name, value);
    }
    out.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Basic authentication with the user information of a URL.
fn credentials(uri: &Uri) -> Option<HeaderValue> {
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain: Vec<u8> = percent_decode_str(name).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn answer<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| reason(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| reason(&e))?;
        let status = response.status();
        Ok((status, beginning(response.into_body()).await))
    };
    // Driven here and not in a task of its own, so that the connection ends with the probe, timed out ones included.
    // When the connection ends first, the exchange already knows all it will ever know.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

/// What fits the output, read lossily; the rest of a longer body is never read. The status has decided already, so
/// a body that breaks off changes nothing.
async fn beginning(body: hyper::body::Incoming) -> String {
    let mut body = Limited::new(body, 4 * OUTPUT_LIMIT);
    let mut text = Vec::new();
    while text.len() < OUTPUT_LIMIT
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
    }
    text.truncate(OUTPUT_LIMIT);
    String::from_utf8_lossy(&text).into_owned()
}

/// hyper says what failed and its source says why.
pub(super) fn reason(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
