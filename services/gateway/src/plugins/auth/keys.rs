//! Keys that verify token signatures.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use plinth_kong::JwtAlgorithm;

/// A key ready for use, parsed once.
pub(in crate::plugins) enum VerifyingKey {
    Token(DecodingKey),
    /// ES512, which the token library does not know.
    P521(Vec<u8>),
}

/// Shows nothing: HMAC keys are secrets.
impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifyingKey")
    }
}

impl VerifyingKey {
    pub fn is_hmac(algorithm: JwtAlgorithm) -> bool {
        matches!(algorithm, JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512)
    }

    pub fn hmac(secret: &[u8]) -> VerifyingKey {
        VerifyingKey::Token(DecodingKey::from_secret(secret))
    }

    pub fn public(algorithm: JwtAlgorithm, pem: &str) -> Result<VerifyingKey, String> {
        use JwtAlgorithm as A;
        let bytes = pem.as_bytes();
        let key = match algorithm {
            A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => {
                DecodingKey::from_rsa_pem(bytes)
            }
            A::ES256 | A::ES384 => DecodingKey::from_ec_pem(bytes),
            A::EdDSA => DecodingKey::from_ed_pem(bytes),
            A::ES512 => return Ok(VerifyingKey::P521(p521_point(pem)?)),
            A::HS256 | A::HS384 | A::HS512 => return Err("an HMAC algorithm has no public key".to_owned()),
        };
        key.map(VerifyingKey::Token).map_err(|error| error.to_string())
    }

    /// Whether `signature` (base64url) is this key's over `message`.
    pub fn verifies(&self, algorithm: JwtAlgorithm, message: &str, signature: &str) -> bool {
        match self {
            VerifyingKey::Token(key) => token_algorithm(algorithm).is_some_and(|algorithm| {
                jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)
            }),
            VerifyingKey::P521(point) => URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)
                    .verify(message.as_bytes(), &signature)
                    .is_ok()
            }),
        }
    }
}

fn token_algorithm(algorithm: JwtAlgorithm) -> Option<Algorithm> {
    Some(match algorithm {
        JwtAlgorithm::HS256 => Algorithm::HS256,
        JwtAlgorithm::HS384 => Algorithm::HS384,
        JwtAlgorithm::HS512 => Algorithm::HS512,
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::RS384 => Algorithm::RS384,
        JwtAlgorithm::RS512 => Algorithm::RS512,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::ES384 => Algorithm::ES384,
        JwtAlgorithm::PS256 => Algorithm::PS256,
        JwtAlgorithm::PS384 => Algorithm::PS384,
        JwtAlgorithm::PS512 => Algorithm::PS512,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
        JwtAlgorithm::ES512 => return None,
    })
}

/// Bytes of an uncompressed P-521 point: 4, x, y.
const P521_POINT: usize = 1 + 2 * 66;

/// The point stands at the end of a SubjectPublicKeyInfo.
fn p521_point(pem: &str) -> Result<Vec<u8>, String> {
    let body = pem.split_once("-----BEGIN PUBLIC KEY-----").and_then(|(_, rest)| rest.split_once("-----END"));
    let (body, _) = body.ok_or("expected a PEM public key")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let der = STANDARD.decode(body).map_err(|error| error.to_string())?;
    // The object id of secp521r1.
    let named = der.windows(7).any(|bytes| bytes == [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23]);
    let point = der.len().checked_sub(P521_POINT).and_then(|at| der.get(at..));
    match point {
        Some(point) if named && point.first() == Some(&4) => Ok(point.to_vec()),
        _ => Err("expected a P-521 public key".to_owned()),
    }
}

/// Standard or URL-safe alphabet, padded or not, as Kong's decoder.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let plain: String = text
        .trim_end_matches('=')
        .chars()
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    URL_SAFE_NO_PAD.decode(plain).ok()
}
