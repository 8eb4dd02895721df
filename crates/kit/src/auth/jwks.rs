//! Reading JSON Web Key Sets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::Value;

use crate::outbound::{Outbound, OutboundError};

use super::keys::{VerifyKey, from_jwk};

/// Largest JWKS that is read.
const LIMIT: usize = 1 << 20;
/// Longest time that fetching one may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a JWKS could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("cannot read the JWKS {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("cannot fetch the JWKS {url}")]
    Unreachable { url: String, source: OutboundError },
    #[error("the JWKS {url} was answered with status {status}")]
    Status { url: String, status: u16 },
    #[error("the JWKS {origin} is not a JSON Web Key Set")]
    Malformed { origin: String, source: serde_json::Error },
    #[error("the JWKS {origin} holds no RSA, EC P-256 or Ed25519 key for signatures")]
    NoKey { origin: String },
}

/// A key set and the text from which it came, to notice changes.
pub(super) struct Fetched {
    pub text: Vec<u8>,
    pub keys: Vec<VerifyKey>,
}

pub(super) fn read_file(path: &Path) -> Result<Fetched, JwksError> {
    let text =
        std::fs::read(path).map_err(|source| JwksError::Unreadable { path: path.to_owned(), source })?;
    let keys = parse(&path.display().to_string(), &text)?;
    Ok(Fetched { text, keys })
}

pub(super) async fn fetch(client: &Outbound, url: &str) -> Result<Fetched, JwksError> {
    let response = client
        .get(url, TIMEOUT, LIMIT)
        .await
        .map_err(|source| JwksError::Unreachable { url: url.to_owned(), source })?;
    if !response.status().is_success() {
        return Err(JwksError::Status { url: url.to_owned(), status: response.status().as_u16() });
    }
    let text = response.into_body().to_vec();
    let keys = parse(url, &text)?;
    Ok(Fetched { text, keys })
}

fn parse(origin: &str, text: &[u8]) -> Result<Vec<VerifyKey>, JwksError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text)
        .map_err(|source| JwksError::Malformed { origin: origin.to_owned(), source })?;
    // RFC 7517 section 5: keys of unknown types are to be ignored, not to spoil the set.
    let keys: Vec<VerifyKey> = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
        .filter_map(|jwk| from_jwk(&jwk))
        .collect();
    if keys.is_empty() { Err(JwksError::NoKey { origin: origin.to_owned() }) } else { Ok(keys) }
}
