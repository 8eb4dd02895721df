//! Root certificates that were made elsewhere: what of them the agent shows and signs with. Their names are kept byte for
//! byte, since who verifies a chain compares them so.

use aws_lc_rs::digest;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::der::{self, Element};
use super::{Error, Root, key_id, pem_of, rfc3339, serial_bytes, with_colons};

const SUBJECT_KEY_ID: [u8; 3] = [0x55, 0x1d, 0x0e];
const AUTHORITY_KEY_ID: [u8; 3] = [0x55, 0x1d, 0x23];
/// Where the parts of a certificate stand that say its version first.
const VERSION_TAG: u8 = 0xa0;
const EXTENSIONS_TAG: u8 = 0xa3;

/// The parts of a certificate, in their order.
struct Parts<'a> {
    version: Element<'a>,
    serial: Element<'a>,
    algorithm: Element<'a>,
    validity: Element<'a>,
    subject: Element<'a>,
    key: Element<'a>,
    /// Each a sequence.
    extensions: Vec<Element<'a>>,
}

impl<'a> Parts<'a> {
    fn of(certificate: &'a [u8]) -> Result<Parts<'a>, Error> {
        let strange = || Error::Certificate("not of version 3");
        let whole = der::one(certificate, der::SEQUENCE)?.inner()?;
        let signed = whole.first().filter(|part| part.tag == der::SEQUENCE).ok_or_else(strange)?.inner()?;
        let [version, serial, algorithm, _issuer, validity, subject, key, more @ ..] = &signed[..] else {
            return Err(strange());
        };
        if version.tag != VERSION_TAG || serial.tag != der::INTEGER {
            return Err(strange());
        }
        let extensions = match more.iter().find(|part| part.tag == EXTENSIONS_TAG) {
            Some(part) => der::one(part.content, der::SEQUENCE)?.inner()?,
            None => Vec::new(),
        };
        let [version, serial, algorithm] = [version, serial, algorithm].map(|part| *part);
        let [validity, subject, key] = [validity, subject, key].map(|part| *part);
        Ok(Parts { version, serial, algorithm, validity, subject, key, extensions })
    }

    /// The value of an extension.
    fn extension(&self, id: [u8; 3]) -> Result<Option<&'a [u8]>, Error> {
        for extension in &self.extensions {
            let parts = extension.inner()?;
            if parts.first().is_some_and(|name| name.tag == der::OBJECT_ID && name.content == id) {
                return Ok(parts.last().filter(|value| value.tag == der::OCTET_STRING).map(|v| v.content));
            }
        }
        Ok(None)
    }

    fn subject_key_id(&self) -> Result<Option<Vec<u8>>, Error> {
        let value = self.extension(SUBJECT_KEY_ID)?;
        value.map(|value| Ok(der::one(value, der::OCTET_STRING)?.content.to_vec())).transpose()
    }

    /// Signed anew by `issuer`.
    fn signed(&self, issuer: &Issued<'_>) -> Result<Vec<u8>, Error> {
        let algorithm = issuer.algorithm()?;
        let serial = match issuer.serial {
            Some(serial) => der::wrap(der::INTEGER, &[&serial_bytes(serial)]),
            None => self.serial.whole.to_vec(),
        };
        let mut extensions = Vec::new();
        for extension in &self.extensions {
            let name = extension.inner()?;
            if name.first().is_none_or(|name| name.content != AUTHORITY_KEY_ID) {
                extensions.extend_from_slice(extension.whole);
            }
        }
        let by_id = der::wrap(0x80, &[&issuer.key_id]);
        let value = der::wrap(der::OCTET_STRING, &[&der::wrap(der::SEQUENCE, &[&by_id])]);
        let name = der::wrap(der::OBJECT_ID, &[&AUTHORITY_KEY_ID]);
        extensions.extend(der::wrap(der::SEQUENCE, &[&name, &value]));
        let extensions = der::wrap(EXTENSIONS_TAG, &[&der::wrap(der::SEQUENCE, &[&extensions])]);
        let (version, validity) = (self.version.whole, self.validity.whole);
        let (subject, key) = (self.subject.whole, self.key.whole);
        let own: [&[u8]; 8] =
            [version, &serial, &algorithm, &issuer.name, validity, subject, key, &extensions];
        let signed = der::wrap(der::SEQUENCE, &own);
        let signature = issuer.key.sign(&signed)?;
        let signature = der::wrap(der::BIT_STRING, &[&[0], &signature]);
        Ok(der::wrap(der::SEQUENCE, &[&signed, &algorithm, &signature]))
    }
}

