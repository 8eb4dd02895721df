//! TLS towards upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::upstream::CatalogName;
use plinth_core::identity::{Callee, Identity};
use plinth_core::tls::AnyCertificate;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A fault in the TLS settings of an upstream.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// The host is no name a certificate could carry.
    #[error("{0:?} is not a TLS server name")]
    ServerName(String),
    /// rustls refused certificates or key.
    #[error("bad TLS settings")]
    Config(#[from] rustls::Error),
    /// The authorities cannot be used.
    #[error("bad CA certificates")]
    Authorities(#[from] rustls::client::VerifierBuilderError),
    /// The gateway's identity cannot be used.
    #[error("the gateway's identity cannot be used")]
    Identity(#[source] plinth_core::Error),
    /// A tag of the service that cannot be followed.
    #[error("tag {tag:?}: {why}")]
    Tag {
        /// The tag.
        tag: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A PEM text.
    #[error("bad {what}")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
}

impl TlsSettingsError {
    fn pem(what: &'static str) -> impl Fn(pem::Error) -> Self {
        move |source| Self::Pem { what, source }
    }
}

/// How to speak TLS to a service. Connections of one target are alike, those of different targets are not.
#[derive(Debug)]
pub struct TlsTarget {
    /// Tells targets apart in the pools.
    pub id: u64,
    /// Name sent as SNI and checked in the certificate when the target has none of its own.
    pub server_name: ServerName<'static>,
    /// Trust and client certificate.
    pub config: Arc<ClientConfig>,
}

/// What a [`TlsTarget`] is made of. Equal ones may share it, and with it their connections.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// The service's host.
    pub host: String,
    /// Verify the certificate.
    pub verify: bool,
    /// Most certificates between the server's own and the authority's.
    pub depth: Option<u8>,
    /// PEM texts of the authorities; none = the system's.
    pub authorities: Vec<String>,
    /// PEM texts of the client certificate's chain and key.
    pub client: Option<(String, String)>,
    /// Speak HTTP/2.
    pub http2: bool,
    /// The service of the mesh that must answer, to whom the gateway shows its own identity; the above but for the host have then no say.
    pub mesh: Option<String>,
}

impl TlsSpec {
    /// HTTP/1.1 to `host`, verified by the system's authorities or not at all.
    #[must_use]
    pub fn of(host: &str, verify: bool) -> Self {
        Self {
            host: host.to_owned(),
            verify,
            depth: None,
            authorities: Vec::new(),
            client: None,
            http2: false,
            mesh: None,
        }
    }
}

impl std::fmt::Debug for TlsSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSpec")
            .field("host", &self.host)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// The service of the mesh that a Kong service leads to by its tag `plinth.mtls`, or `plinth.mtls:NAME` where the host does not name it.
///
/// # Errors
/// A tag that begins with `plinth.` and is not that, or names no service.
pub fn mesh_service(tags: &[String], host: &str) -> Result<Option<String>, TlsSettingsError> {
    let mut found = None;
    for tag in tags {
        let Some(own) = tag.strip_prefix("plinth.") else { continue };
        let bad = |why| TlsSettingsError::Tag { tag: tag.clone(), why };
        let named = match own.split_once(':') {
            None if own == "mtls" => CatalogName::of(host).map(|name| name.service),
            Some(("mtls", name)) => Some(name.to_owned()).filter(|name| !name.is_empty()),
            _ => return Err(bad("no such setting of a service: mtls")),
        };
        let named = named
            .ok_or_else(|| bad("the host is not NAME.service.consul: name the service, plinth.mtls:NAME"))?;
        if found.replace(named).is_some() {
            return Err(bad("given twice"));
        }
    }
    Ok(found)
}

impl TlsTarget {
    /// Connections to a service of the mesh: with the gateway's identity, verified by the service's.
    ///
    /// # Errors
    /// A host that is no name, or TLS that cannot be set up.
    pub fn mesh(spec: &TlsSpec, service: &str, identity: &Identity) -> Result<Self, TlsSettingsError> {
        let server_name = ServerName::try_from(spec.host.clone())
            .map_err(|_| TlsSettingsError::ServerName(spec.host.clone()))?;
        let alpn: &[u8] = if spec.http2 { b"h2" } else { b"http/1.1" };
        let config =
            identity.client_config(Callee::service(service), &[alpn]).map_err(TlsSettingsError::Identity)?;
        Ok(Self { id: next_id(), server_name, config: Arc::new(config) })
    }

    /// Reads the certificates and sets TLS up.
    ///
    /// # Errors
    /// When host, authorities or client certificate cannot be used.
    pub fn new(spec: &TlsSpec) -> Result<Self, TlsSettingsError> {
        let server_name = ServerName::try_from(spec.host.clone())
            .map_err(|_| TlsSettingsError::ServerName(spec.host.clone()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let verifier: Arc<dyn ServerCertVerifier> = if spec.verify {
            let roots = Arc::new(roots(&spec.authorities)?);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
            match spec.depth {
                None => inner,
                Some(depth) => Arc::new(Shallow { inner, depth: usize::from(depth) }),
            }
        } else {
            Arc::new(AnyCertificate::new(provider))
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &spec.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(TlsSettingsError::pem("client certificate"))?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(TlsSettingsError::pem("client key"))?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = vec![if spec.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(Self { id: next_id(), server_name, config: Arc::new(config) })
    }

    /// The name for a target.
    #[must_use]
    pub fn name_for(&self, target: &str) -> ServerName<'static> {
        ServerName::try_from(target.to_owned()).unwrap_or_else(|_| self.server_name.clone())
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn roots(authorities: &[String]) -> Result<RootCertStore, TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let read = CertificateDer::from_pem_slice(authority.as_bytes());
        roots.add(read.map_err(TlsSettingsError::pem("CA certificate"))?)?;
    }
    if authorities.is_empty() {
        // one certificate that this TLS library does not take must not spoil all others
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    Ok(roots)
}

/// Kong's `tls_verify_depth`: only so many of the certificates that a server sends along may lead to an authority.
#[derive(Debug)]
struct Shallow {
    inner: Arc<WebPkiServerVerifier>,
    depth: usize,
}

impl ServerCertVerifier for Shallow {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let few = &intermediates[..intermediates.len().min(self.depth)];
        self.inner.verify_server_cert(end_entity, few, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_the_service_of_the_mesh() {
        let of = |tags: &[&str], host: &str| {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            mesh_service(&tags, host).map_err(|error| error.to_string())
        };
        assert_eq!(of(&["team-a"], "users.service.consul"), Ok(None));
        assert_eq!(of(&["plinth.mtls"], "users.service.consul"), Ok(Some("users".to_owned())));
        assert_eq!(of(&["plinth.mtls"], "v2.users.service.dc1.consul"), Ok(Some("users".to_owned())));
        assert_eq!(of(&["plinth.mtls:users"], "pool"), Ok(Some("users".to_owned())));
        for (tags, host) in [
            (&["plinth.mtls"][..], "example.org"),
            (&["plinth.mtls:"], "users.service.consul"),
            (&["plinth.mtsl"], "users.service.consul"),
            (&["plinth.mtls", "plinth.mtls:users"], "users.service.consul"),
        ] {
            let error = of(tags, host).unwrap_err();
            assert!(error.contains("plinth."), "{tags:?} {host}: {error}");
        }
    }
}
