//! Verification of peers with the material of now.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::spiffe::SpiffeId;
use super::{Clients, Identity, Material, Naming};
use crate::Error;

/// Whom a connection leads to.
#[derive(Debug, Clone)]
pub struct Callee {
    service: String,
    /// Who is not verified by the identity's roots may still be by these.
    other: Option<Arc<WebPkiServerVerifier>>,
}

impl Callee {
    /// The service of this name.
    pub fn service(name: impl Into<String>) -> Self {
        Self { service: name.into(), other: None }
    }

    /// The service, or else whoever has a certificate that this verifies for the host asked for.
    #[must_use]
    pub fn or(mut self, other: Arc<WebPkiServerVerifier>) -> Self {
        self.other = Some(other);
        self
    }
}

/// Why a verified chain is not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate holds a URI that is no SPIFFE id: {0}")]
    NoSpiffeId(String),
    #[error("the certificate holds no SPIFFE id")]
    Nameless,
    #[error("the certificate holds {0} SPIFFE ids, not one")]
    Several(usize),
    #[error("{id} is not of the trust domain {expected}")]
    Stranger { id: SpiffeId, expected: String },
    #[error("{0} is not a service's id")]
    NotAService(SpiffeId),
    #[error("expected the service {expected:?}, the certificate is for {found}")]
    Another { expected: String, found: String },
}

/// rustls shows other parties' errors as their `Debug`; what people read is the sentence.
struct Shown(Refused);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Shown {}

/// A caller whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// None: a certificate without one, which only [`Naming::Files`] lets pass.
    pub id: Option<SpiffeId>,
    /// Serial number as Consul writes them: `0a:1f`.
    pub serial: String,
}

/// All SPIFFE ids of a certificate.
pub(super) fn spiffe_ids(certificate: &CertificateDer<'_>) -> Result<Vec<SpiffeId>, Refused> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| Refused::Unreadable)?;
    let uris = parsed.valid_uri_names().filter(|uri| uri.to_ascii_lowercase().starts_with("spiffe:"));
    uris.map(|uri| uri.parse().map_err(|_| Refused::NoSpiffeId(uri.to_owned()))).collect()
}

pub(super) fn caller(
    material: &Material,
    naming: Naming,
    certificate: &CertificateDer<'_>,
) -> Result<Caller, Refused> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| Refused::Unreadable)?;
    let serial: Vec<String> = parsed.serial().iter().map(|byte| format!("{byte:02x}")).collect();
    let ids = spiffe_ids(certificate)?;
    let id = match (ids.as_slice(), naming) {
        ([one], _) => Some(one.clone()),
        ([], Naming::Files) => None,
        ([], Naming::Connect) => return Err(Refused::Nameless),
        (several, _) => return Err(Refused::Several(several.len())),
    };
    if let Some(id) = &id {
        same_domain(material, id)?;
        if naming == Naming::Connect && id.connect_service().is_none() {
            return Err(Refused::NotAService(id.clone()));
        }
    }
    Ok(Caller { id, serial: serial.join(":") })
}

fn same_domain(material: &Material, id: &SpiffeId) -> Result<(), Refused> {
    match material.trust_domain() {
        Some(expected) if expected != id.trust_domain() => {
            Err(Refused::Stranger { id: id.clone(), expected: expected.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Whether a verified certificate is that of a service; `host` is what was asked for.
fn is_service(
    material: &Material,
    naming: Naming,
    certificate: &CertificateDer<'_>,
    service: &str,
    host: &ServerName<'_>,
) -> Result<(), Refused> {
    let ids = spiffe_ids(certificate)?;
    let another = |found: String| Refused::Another { expected: service.to_owned(), found };
    let fits = |id: &SpiffeId| match naming {
        Naming::Connect => id.connect_service() == Some(service),
        Naming::Files => id.ends_in_service(service),
    };
    match ids.as_slice() {
        [one] if fits(one) => return same_domain(material, one),
        several if several.len() > 1 => return Err(Refused::Several(several.len())),
        [one] if naming == Naming::Connect => return Err(another(one.to_string())),
        [] if naming == Naming::Connect => return Err(Refused::Nameless),
        _ => {}
    }
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| Refused::Unreadable)?;
    let named = |name: &ServerName<'_>| parsed.verify_is_valid_for_subject_name(name).is_ok();
    let by_service = ServerName::try_from(service).is_ok_and(|name| named(&name));
    if by_service || named(host) {
        return Ok(());
    }
    let names = ids.iter().map(ToString::to_string).chain(parsed.valid_dns_names().map(str::to_owned));
    let names: Vec<String> = names.take(5).collect();
    Err(another(if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }))
}

/// The certificate of now, for both sides of a handshake.
#[derive(Debug)]
pub(super) struct Own(pub Identity);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current().own.clone()
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current().own.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.current().has_own()
    }
}

#[derive(Debug)]
pub(super) struct ServerCheck {
    identity: Identity,
    callee: Callee,
}

impl ServerCheck {
    pub(super) fn new(identity: Identity, callee: Callee) -> Self {
        Self { identity, callee }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let material = self.identity.current();
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.identity.shared.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &material.roots,
            intermediates,
            now,
            algorithms,
        )?;
        is_service(&material, self.identity.naming(), end_entity, &self.callee.service, host)
            .map_err(|refused| CertificateError::Other(OtherError(Arc::new(Shown(refused)))).into())
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verify(end_entity, intermediates, server_name, now);
        match (verified, &self.callee.other) {
            (Ok(()), _) => Ok(ServerCertVerified::assertion()),
            (Err(_), Some(other)) => {
                other.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.identity.shared.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.identity.shared.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.shared.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
pub(super) struct ClientCheck {
    identity: Identity,
    clients: Clients,
}

impl ClientCheck {
    pub(super) fn new(identity: Identity, clients: Clients) -> Self {
        Self { identity, clients }
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Required
    }

    /// None: the list would have to outlive the roots of now, and clients with one identity need no hint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.identity.current().clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.identity.current().clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.identity.current().clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.current().clients.supported_verify_schemes()
    }
}

pub(super) fn fault(what: &str, why: &str) -> Error {
    tls_fault(what, std::io::Error::other(why.to_owned()))
}

pub(super) fn tls_fault(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Tls { what: what.to_owned(), source: Box::new(error) }
}