/// Who signs, as it is to stand in what is signed.
struct Issued<'a> {
    name: Vec<u8>,
    key_id: Vec<u8>,
    key: &'a KeyPair,
    serial: Option<u64>,
}

impl Issued<'_> {
    /// The name of the way in which the key signs, taken from a certificate that it signs for this.
    fn algorithm(&self) -> Result<Vec<u8>, Error> {
        let probe = rcgen::CertificateParams::default().self_signed(self.key)?;
        Ok(Parts::of(probe.der())?.algorithm.whole.to_vec())
    }
}

fn der_of(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::NotPem)
}

/// A root of somebody else's making, with its key (both PEM). `before` signs its key too, under the serial number given.
pub(crate) fn root(certificate: &str, key: &str, serial: u64, before: Option<&Root>) -> Result<Root, Error> {
    let der = der_of(certificate)?;
    let parts = Parts::of(&der)?;
    let key = KeyPair::from_pem(key)?;
    if parts.key.whole != key.subject_public_key_info() {
        return Err(Error::OtherKey);
    }
    let validity = parts.validity.inner()?;
    let [from, until] = &validity[..] else {
        return Err(Error::Certificate("without a time"));
    };
    let (not_before, not_after) = (seconds(from)?, seconds(until)?);
    let number = parts.serial.content.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let cross_signed = match before {
        None => None,
        Some(old) => Some(signed_by(&der, old, Some(serial))?),
    };
    Ok(Root {
        id: with_colons(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der).as_ref()),
        common_name: String::new(),
        serial: number,
        signing_key_id: with_colons(&parts.subject_key_id()?.unwrap_or_default()),
        not_before: rfc3339(not_before),
        not_after: rfc3339(not_after),
        certificate: pem_of(&der),
        key_type: if key.algorithm() == &rcgen::PKCS_RSA_SHA256 { "rsa" } else { "ec" }.to_owned(),
        key_bits: key_bits(&key),
        key: key.serialize_pem(),
        cross_signed,
        external: true,
        active: true,
        create_index: 0,
        modify_index: 0,
    })
}

/// The certificate in `der` signed by a root; in PEM.
pub(super) fn signed_by(der: &[u8], root: &Root, serial: Option<u64>) -> Result<String, Error> {
    let own = der_of(&root.certificate)?;
    let own = Parts::of(&own)?;
    let key = KeyPair::from_pem(&root.key)?;
    let key_id = match own.subject_key_id()? {
        Some(id) => id,
        None => key_id(&key),
    };
    let issuer = Issued { name: own.subject.whole.to_vec(), key_id, key: &key, serial };
    Ok(pem_of(&Parts::of(der)?.signed(&issuer)?))
}

/// When a root ends, seconds since the epoch.
pub(super) fn ends(root: &Root) -> Result<u64, Error> {
    let der = der_of(&root.certificate)?;
    let parts = Parts::of(&der)?;
    parts.validity.inner()?.get(1).map_or(Err(Error::Certificate("without a time")), seconds)
}

