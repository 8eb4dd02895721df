//! Connections to one service for a pooled HTTP client: `http://` plain, `https://` with the identity.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::{Callee, Identity};
use crate::Error;
use crate::transport::{Io, TlsSettings, client_config};

#[derive(Clone)]
enum Tls {
    Identity(Arc<ClientConfig>),
    /// The system's trust store, read when the first `https://` is asked for: a machine without one can still speak plain HTTP.
    System(Arc<OnceLock<Result<Arc<ClientConfig>, String>>>),
}

impl Tls {
    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        match self {
            Self::Identity(config) => Ok(Arc::clone(config)),
            Self::System(once) => once
                .get_or_init(|| match client_config(&TlsSettings::default()) {
                    Ok(config) => Ok(Arc::new(config)),
                    Err(error) => Err(crate::error::chain(&error)),
                })
                .clone()
                .map_err(io::Error::other),
        }
    }
}

/// The authority of a request's URI says where to; which service must answer there is fixed.
#[derive(Clone)]
pub struct MeshConnector {
    tls: Tls,
    timeout: Duration,
}

impl std::fmt::Debug for MeshConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshConnector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl MeshConnector {
    /// Connections to `service`. Without an identity, `https://` is verified by the system's authorities and the host's name.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(identity: Option<&Identity>, service: &str, timeout: Duration) -> Result<Self, Error> {
        let tls = match identity {
            Some(identity) => {
                Tls::Identity(Arc::new(identity.client_config(Callee::service(service), &[b"http/1.1"])?))
            }
            None => Tls::System(Arc::default()),
        };
        Ok(Self { tls, timeout })
    }

    async fn open(self, uri: http::Uri) -> io::Result<Io> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {why}"));
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid("neither http nor https")),
        };
        let host = uri.host().ok_or_else(|| invalid("no host"))?;
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let opened = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            if !tls {
                return Ok(Io::Tcp(stream));
            }
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(self.tls.config()?).connect(name, stream).await?;
            Ok(Io::Tls(Box::new(stream)))
        };
        tokio::time::timeout(self.timeout, opened).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", self.timeout)))
        })
    }
}

impl Service<http::Uri> for MeshConnector {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Io>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(uri).await.map(TokioIo::new) })
    }
}
