//! Certificate, key and roots at one moment.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::spiffe::SpiffeId;
use super::verify::{fault, spiffe_ids, tls_fault};
use crate::{Error, Secret};

/// Complete and consistent: the key fits the certificate, and the roots verify it.
#[derive(Debug)]
pub struct Material {
    pub(super) own: Option<Arc<CertifiedKey>>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    id: Option<SpiffeId>,
    trust_domain: Option<String>,
    expires: Option<Timestamp>,
}

/// PEM texts and where they are from, for messages.
pub(super) struct Pem<'a> {
    pub own: Option<(&'a str, &'a Secret)>,
    /// Authorities; each text may hold several.
    pub roots: Vec<&'a str>,
    pub trust_domain: Option<&'a str>,
    /// Names of certificate, key and roots.
    pub names: [&'a str; 3],
}

impl Material {
    pub(super) fn read(pem: &Pem<'_>, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let [cert_name, key_name, roots_name] = pem.names;
        let mut roots = RootCertStore::empty();
        for text in &pem.roots {
            for certificate in certificates(text, roots_name)? {
                roots.add(certificate).map_err(|error| tls_fault(roots_name, error))?;
            }
        }
        if roots.is_empty() {
            return Err(fault(roots_name, "it holds no certificate"));
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
            .build()
            .map_err(|error| tls_fault(roots_name, error))?;
        let Some((cert, key)) = pem.own else {
            let trust_domain = pem.trust_domain.map(str::to_ascii_lowercase);
            return Ok(Self { own: None, roots, clients, id: None, trust_domain, expires: None });
        };
        let chain = certificates(cert, cert_name)?;
        let Some((first, rest)) = chain.split_first() else {
            return Err(fault(cert_name, "it holds no certificate"));
        };
        // What peers would refuse is refused here, where somebody can read why.
        clients.verify_client_cert(first, rest, UnixTime::now()).map_err(|error| {
            tls_fault(&format!("{cert_name}: callees with {roots_name} would refuse it"), error)
        })?;
        let parsed = rustls::server::ParsedCertificate::try_from(first)
            .map_err(|error| tls_fault(cert_name, error))?;
        let algorithms = provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            rest,
            UnixTime::now(),
            algorithms,
        )
        .map_err(|error| {
            tls_fault(&format!("{cert_name}: callers with {roots_name} would refuse it"), error)
        })?;
        let id = match spiffe_ids(first).map_err(|refused| fault(cert_name, &refused.to_string()))?.as_slice()
        {
            [] => None,
            [one] => Some(one.clone()),
            _ => return Err(fault(cert_name, "it holds several SPIFFE ids")),
        };
        let trust_domain = pem.trust_domain.map(str::to_ascii_lowercase);
        let trust_domain = trust_domain.or_else(|| id.as_ref().map(|id| id.trust_domain().to_owned()));
        let expires = super::der::expiry(first);
        let private = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
            .map_err(|error| tls_fault(key_name, error))?;
        let own = CertifiedKey::from_der(chain, private, provider)
            .map_err(|error| tls_fault(&format!("{cert_name} and {key_name}"), error))?;
        Ok(Self { own: Some(Arc::new(own)), roots, clients, id, trust_domain, expires })
    }

    /// There is a certificate with its key, not only roots.
    pub fn has_own(&self) -> bool {
        self.own.is_some()
    }

    /// The SPIFFE id in the certificate.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }

    /// Consul's, else that of the SPIFFE id. Peers of other ones are strangers.
    pub fn trust_domain(&self) -> Option<&str> {
        self.trust_domain.as_deref()
    }

    /// When the certificate ends.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Whether it is the same certificate and the same roots.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let chain = |material: &Self| material.own.as_ref().map(|own| own.cert.clone());
        chain(self) == chain(other) && self.roots.roots == other.roots.roots
    }

    /// How many roots are trusted.
    pub fn roots(&self) -> usize {
        self.roots.len()
    }
}

fn certificates(text: &str, name: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| tls_fault(name, error))
}