fn key_bits(key: &KeyPair) -> u32 {
    let algorithm = key.algorithm();
    if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
        256
    } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
        384
    } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
        // the modulus is the first number of the key, with a zero before it
        let modulus = der::one(key.der_bytes(), der::SEQUENCE).and_then(|key| key.inner());
        modulus
            .ok()
            .and_then(|parts| parts.first().map(|n| n.content.len().saturating_sub(1) as u32 * 8))
            .unwrap_or(0)
    } else {
        521
    }
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn seconds(time: &Element<'_>) -> Result<u64, Error> {
    let strange = || Error::Certificate("has a time that is none");
    let text = std::str::from_utf8(time.content).map_err(|_| strange())?;
    let text = match time.tag {
        der::UTC_TIME if text.len() == 13 => {
            // RFC 5280: two digits from 50 on are of the last century
            let century = if text < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }
        der::GENERALIZED_TIME => text.to_owned(),
        _ => return Err(strange()),
    };
    let read = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", &text).map_err(|_| strange())?;
    let at = read.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| strange())?.timestamp().as_second();
    // one that began before the epoch is shown as of it
    Ok(u64::try_from(at).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyUsagePurpose,
    };

    use super::super::tests::{CLUSTER, leaf_of, trusted};
    use super::super::{new_root, now};
    use super::*;

    /// A root as a company's own authority makes it, and its key.
    fn given(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let country = DnValue::PrintableString("DE".try_into().unwrap());
        params.distinguished_name.push(DnType::CountryName, country);
        params.distinguished_name.push(DnType::OrganizationName, "Beispiel & S\u{f6}hne");
        params.distinguished_name.push(DnType::CommonName, "Root 7");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2062, 1, 2);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn it_signs_as_itself_and_is_linked_to_the_one_before() {
        let kinds = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ec", 256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ec", 384),
            (&rcgen::PKCS_RSA_SHA256, "rsa", 2048),
        ];
        for (algorithm, kind, bits) in kinds {
            let (certificate, key) = given(algorithm);
            let old = new_root(CLUSTER, 7, now(), None, None).unwrap();
            let root = root(&certificate, &key, 8, Some(&old)).unwrap();
            assert_eq!((root.key_type.as_str(), root.key_bits), (kind, bits));
            assert_eq!(root.not_before, "1999-12-31T00:00:00Z");
            assert_eq!(root.not_after, "2062-01-02T00:00:00Z");
            assert_eq!(root.certificate, certificate.replace("\r\n", "\n"));
            let leaf = leaf_of(&root, 9);
            assert!(trusted(&root, &leaf), "{kind} {bits}");
            assert!(trusted(&old, &leaf), "{kind} {bits}: by who trusts only the root before");
            assert!(!trusted(&new_root(CLUSTER, 7, now(), None, None).unwrap(), &leaf));
            // and back to one that the agent makes
            let next = new_root(CLUSTER, 10, now(), None, Some(&root)).unwrap();
            let leaf = leaf_of(&next, 11);
            assert!(trusted(&next, &leaf) && trusted(&root, &leaf), "{kind} {bits}");
        }
    }

    #[test]
    fn no_leaf_outlives_it() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(now() + 600);
        let certificate = params.self_signed(&key).unwrap();
        let root = root(&certificate.pem(), &key.serialize_pem(), 8, None).unwrap();
        let leaf = leaf_of(&root, 9);
        assert!(leaf.valid_before <= now() + 600 && trusted(&root, &leaf));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (certificate, key) = given(&rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, other) = given(&rcgen::PKCS_ECDSA_P256_SHA256);
        let told = |certificate: &str, key: &str| root(certificate, key, 8, None).unwrap_err().to_string();
        assert_eq!(told(&certificate, &other), "the private key is not that of the root certificate");
        assert_eq!(told("nonsense", &key), "no PEM-encoded data found");
        assert!(told(&pem_of(b"no certificate"), &key).starts_with("cannot read the root certificate"));
        assert!(root(&certificate, "nonsense", 8, None).is_err());
        // cut anywhere it is refused; changed anywhere it is no panic
        let der = der_of(&certificate).unwrap();
        for end in 0..der.len() {
            assert!(root(&pem_of(&der[..end]), &key, 8, None).is_err(), "{end}");
        }
        for at in 0..der.len() {
            let mut changed = der.to_vec();
            changed[at] ^= 0x81;
            let _ = root(&pem_of(&changed), &key, 8, None);
        }
    }
}
