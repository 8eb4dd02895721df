//! TLS towards upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plinth_core::tls::AnyCertificate;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// Whom to trust.
#[derive(Debug)]
pub enum Trust {
    /// Anybody: Kong's default (`tls_verify` unset).
    Anybody,
    /// These authorities.
    Roots(Vec<CertificateDer<'static>>),
}

/// A fault in the TLS settings of an upstream.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// The host is no name a certificate could carry.
    #[error("{0:?} is not a TLS server name")]
    ServerName(String),
    /// rustls refused certificates or key.
    #[error("bad TLS settings")]
    Config(#[from] rustls::Error),
}

/// How to speak TLS to a service. Connections of one target are alike, those of different targets are not.
#[derive(Debug)]
pub struct TlsTarget {
    /// Tells targets apart in the pools.
    pub id: u64,
    /// Name sent as SNI and checked in the certificate.
    pub server_name: ServerName<'static>,
    /// Trust and client certificate.
    pub config: Arc<ClientConfig>,
}

impl TlsTarget {
    /// Settings for `host`, with a client certificate if given.
    ///
    /// # Errors
    /// When host, authorities or client certificate cannot be used.
    pub fn new(
        host: &str,
        trust: Trust,
        client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, TlsSettingsError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsSettingsError::ServerName(host.to_owned()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match trust {
            Trust::Anybody => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
            }
            Trust::Roots(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate)?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), server_name, config: Arc::new(config) })
    }
}
