//! AMQP over TLS. lapin without its own TLS client takes `amqps://` and speaks plain text; with it come twenty crates for
//! key stores that nobody here has. So lapin gets connections from here: its runtime is tokio's, but for how it connects.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_compat::Compat;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection to the broker of an `amqps://` URL whose certificate `authorities` sign (none: the system's).
pub(super) async fn connect(
    uri: AMQPUri,
    authorities: Option<&Path>,
    properties: ConnectionProperties,
) -> Result<Connection, lapin::Error> {
    let host = uri.authority.host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(Arc::new(config(authorities)?));
    let reactor = Secure { tls, name, tokio: Tokio::current() };
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), reactor));
    let connect = async move |uri: AMQPUri, runtime: Runtime<RuntimeParts<Tokio, Secure>>| {
        let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
        let stream = runtime.tcp_connect(addresses).await?;
        Ok(AsyncTcpStream::Plain(stream))
    };
    Connection::connector(uri, runtime, connect, properties).await
}

fn config(authorities: Option<&Path>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            for authority in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
                roots.add(authority.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
        // Single unreadable certificates of a system store are no reason to refuse the others.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// tokio's timers; connections are encrypted.
#[derive(Clone)]
struct Secure {
    tls: TlsConnector,
    name: ServerName<'static>,
    tokio: Tokio,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Reactor for Secure {
    type TcpStream = Compat<TlsStream<TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// lapin brings no sockets of its own.
    #[expect(refining_impl_trait, reason = "the type stands for one that never is")]
    fn register<H: Read + Write + Send + 'static>(&self, _socket: H) -> io::Result<Self::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.tokio.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (tls, name) = (self.tls.clone(), self.name.clone());
        async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Compat::new(tls.connect(name, stream).await?))
        }
    }
}
