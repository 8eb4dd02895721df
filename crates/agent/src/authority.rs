//! The mesh's certificate authority: roots, and certificates of services with their SPIFFE identity.
//!
//! The state keeps the roots with their keys (so they are as durable as everything else); certificates of services are made
//! when asked for and kept in memory only, with the key that belongs to them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};

use crate::state::ca::Root;

mod der;
mod external;

pub(crate) use external::root as external_root;

/// How long a root is valid.
const ROOT_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A root this near its end is replaced, so that every certificate it signed ends before it.
pub(crate) const ROOT_RENEWED_BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from a little before now, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(60);
/// A certificate of a service is replaced after this part of its life.
pub(crate) const LEAF_RENEWED_AFTER: f64 = 0.6;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make a certificate: {0}")]
    Signing(#[from] rcgen::Error),
    #[error("cannot make a certificate: the key has no PKCS#8 form that is understood")]
    Key,
    #[error("cannot read the root certificate: it is {0}")]
    Certificate(&'static str),
    #[error("no PEM-encoded data found")]
    NotPem,
    #[error("the private key is not that of the root certificate")]
    OtherKey,
}

/// A service's certificate and key.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub serial: u64,
    /// PEM: the certificate, then those that link it to an older root.
    pub certificate: String,
    /// PEM.
    pub key: String,
    pub service: String,
    pub uri: String,
    /// Seconds since the epoch.
    pub valid_after: u64,
    pub valid_before: u64,
    /// The root that signed it.
    pub root: String,
    pub index: u64,
}

