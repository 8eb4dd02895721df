//! Asking the services over HTTP, as any other client would.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use plinth_core::identity::{FileChanges, Files, Identity, MeshConnector};
use serde_json::Value;

use crate::commands::{Access, ClientTls};
use crate::failure::Failure;

pub struct Api {
    base: String,
    token: Option<String>,
    client: Client<MeshConnector, Full<Bytes>>,
}

/// What a service answered, its problem document already turned into a [`Failure`].
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Api {
    /// Longest silence of a service before the command gives up; long polls add what they ask for.
    const LIMIT: Duration = Duration::from_secs(15);

    /// Longest time for a connection.
    const CONNECT: Duration = Duration::from_secs(2);

    /// `service` is what a certificate behind `https://` must be for, when its authorities are given.
    pub fn new(base: &str, service: &str, access: &Access) -> Result<Self, Failure> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Failure::usage(format!(
                "{base}: expected a URL that begins with http:// or https://"
            )));
        }
        let token = match &access.token {
            Some(token) => Some(token.clone()),
            None => saved_token(&access.data_dir)?,
        };
        let unusable = |error: plinth_core::Error| Failure::usage(plinth_core::error::chain(&error));
        let identity = identity(&access.tls)?;
        let connector = MeshConnector::new(identity.as_ref(), service, Self::CONNECT).map_err(unusable)?;
        Ok(Self { base, token, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::GET, path, &[], None, Self::LIMIT).await
    }

    /// A read that the service may hold back for `wait`.
    pub async fn poll(&self, path: &str, wait: Duration) -> Result<Answer, Failure> {
        self.ask(Method::GET, path, &[], None, Self::LIMIT + wait).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        self.ask(method, path, headers, body, Self::LIMIT).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let url = format!("{}{path}", self.base);
        let mut request =
            Request::builder().method(method).uri(&url).header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let content = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Full::from(body.to_string())
            }
            None => Full::default(),
        };
        let request = request.body(content).map_err(|error| Failure::usage(format!("{url}: {error}")))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| unreachable(&url, &error))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| unreachable(&url, &error))?.to_bytes();
            Ok::<_, Failure>((head, body))
        };
        let (head, body) = tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| Failure::unavailable(format!("{url}: no answer within {} s", limit.as_secs())))??;
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)))
        };
        if head.status.is_client_error() || head.status.is_server_error() {
            return Err(refusal(head.status, &body));
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

fn identity(tls: &ClientTls) -> Result<Option<Identity>, Failure> {
    let own = match (&tls.client_cert, &tls.client_key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        _ => return Err(Failure::usage("--client-cert and --client-key go together; only one is given")),
    };
    let Some(ca) = tls.ca_cert.clone() else {
        return match own {
            None => Ok(None),
            Some(_) => Err(Failure::usage("--client-cert needs --ca-cert: the authorities of the services")),
        };
    };
    Identity::files(Files { own, ca }, FileChanges::Ignored, None)
        .map(Some)
        .map_err(|error| Failure::usage(plinth_core::error::chain(&error)))
}

/// A path segment with everything but unreserved characters percent-encoded.
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn unreachable(url: &str, error: &dyn std::error::Error) -> Failure {
    let mut message = format!("{url}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Failure::unavailable(message)
}

/// RFC 9457, or whatever else the service said.
fn refusal(status: StatusCode, body: &Value) -> Failure {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let mut message = match (text("title"), text("detail"), text("message").or(body.as_str())) {
        (Some(title), Some(detail), _) if title != detail => format!("{title}: {detail}"),
        (Some(title), _, _) => title.to_owned(),
        (None, Some(detail), _) => detail.to_owned(),
        (None, None, Some(message)) => message.to_owned(),
        (None, None, None) => "the service gave no reason".to_owned(),
    };
    for fault in body.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let field = fault.get("field").and_then(Value::as_str).unwrap_or("?");
        let reason = fault.get("message").and_then(Value::as_str).unwrap_or("?");
        message.push_str(&format!("\n  {field}: {reason}"));
    }
    if status == StatusCode::UNAUTHORIZED {
        message.push_str("\n  give a token with --token, or sign one with `plinth token --scope ...`");
    }
    let message = format!("{} {message}", status.as_u16());
    if status.is_server_error() { Failure::unavailable(message) } else { Failure::no(message) }
}

/// `plinth up` leaves the operator's token in its data folder.
fn saved_token(data_dir: &Path) -> Result<Option<String>, Failure> {
    let path = data_dir.join("token");
    match std::fs::read_to_string(&path) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
    }
}
