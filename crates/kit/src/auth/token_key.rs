//! The key with which `plinth up` signs tokens.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;

use super::{Claims, DEFAULT_AUDIENCE, DEFAULT_ISSUER, Scope};

const FILE: &str = "token-key.pem";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// ASN.1 of an Ed25519 public key up to its 32 bytes (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    #[error("cannot use the signing key {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("others can read the signing key {}; it may be known: make a new one, or protect it (chmod o= for mounted keys, else 0600)", path.display())]
    Exposed { path: PathBuf },
    #[error("{} is not an Ed25519 private key in PEM", path.display())]
    Malformed { path: PathBuf },
    #[error("no Ed25519 key can be made")]
    Generate,
    #[error("the token cannot be signed")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// An Ed25519 key pair that signs tokens.
pub struct TokenKey {
    signing: EncodingKey,
    public: Vec<u8>,
}

impl TokenKey {
    /// Loads `<dir>/token-key.pem`, or makes it (mode 0600; the folder too if it is missing). Of two processes that
    /// make it at the same time one wins, and both use that one's.
    ///
    /// # Errors
    /// An unreadable, malformed or exposed file.
    pub fn load_or_create(dir: &Path) -> Result<TokenKey, TokenKeyError> {
        let path = dir.join(FILE);
        match TokenKey::load(&path) {
            Err(TokenKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create(dir, &path)?;
                TokenKey::load(&path)
            }
            other => other,
        }
    }

    /// Loads a key file.
    ///
    /// # Errors
    /// An unreadable, malformed or exposed file.
    pub fn load(path: &Path) -> Result<TokenKey, TokenKeyError> {
        TokenKey::load_unless(path, 0o077)
    }

    /// Loads a key file that its group may read too, as mounted secrets are.
    ///
    /// # Errors
    /// An unreadable or malformed file, or one that everybody can read.
    pub fn load_mounted(path: &Path) -> Result<TokenKey, TokenKeyError> {
        TokenKey::load_unless(path, 0o007)
    }

    fn load_unless(path: &Path, exposed: u32) -> Result<TokenKey, TokenKeyError> {
        let io = |source| TokenKeyError::Io { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(io)?.mode();
        if mode & exposed != 0 {
            return Err(TokenKeyError::Exposed { path: path.to_owned() });
        }
        let text = fs::read_to_string(path).map_err(io)?;
        let malformed = || TokenKeyError::Malformed { path: path.to_owned() };
        let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let base64: String = body.ok_or_else(malformed)?.split_whitespace().collect();
        let der = STANDARD.decode(base64).map_err(|_| malformed())?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| malformed())?;
        Ok(TokenKey { signing: EncodingKey::from_ed_der(&der), public: pair.public_key().as_ref().to_vec() })
    }

    /// The public key in PEM, for [`super::AuthSettings::keys_pem`] or `auth.key_file`.
    pub fn public_pem(&self) -> String {
        let der = [&SPKI_PREFIX[..], &self.public].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    /// The public key as a JWKS.
    pub fn public_jwks(&self) -> Value {
        serde_json::json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": self.kid(), "x": URL_SAFE_NO_PAD.encode(&self.public),
        }]})
    }

    /// The `kid` of tokens signed with this key: the RFC 7638 thumbprint.
    pub fn kid(&self) -> String {
        let members =
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(&self.public));
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, members.as_bytes()))
    }

    /// Signs a token for `subject` with these scopes, valid from now for `ttl`.
    ///
    /// # Errors
    /// Signing failed.
    pub fn issue(&self, subject: &str, scopes: &[Scope], ttl: Duration) -> Result<String, TokenKeyError> {
        let now = jsonwebtoken::get_current_timestamp();
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
        let claims = Claims {
            sub: subject.to_owned(),
            iss: Some(DEFAULT_ISSUER.to_owned()),
            aud: Value::from(DEFAULT_AUDIENCE),
            exp: (now + ttl.as_secs()) as f64,
            iat: Some(now as f64),
            nbf: None,
            scope: Value::from(scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ")),
            rest: serde_json::Map::new(),
        };
        self.sign(&claims)
    }

    /// Signs claims as they are.
    ///
    /// # Errors
    /// Signing failed.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenKeyError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid());
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

/// Writes a new key whole to a temporary file and links it into place: nobody reads half a key, and an existing
/// one is never replaced.
fn create(dir: &Path, path: &Path) -> Result<(), TokenKeyError> {
    let io = |source| TokenKeyError::Io { path: path.to_owned(), source };
    let pair = Ed25519KeyPair::generate().map_err(|_| TokenKeyError::Generate)?;
    // version 1, without the public key: OpenSSL reads no other
    let der = pair.to_pkcs8v1().map_err(|_| TokenKeyError::Generate)?;
    let pem = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der.as_ref()));
    fs::create_dir_all(dir).map_err(io)?;
    let temporary = dir.join(format!(".{FILE}.{}", uuid::Uuid::new_v4()));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        });
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = fs::remove_file(&temporary);
    linked.and(removed).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Auth, AuthSettings};
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn signs_what_the_verifier_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::load_or_create(dir.path()).unwrap();
        let again = TokenKey::load_or_create(dir.path()).unwrap();
        assert_eq!(key.kid(), again.kid(), "the key is kept");
        let token = again
            .issue("ops", &["services:write:billing-*".parse().unwrap()], Duration::from_secs(60))
            .unwrap();
        let settings = AuthSettings { keys_pem: vec![key.public_pem()], ..AuthSettings::default() };
        let auth = Auth::start(settings, &tokio::runtime::Handle::current()).await.unwrap();
        let caller = auth.verify(&token).await.unwrap();
        assert_eq!(caller.subject(), "ops");
        assert!(caller.allows("services", "write", Some("billing-api")));
        assert!(caller.require("services", "write", Some("shop")).is_err());
    }

    #[test]
    fn keeps_the_key_private() {
        let dir = tempfile::tempdir().unwrap();
        TokenKey::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(TokenKey::load_or_create(dir.path()), Err(TokenKeyError::Exposed { .. })));
    }

    #[test]
    fn other_tools_read_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::load_or_create(dir.path()).unwrap();
        let openssl = |args: &[&str]| {
            let output =
                std::process::Command::new("openssl").args(args).current_dir(dir.path()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(openssl(&["pkey", "-in", FILE, "-pubout"]), key.public_pem());
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "mounted.pem"]);
        let mounted = dir.path().join("mounted.pem");
        fs::set_permissions(&mounted, fs::Permissions::from_mode(0o440)).unwrap();
        assert!(matches!(TokenKey::load(&mounted), Err(TokenKeyError::Exposed { .. })));
        let public = TokenKey::load_mounted(&mounted).unwrap().public_pem();
        assert_eq!(openssl(&["pkey", "-in", "mounted.pem", "-pubout"]), public);
        fs::set_permissions(&mounted, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(matches!(TokenKey::load_mounted(&mounted), Err(TokenKeyError::Exposed { .. })));
    }

    #[test]
    fn refuses_a_damaged_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(TokenKey::load(&path), Err(TokenKeyError::Malformed { .. })));
    }

    #[test]
    fn racing_creators_agree() {
        let dir = tempfile::tempdir().unwrap();
        let kids: Vec<String> = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| TokenKey::load_or_create(dir.path()).unwrap().kid())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(kids.windows(2).all(|pair| pair[0] == pair[1]), "{kids:?}");
    }
}
