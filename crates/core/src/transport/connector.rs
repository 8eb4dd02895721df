//! Opens connections to the one server a transport is for.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::io::Io;
use super::{Address, TlsSettings, tls};
use crate::Error;

#[derive(Clone)]
enum Target {
    Tcp(Arc<str>),
    Tls { host_port: Arc<str>, name: ServerName<'static>, connector: TlsConnector },
    Unix(Arc<PathBuf>),
}

/// The URI of a request is not looked at: there is one server.
#[derive(Clone)]
pub(crate) struct Connector {
    target: Target,
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target = match &self.target {
            Target::Tcp(host_port) => format!("http://{host_port}"),
            Target::Tls { host_port, .. } => format!("https://{host_port}"),
            Target::Unix(path) => format!("unix://{}", path.display()),
        };
        f.debug_struct("Connector").field("target", &target).field("timeout", &self.timeout).finish()
    }
}

impl Connector {
    pub(crate) fn new(address: &Address, tls: &TlsSettings, timeout: Duration) -> Result<Self, Error> {
        let target = match address {
            Address::Http(host_port) => Target::Tcp(host_port.as_str().into()),
            Address::Unix(path) => Target::Unix(Arc::new(path.clone())),
            Address::Https(host_port) => Target::Tls {
                host_port: host_port.as_str().into(),
                name: server_name(host_port)?,
                connector: TlsConnector::from(Arc::new(tls::client_config(tls)?)),
            },
        };
        Ok(Self { target, timeout })
    }

    async fn open(self) -> io::Result<Io> {
        let opened = tokio::time::timeout(self.timeout, async {
            match &self.target {
                Target::Tcp(host_port) => Ok(Io::Tcp(tcp(host_port).await?)),
                Target::Unix(path) => Ok(Io::Unix(UnixStream::connect(path.as_path()).await?)),
                Target::Tls { host_port, name, connector } => {
                    let stream = connector.connect(name.clone(), tcp(host_port).await?).await?;
                    Ok(Io::Tls(Box::new(stream)))
                }
            }
        });
        match opened.await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {:?}", self.timeout),
            )),
        }
    }
}

async fn tcp(host_port: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(host_port).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn server_name(host_port: &str) -> Result<ServerName<'static>, Error> {
    let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .map_err(|error| Error::Tls { what: format!("server name {host:?}"), source: Box::new(error) })
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Io>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open().await.map(TokioIo::new) })
    }
}