impl Leaf {
    /// When it should be replaced, seconds since the epoch.
    pub fn renewed_at(&self) -> u64 {
        let life = self.valid_before.saturating_sub(self.valid_after) as f64;
        self.valid_after + (life * LEAF_RENEWED_AFTER) as u64
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(crate) fn rfc3339(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// `aa:bb:cc`.
fn with_colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn key_id(key: &KeyPair) -> Vec<u8> {
    digest::digest(&digest::SHA256, &key.subject_public_key_info()).as_ref().to_vec()
}

/// As DER writes a number: without zeros before it but one that keeps it from being negative.
fn serial_bytes(serial: u64) -> Vec<u8> {
    let digits: Vec<u8> = serial.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    if digits.first().is_none_or(|first| *first >= 0x80) { [&[0], &digits[..]].concat() } else { digits }
}

fn certificate(
    common_name: &str,
    uri: String,
    serial: u64,
    from: u64,
    until: u64,
) -> Result<CertificateParams, Error> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(until);
    params.serial_number = Some(SerialNumber::from(serial_bytes(serial)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// As an issuer, a root is its name and its key.
fn root_params(
    common_name: &str,
    cluster: &str,
    serial: u64,
    from: u64,
    id: Vec<u8>,
) -> Result<CertificateParams, Error> {
    let uri = format!("spiffe://{cluster}.consul");
    let mut params = certificate(common_name, uri, serial, from, from + ROOT_VALID.as_secs())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(id);
    Ok(params)
}

/// A new root, with the key given (PEM) or a new one. `before` signs it too, so that who trusts only the old root trusts
/// what the new one signs.
pub(crate) fn new_root(
    cluster: &str,
    serial: u64,
    at: u64,
    key: Option<&str>,
    before: Option<&Root>,
) -> Result<Root, Error> {
    let key = match key {
        Some(pem) => KeyPair::from_pem(pem)?,
        None => KeyPair::generate()?,
    };
    let id = key_id(&key);
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
    let short = cluster.split('-').next().unwrap_or_default();
    let common_name = format!("pri-{}.consul.ca.{short}.consul", random.to_lowercase());
    let params = root_params(&common_name, cluster, serial, at, id.clone())?;
    let own = params.self_signed(&key)?;
    let cross_signed = match before {
        None => None,
        Some(old) if old.external => Some(external::signed_by(own.der(), old, None)?),
        Some(old) => Some(params.signed_by(&key, &issuer(old, cluster)?)?.pem()),
    };
    let ec = key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256;
    Ok(Root {
        id: with_colons(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, own.der()).as_ref()),
        common_name,
        serial,
        signing_key_id: with_colons(&id),
        not_before: rfc3339(at),
        not_after: rfc3339(at + ROOT_VALID.as_secs()),
        certificate: own.pem().replace("\r\n", "\n"),
        key: key.serialize_pem(),
        key_type: if ec { "ec" } else { "rsa" }.to_owned(),
        key_bits: if ec { 256 } else { 2048 },
        cross_signed: cross_signed.map(|pem| pem.replace("\r\n", "\n")),
        external: false,
        active: true,
        create_index: 0,
        modify_index: 0,
    })
}

fn issuer(root: &Root, cluster: &str) -> Result<Issuer<'static, KeyPair>, Error> {
    let key = KeyPair::from_pem(&root.key)?;
    let params = root_params(&root.common_name, cluster, root.serial, 0, key_id(&key))?;
    Ok(Issuer::new(params, key))
}

/// Who a certificate is for.
pub(crate) struct Subject<'a> {
    /// UUID of the cluster.
    pub cluster: &'a str,
    pub datacenter: &'a str,
    pub service: &'a str,
}

/// Signs a certificate for a service with a new key.
pub(crate) fn issue(
    root: &Root,
    subject: &Subject<'_>,
    serial: u64,
    valid: Duration,
    at: u64,
) -> Result<Leaf, Error> {
    let Subject { cluster, datacenter, service } = subject;
    let key = KeyPair::generate()?;
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    let escape = |text: &str| utf8_percent_encode(text, KEPT).to_string();
    let uri =
        format!("spiffe://{cluster}.consul/ns/default/dc/{}/svc/{}", escape(datacenter), escape(service));
    let name: String = service.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let short = cluster.split('-').next().unwrap_or_default();
    let common_name = format!("{name}.svc.default.{short}.consul");
    let from = at.saturating_sub(BACKDATED.as_secs());
    let mut until = from + valid.as_secs();
    if root.external {
        // ours are replaced long before they end
        until = until.min(external::ends(root)?);
    }
    let mut params = certificate(&common_name, uri.clone(), serial, from, until)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DataEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(&key));
    let mut pem = if root.external {
        external::signed_by(params.self_signed(&key)?.der(), root, None)?
    } else {
        params.signed_by(&key, &issuer(root, cluster)?)?.pem().replace("\r\n", "\n")
    };
    pem.push_str(root.cross_signed.as_deref().unwrap_or_default());
    Ok(Leaf {
        serial,
        certificate: pem,
        key: ec_private_key(&key)?,
        service: (*service).to_owned(),
        uri,
        valid_after: from,
        valid_before: until,
        root: root.id.clone(),
        index: 0,
    })
}

/// The key in the form Consul hands out: an `EC PRIVATE KEY` (RFC 5915), which some clients insist on.
fn ec_private_key(key: &KeyPair) -> Result<String, Error> {
    /// Version 1 and the start of the 32-byte secret, in RFC 5915's structure inside PKCS#8.
    const SECRET: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
    /// The curve's name, P-256, and the start of the public point.
    const CURVE: [u8; 16] =
        [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42];
    let pkcs8 = key.serialized_der();
    let at = pkcs8.windows(SECRET.len()).position(|window| window == SECRET).ok_or(Error::Key)?;
    let secret = pkcs8.get(at + SECRET.len()..at + SECRET.len() + 32).ok_or(Error::Key)?;
    let point = key.public_key_raw();
    if point.len() != 65 {
        return Err(Error::Key);
    }
    let mut der = vec![0x30, 0x77];
    der.extend_from_slice(&SECRET);
    der.extend_from_slice(secret);
    der.extend_from_slice(&CURVE);
    der.push(0x00);
    der.extend_from_slice(point);
    Ok(pem("EC PRIVATE KEY", &der))
}

fn pem_of(certificate: &[u8]) -> String {
    pem("CERTIFICATE", certificate)
}

fn pem(what: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {what}-----\n");
    let text = STANDARD.encode(der);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {what}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

    use super::*;

    pub(super) const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";

    pub(super) fn leaf_of(root: &Root, serial: u64) -> Leaf {
        let subject = Subject { cluster: CLUSTER, datacenter: "dc1", service: "web x" };
        issue(root, &subject, serial, Duration::from_secs(3600), now()).unwrap()
    }

    /// Whether a TLS library that trusts `root` takes the chain for a client's.
    pub(super) fn trusted(root: &Root, leaf: &Leaf) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let chain: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
        let (own, more) = chain.split_first().unwrap();
        verifier.verify_client_cert(own, more, UnixTime::now()).is_ok()
    }

    #[test]
    fn certificates_are_taken_by_who_trusts_the_root() {
        let root = new_root(CLUSTER, 7, now(), None, None).unwrap();
        let leaf = leaf_of(&root, 8);
        assert!(trusted(&root, &leaf));
        assert_eq!(leaf.uri, format!("spiffe://{CLUSTER}.consul/ns/default/dc/dc1/svc/web%20x"));
        assert!(!trusted(&new_root(CLUSTER, 9, now(), None, None).unwrap(), &leaf));
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        assert!(matches!(key, PrivateKeyDer::Sec1(_)));
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    }

    #[test]
    fn after_a_rotation_both_roots_do() {
        let old = new_root(CLUSTER, 7, now(), None, None).unwrap();
        let new = new_root(CLUSTER, 9, now(), None, Some(&old)).unwrap();
        let leaf = leaf_of(&new, 10);
        assert!(trusted(&new, &leaf) && trusted(&old, &leaf));
        assert_ne!(old.id, new.id);
    }

    #[test]
    fn a_given_key_is_used() {
        let key = KeyPair::generate().unwrap();
        let root = new_root(CLUSTER, 7, now(), Some(&key.serialize_pem()), None).unwrap();
        assert_eq!(root.signing_key_id, with_colons(&key_id(&key)));
        assert!(new_root(CLUSTER, 7, now(), Some("nonsense"), None).is_err());
    }
}
