//! Connections for probes: TCP, and TLS on top with or without verification.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::At;
use crate::identity::{Callee, Identity};
use crate::tls::AnyCertificate;

/// Whom to believe who the target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    System,
    File(PathBuf),
    /// The instances of this service as the identity's roots verify them, else as [`Trust::System`].
    Service(String),
    /// `tls_skip_verify`: anyone.
    Anyone,
}

/// Whom to believe and what that takes.
pub(super) struct Believed<'a> {
    pub trust: Trust,
    pub roots: &'a Roots,
    /// Shown to who asks for it.
    pub identity: Option<&'a Identity>,
}

/// The system's trust store, read when the first probe needs it.
#[derive(Debug, Default)]
pub(super) struct Roots(OnceCell<Arc<RootCertStore>>);

impl Roots {
    async fn system(&self) -> io::Result<Arc<RootCertStore>> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
                .await
                .map_err(io::Error::other)?;
            let mut store = RootCertStore::empty();
            // One certificate that this TLS library does not take must not spoil all others.
            store.add_parsable_certificates(loaded.certs);
            if store.is_empty() {
                return Err(io::Error::other("the system has no trusted certificates"));
            }
            Ok(Arc::new(store))
        };
        self.0.get_or_try_init(load).await.cloned()
    }
}

/// `addr` is `host:port`; all addresses of a name are tried in turn, unless `at` says where to.
pub(super) async fn tcp(addr: &str, at: Option<&At>) -> io::Result<TcpStream> {
    let stream = match at {
        Some(at) => TcpStream::connect(at.address).await?,
        None => TcpStream::connect(addr).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(super) async fn tls(
    stream: TcpStream,
    host: &str,
    believed: &Believed<'_>,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let config = config(believed, alpn).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn config(believed: &Believed<'_>, alpn: &[&[u8]]) -> io::Result<ClientConfig> {
    let Believed { trust, roots, identity } = believed;
    match (trust, identity) {
        (Trust::Service(service), Some(identity)) => {
            let callee = Callee::service(service.as_str());
            // A machine without a trust store can still look at instances of the mesh.
            let callee = match roots.system().await {
                Ok(system) => {
                    let provider = Arc::new(aws_lc_rs::default_provider());
                    let system = WebPkiServerVerifier::builder_with_provider(system, provider).build();
                    callee.or(system.map_err(io::Error::other)?)
                }
                Err(_) => callee,
            };
            return identity.client_config(callee, alpn).map_err(io::Error::other);
        }
        (Trust::Anyone, Some(identity)) => {
            return identity.unverified_client_config(alpn).map_err(io::Error::other);
        }
        _ => {}
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut config = match trust {
        Trust::System | Trust::Service(_) => {
            builder.with_root_certificates(roots.system().await?).with_no_client_auth()
        }
        Trust::File(path) => builder.with_root_certificates(file_roots(path).await?).with_no_client_auth(),
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

async fn file_roots(path: &Path) -> io::Result<RootCertStore> {
    let named = |e: String| io::Error::other(format!("CA file {}: {e}", path.display()));
    let pem = tokio::fs::read(path).await.map_err(|e| named(e.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| named(e.to_string()))?;
        store.add(certificate).map_err(|e| named(e.to_string()))?;
    }
    if store.is_empty() {
        return Err(named("no certificate in it".to_owned()));
    }
    Ok(store)
}
