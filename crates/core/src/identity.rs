//! Who this process is towards other services, and whom it believes: mutual TLS with SPIFFE identities.
//!
//! An [`Identity`] holds a certificate with its key and the roots it trusts. They come from Consul's certificate authority
//! ([`Identity::connect`]) or from files ([`Identity::files`]) and are replaced while everything goes on: the TLS configurations made
//! of it ask for the present ones at each handshake, connections keep what they began with.
//!
//! Invariants: a peer is verified with the roots of now at every handshake (sessions are not resumed, so what is no longer trusted
//! does not come back through a ticket); without material there is no identity, and nobody listens without one.

mod connect;
mod der;
mod files;
mod intentions;
mod material;
mod mesh;
mod spiffe;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;

pub use der::expiry;
pub use files::{FileChanges, Files};
pub use intentions::{Decision, Intentions};
pub use material::Material;
pub use mesh::MeshConnector;
pub use spiffe::{IdPattern, SpiffeId};
pub use verify::{Callee, Caller, Refused};

/// How names in certificates are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Consul's: `spiffe://<trust domain>/ns/<namespace>/dc/<datacenter>/svc/<service>`, nothing else counts.
    Connect,
    /// Any authority's: a SPIFFE id that ends in `/svc/<service>` or `/sa/<service>`, else a DNS name.
    Files,
}

/// Whether callers must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    Required,
    /// One that is shown is verified; callers without one are let in, too.
    Optional,
}

/// Cheap to clone; dropping the last clone (and the last TLS configuration made of it) ends what keeps it fresh.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
    _fresh: Arc<DropGuard>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    material: ArcSwap<Material>,
    naming: Naming,
    provider: Arc<CryptoProvider>,
    rotations: AtomicU64,
}

impl Shared {
    fn replace(&self, material: Material) {
        self.material.store(Arc::new(material));
        self.rotations.fetch_add(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.current().id()).finish_non_exhaustive()
    }
}

impl Identity {
    fn new(material: Material, naming: Naming, provider: Arc<CryptoProvider>) -> (Self, CancellationToken) {
        let shared = Shared {
            material: ArcSwap::from_pointee(material),
            naming,
            provider,
            rotations: AtomicU64::new(0),
        };
        let ended = CancellationToken::new();
        let fresh = Arc::new(ended.clone().drop_guard());
        (Self { shared: Arc::new(shared), _fresh: fresh }, ended)
    }

    /// Certificate, key and roots of now.
    pub fn current(&self) -> Arc<Material> {
        self.shared.material.load_full()
    }

    /// How often they were replaced.
    pub fn rotations(&self) -> u64 {
        self.shared.rotations.load(Ordering::Relaxed)
    }

    /// How names in certificates are read.
    pub fn naming(&self) -> Naming {
        self.shared.naming
    }

    /// For a listener: shows this identity and verifies callers' certificates. What they may do is for the caller of
    /// this to decide, with [`Identity::caller`].
    ///
    /// # Errors
    /// An identity without a certificate of its own.
    pub fn server_config(&self, clients: Clients, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
        if !self.current().has_own() {
            return Err(verify::fault("a listener", "it needs a certificate and a key"));
        }
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.shared.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| verify::tls_fault("protocol versions", error))?;
        let verifier = verify::ClientCheck::new(self.clone(), clients);
        let mut config = builder
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(verify::Own(self.clone())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For connections to one service: shows this identity, if there is a certificate, and verifies that the peer is
    /// the service.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn client_config(&self, callee: Callee, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.shared.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| verify::tls_fault("protocol versions", error))?;
        let verifier = verify::ServerCheck::new(self.clone(), callee);
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(verify::Own(self.clone())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Like [`Identity::client_config`], but whoever answers is believed; this identity is shown when asked for.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn unverified_client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
        let provider = Arc::clone(&self.shared.provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| verify::tls_fault("protocol versions", error))?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(crate::tls::AnyCertificate::new(provider)))
            .with_client_cert_resolver(Arc::new(verify::Own(self.clone())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Who a verified caller is, by the certificate that it showed.
    ///
    /// # Errors
    /// With [`Naming::Connect`]: the certificate holds no service's id of this trust domain.
    pub fn caller(&self, certificate: &CertificateDer<'_>) -> Result<Caller, Refused> {
        verify::caller(&self.current(), self.shared.naming, certificate)
    }
}
