//! A small HTTP client for calls that are few: JWKS and its discovery, trace export.
//!
//! One connection per call: both are rare, and a fresh connection has no stale-pool failures.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why a call failed. No status is a failure.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("{0:?} is not a URL with http:// or https:// and a host")]
    Url(String),
    #[error("no trusted certificate authorities can be loaded")]
    Roots(#[source] rustls::Error),
    #[error("cannot connect to {host}:{port}")]
    Connect { host: String, port: u16, source: std::io::Error },
    #[error("the HTTP exchange failed")]
    Exchange(#[from] hyper::Error),
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The client; clones share its trust store.
#[derive(Clone)]
pub struct Outbound {
    tls: TlsConnector,
}

impl Outbound {
    /// A client that trusts the machine's certificate authorities.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Outbound, OutboundError> {
        let mut roots = rustls::RootCertStore::empty();
        // Single unreadable certificates of a system store are no reason to refuse the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(OutboundError::Roots)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Outbound { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// GET of JSON, following no redirects.
    ///
    /// # Errors
    /// As [`Outbound::send`].
    pub async fn get(
        &self,
        url: &str,
        timeout: Duration,
        limit: usize,
    ) -> Result<Response<Bytes>, OutboundError> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .body(Bytes::new())
            .map_err(|_| OutboundError::Url(url.to_owned()))?;
        self.send(request, timeout, limit).await
    }

    /// One exchange: connection, request and whole answer within `timeout`, the answer at most `limit` bytes.
    ///
    /// # Errors
    /// A bad URL, no connection, no answer in time, one that cannot be read. No status is an error.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
        limit: usize,
    ) -> Result<Response<Bytes>, OutboundError> {
        tokio::time::timeout(timeout, self.exchange(request, limit))
            .await
            .unwrap_or(Err(OutboundError::Timeout(timeout)))
    }

    async fn exchange(
        &self,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, OutboundError> {
        let bad_url = || OutboundError::Url(request.uri().to_string());
        let host = request.uri().host().ok_or_else(bad_url)?.to_owned();
        let tls = match request.uri().scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad_url()),
        };
        let port = request.uri().port_u16().unwrap_or(if tls { 443 } else { 80 });
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let failed = |source| OutboundError::Connect { host: host.clone(), port, source };
        let stream = TcpStream::connect((name.as_str(), port)).await.map_err(failed)?;
        let request = absolute_to_origin(request)?;
        if tls {
            let server = ServerName::try_from(name).map_err(|_| OutboundError::Url(host.clone()))?;
            let stream = self.tls.connect(server, stream).await.map_err(failed)?;
            over(stream, request, limit).await
        } else {
            over(stream, request, limit).await
        }
    }
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbound")
    }
}

/// Clients of HTTP/1.1 send the path in the request line and the host as a header.
fn absolute_to_origin(request: Request<Bytes>) -> Result<Request<Full<Bytes>>, OutboundError> {
    let (mut parts, body) = request.into_parts();
    let bad_url = |uri: &Uri| OutboundError::Url(uri.to_string());
    let authority = parts.uri.authority().ok_or_else(|| bad_url(&parts.uri))?;
    // Credentials in a URL are no part of the Host header.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(host).map_err(|_| bad_url(&parts.uri))?;
    parts.headers.insert(header::HOST, host);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(|_| bad_url(&parts.uri))?;
    Ok(Request::from_parts(parts, Full::new(body)))
}

async fn over<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Response<Bytes>, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(OutboundError::Body)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    // The connection is driven here and not in a task of its own: it ends with the exchange.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        }
    }
}
