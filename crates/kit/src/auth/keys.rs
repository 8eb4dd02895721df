//! Verification keys, each pinned to one algorithm.

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::AuthSettings;

/// A key and the one algorithm that it verifies.
#[derive(Clone)]
pub(super) struct VerifyKey {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error(
        "{origin} holds no usable public key; expected PEM of an RSA, EC P-256 or Ed25519 public key (BEGIN PUBLIC KEY)"
    )]
    NoKey { origin: String },
    #[error("{origin} holds a private key; give the public key, services only verify")]
    Private { origin: String },
}

impl KeyError {
    pub(super) fn setting(&self) -> &'static str {
        "auth.key_file"
    }
}

/// What the PEM files hold, to notice changes.
pub(super) fn file_texts(settings: &AuthSettings) -> Result<Vec<Vec<u8>>, KeyError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| KeyError::Unreadable { path: path.clone(), error })
    };
    settings.key_files.iter().map(read).collect()
}

/// Reads the keys that no issuer publishes: PEM files, PEM texts and the shared secret.
pub(super) fn static_keys(settings: &AuthSettings) -> Result<Vec<VerifyKey>, KeyError> {
    let mut keys = Vec::new();
    for path in &settings.key_files {
        keys.extend(read_pem_file(path)?);
    }
    for text in &settings.keys_pem {
        keys.extend(parse_pem("the given key", text)?);
    }
    if let Some(secret) = &settings.secret {
        keys.push(VerifyKey {
            kid: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret.expose().as_bytes()),
        });
    }
    Ok(keys)
}

fn read_pem_file(path: &Path) -> Result<Vec<VerifyKey>, KeyError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| KeyError::Unreadable { path: path.to_owned(), error })?;
    parse_pem(&path.display().to_string(), &text)
}

/// All public keys of a PEM text; several blocks allow changing keys without a gap.
fn parse_pem(origin: &str, text: &str) -> Result<Vec<VerifyKey>, KeyError> {
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyError::Private { origin: origin.to_owned() });
    }
    let mut keys = Vec::new();
    for block in text.split_inclusive("-----END ").collect::<Vec<_>>().windows(2) {
        let [begin, end] = block else { continue };
        let Some(start) = begin.find("-----BEGIN ") else { continue };
        let label_end = end.find("-----").map_or(end.len(), |at| at + 5);
        let pem = format!("{}{}\n", &begin[start..], &end[..label_end]);
        let key =
            parse_pem_block(pem.as_bytes()).ok_or_else(|| KeyError::NoKey { origin: origin.to_owned() })?;
        keys.push(key);
    }
    if keys.is_empty() { Err(KeyError::NoKey { origin: origin.to_owned() }) } else { Ok(keys) }
}

fn parse_pem_block(pem: &[u8]) -> Option<VerifyKey> {
    let pinned = |algorithm, key| Some(VerifyKey { kid: None, algorithm, key });
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return pinned(Algorithm::EdDSA, key);
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        // An uncompressed P-256 point has 65 bytes; other curves do not belong to ES256.
        let is_p256 = key.try_get_as_bytes().is_ok_and(|point| point.len() == 65);
        return is_p256.then(|| VerifyKey { kid: None, algorithm: Algorithm::ES256, key });
    }
    DecodingKey::from_rsa_pem(pem).ok().and_then(|key| pinned(Algorithm::RS256, key))
}

/// The key of a JWK, or none when it is not for verifying signatures with an algorithm of ours. Symmetric keys are
/// refused: a JWKS is public.
pub(super) fn from_jwk(jwk: &Jwk) -> Option<VerifyKey> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if jwk.common.key_algorithm.as_ref().is_some_and(|given| *given != name) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerifyKey { kid: jwk.common.key_id.clone(), algorithm, key })
}
