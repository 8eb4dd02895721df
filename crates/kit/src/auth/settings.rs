//! Settings of bearer authentication.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::settings::{Reader, Secret};

use super::{DEFAULT_AUDIENCE, DEFAULT_ISSUER};

/// Where the keys come from and what tokens must say.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// JWKS over HTTP(S).
    pub jwks_url: Option<String>,
    /// JWKS in a file.
    pub jwks_file: Option<PathBuf>,
    /// Public keys in PEM: RSA, EC P-256 or Ed25519.
    pub key_files: Vec<PathBuf>,
    /// Public keys in PEM given as text; used by `plinth up`, not a setting.
    pub keys_pem: Vec<String>,
    /// Shared secret of HS256, at least 32 bytes.
    pub secret: Option<Secret>,
    /// Accepted issuers.
    pub issuers: Vec<String>,
    /// Accepted audiences.
    pub audiences: Vec<String>,
    /// Accept everybody; on loopback only.
    pub disabled: bool,
    /// Clock difference that is forgiven for `exp` and `nbf`.
    pub leeway: Duration,
    /// How often a JWKS is read again.
    pub jwks_refresh: Duration,
    /// The shortest time between two reads that tokens with unknown keys can cause.
    pub jwks_cooldown: Duration,
}

impl Default for AuthSettings {
    fn default() -> Self {
        AuthSettings {
            jwks_url: None,
            jwks_file: None,
            key_files: Vec::new(),
            keys_pem: Vec::new(),
            secret: None,
            issuers: vec![DEFAULT_ISSUER.to_owned()],
            audiences: vec![DEFAULT_AUDIENCE.to_owned()],
            disabled: false,
            leeway: Duration::from_secs(30),
            jwks_refresh: Duration::from_secs(300),
            jwks_cooldown: Duration::from_secs(10),
        }
    }
}

impl AuthSettings {
    /// Reads `auth.*`.
    pub fn read(reader: &mut Reader) -> AuthSettings {
        let settings = AuthSettings {
            jwks_url: reader.opt("auth.jwks_url", "URL of the JWKS with the keys that sign tokens"),
            jwks_file: reader.opt("auth.jwks_file", "file with such a JWKS, read again when it changes"),
            key_files: reader.list(
                "auth.key_file",
                "public key in PEM (RSA, EC P-256 or Ed25519) that verifies tokens, read again when the file changes; several separated by commas",
                "",
            ),
            keys_pem: Vec::new(),
            secret: reader.secret("auth.secret", "shared secret (32 bytes or more) that verifies HS256 tokens"),
            issuers: reader.list("auth.issuer", "accepted iss claims", DEFAULT_ISSUER),
            audiences: reader.list("auth.audience", "accepted aud claims", DEFAULT_AUDIENCE),
            disabled: reader.get("auth.disabled", "accept every caller; on loopback addresses only", false),
            leeway: reader.duration_in(
                "auth.leeway",
                "clock difference forgiven when checking exp and nbf",
                Duration::from_secs(30),
                Duration::ZERO..=Duration::from_secs(300),
            ),
            jwks_refresh: reader.duration_in(
                "auth.jwks_refresh",
                "how often the JWKS is read again",
                Duration::from_secs(300),
                Duration::from_secs(1)..=Duration::from_secs(86_400),
            ),
            jwks_cooldown: reader.duration_in(
                "auth.jwks_cooldown",
                "shortest time between two reads of the JWKS that tokens with unknown keys can cause",
                Duration::from_secs(10),
                Duration::from_millis(100)..=Duration::from_secs(3600),
            ),
        };
        settings.check(reader);
        settings
    }

    /// True when there is no key at all.
    pub fn has_no_key(&self) -> bool {
        self.jwks_url.is_none()
            && self.jwks_file.is_none()
            && self.key_files.is_empty()
            && self.keys_pem.is_empty()
            && self.secret.is_none()
    }

    /// True when every caller is accepted.
    pub fn is_open(&self) -> bool {
        self.disabled || self.has_no_key()
    }

    /// Why a listener on `listen` must not start with these settings: the setting and the message. A service
    /// that others can reach never accepts everybody.
    pub fn exposure_fault(&self, listen: SocketAddr) -> Option<(&'static str, String)> {
        if listen.ip().to_canonical().is_loopback() || !self.is_open() {
            None
        } else if self.disabled {
            Some(("auth.disabled", format!("is only possible on a loopback address, not on {listen}")))
        } else {
            Some((
                "auth.key_file",
                format!(
                    "a service on {listen} needs a key that verifies tokens; give auth.key_file, auth.jwks_url, \
                     auth.jwks_file or auth.secret, or listen on 127.0.0.1"
                ),
            ))
        }
    }

    fn check(&self, reader: &mut Reader) {
        if let Some(url) = &self.jwks_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            reader.fault("auth.jwks_url", "expected a URL that begins with https:// or http://");
        }
        if self.secret.as_ref().is_some_and(|secret| secret.expose().len() < 32) {
            reader.fault("auth.secret", "is shorter than 32 bytes; a shorter one can be guessed");
        }
        if self.issuers.is_empty() {
            reader.fault("auth.issuer", "is empty; give at least one issuer");
        }
        if self.audiences.is_empty() {
            reader.fault("auth.audience", "is empty; give at least one audience");
        }
        if let Err(error) = super::keys::static_keys(self) {
            reader.fault(error.setting(), error.to_string());
        }
        if let Some(path) = &self.jwks_file
            && let Err(error) = super::jwks::read_file(path)
        {
            reader.fault("auth.jwks_file", crate::problem::chain(&error));
        }
    }
}
