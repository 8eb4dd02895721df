//! Verifies bearer tokens against the current keys.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::outbound::Outbound;
use crate::problem::Problem;

use super::cache::{TokenCache, key_of};
use super::jwks::{self, Fetched, JwksError};
use super::keys::{self, VerifyKey};
use super::{AuthSettings, Caller, Claims};

/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// How often key files are looked at, unless `auth.jwks_refresh` is shorter.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Most keys that a token without `kid` is tried with, so that a caller cannot buy much work with one request.
const MAX_TRIES: usize = 8;

/// Why authentication cannot be set up or done.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("a key that verifies tokens cannot be used: {0}")]
    Key(String),
    #[error("the key set that verifies tokens cannot be used")]
    Jwks(#[from] JwksError),
    #[error("cannot set up TLS for fetching keys")]
    Client(#[from] crate::outbound::OutboundError),
    #[error("a handler asks for its caller, but the service's router has no authentication layer")]
    NotInstalled,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("a bearer token is required")]
    Missing,
    #[error("the Authorization header is not of the form: Bearer <token>")]
    Scheme,
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is signed with an algorithm or key that is not accepted here")]
    UnknownKey,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token comes from another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token lacks a claim that is required: sub, exp, iss and aud")]
    Claim,
    #[error("the keys that verify tokens cannot be reached at the moment")]
    NoKeys,
}

/// The verifier of bearer tokens. Cheap to clone; clones share keys and cache.
#[derive(Clone)]
pub struct Auth {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    settings: AuthSettings,
    sources: parking_lot::Mutex<KeySources>,
    keys: ArcSwap<KeySet>,
    cache: TokenCache,
    client: Outbound,
    /// When the JWKS was last asked for; held while asking, so that a burst of tokens asks once.
    asked: Mutex<Option<Instant>>,
}

struct KeySet {
    generation: u64,
    keys: Vec<VerifyKey>,
}

/// Where the keys in use came from, with the texts, to notice that nothing changed.
struct KeySources {
    files: Vec<Vec<u8>>,
    fixed: Vec<VerifyKey>,
    /// None until the JWKS was read for the first time.
    set: Option<Fetched>,
}

impl Auth {
    /// Accepts everybody with every permission. For services on loopback only: [`AuthSettings::exposure_fault`].
    pub fn open() -> Auth {
        Auth { inner: None }
    }

    /// Reads the keys and starts the refresh of a JWKS on `handle`. A JWKS URL that cannot be reached yet is no
    /// error: tokens are refused with 503 until it can.
    ///
    /// # Errors
    /// A key or JWKS file that cannot be used.
    pub async fn start(settings: AuthSettings, handle: &tokio::runtime::Handle) -> Result<Auth, AuthError> {
        if settings.is_open() {
            return Ok(Auth::open());
        }
        let wrong = |error: keys::KeyError| AuthError::Key(error.to_string());
        let files = keys::file_texts(&settings).map_err(wrong)?;
        let fixed = keys::static_keys(&settings).map_err(wrong)?;
        let client = Outbound::new()?;
        let has_jwks = settings.jwks_url.is_some() || settings.jwks_file.is_some();
        let inner = Arc::new(Inner {
            keys: ArcSwap::from_pointee(KeySet { generation: 0, keys: fixed.clone() }),
            sources: parking_lot::Mutex::new(KeySources { files, fixed, set: None }),
            settings,
            cache: TokenCache::default(),
            client,
            asked: Mutex::new(None),
        });
        if has_jwks {
            match inner.refresh(Duration::ZERO).await {
                Err(error) if inner.settings.jwks_url.is_none() => return Err(error.into()),
                Err(error) => warn_refresh(&error),
                Ok(()) => {}
            }
            handle.spawn(keep_fresh(Arc::downgrade(&inner)));
        }
        if !inner.settings.key_files.is_empty() {
            handle.spawn(look_at_files(Arc::downgrade(&inner)));
        }
        Ok(Auth { inner: Some(inner) })
    }

    /// True when everybody is accepted.
    pub fn is_open(&self) -> bool {
        self.inner.is_none()
    }

    /// False while no key is known, that is before a JWKS could be fetched for the first time.
    pub fn has_keys(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| !inner.keys.load().keys.is_empty())
    }

    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// A 401 problem with its challenge, or 503 when no key is known yet.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.inner.is_none() {
            return Ok(Caller::anonymous());
        }
        let token = bearer(headers).map_err(refuse)?;
        self.verify(token).await.map_err(refuse)
    }

    /// The caller of a token that was verified lately and has not ended. Never waits.
    pub fn cached(&self, token: &str) -> Option<Caller> {
        let inner = self.inner.as_ref()?;
        let now = jsonwebtoken::get_current_timestamp();
        inner.cache.get(&key_of(token), inner.keys.load().generation, now)
    }

    /// Verifies one token.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn verify(&self, token: &str) -> Result<Caller, Rejection> {
        let Some(inner) = &self.inner else { return Ok(Caller::anonymous()) };
        if token.len() > MAX_TOKEN {
            return Err(Rejection::Malformed);
        }
        inner.verify(token).await
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Inner {
    async fn verify(&self, token: &str) -> Result<Caller, Rejection> {
        let cache_key = key_of(token);
        let now = jsonwebtoken::get_current_timestamp();
        let keys = self.keys.load_full();
        if let Some(caller) = self.cache.get(&cache_key, keys.generation, now) {
            return Ok(caller);
        }
        let (keys, outcome) = match self.check(&keys, token) {
            Err(Rejection::UnknownKey) if self.settings.has_jwks() => {
                if let Err(error) = self.refresh(self.settings.jwks_cooldown).await {
                    warn_refresh(&error);
                }
                let keys = self.keys.load_full();
                let outcome = self.check(&keys, token);
                (keys, outcome)
            }
            outcome => (keys, outcome),
        };
        if keys.keys.is_empty() {
            return Err(Rejection::NoKeys);
        }
        let claims = outcome?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, which is meant"
        )]
        let ends = (claims.exp as u64).saturating_add(self.settings.leeway.as_secs());
        let caller = Caller::verified(claims);
        self.cache.put(cache_key, caller.clone(), keys.generation, ends, now);
        Ok(caller)
    }

    fn check(&self, keys: &KeySet, token: &str) -> Result<Claims, Rejection> {
        let header = decode_header(token).map_err(|_| Rejection::Malformed)?;
        // RFC 7515 section 4.1.11: whoever does not understand a critical header must refuse.
        if header.crit.is_some() {
            return Err(Rejection::Malformed);
        }
        let mut outcome = Rejection::UnknownKey;
        let fitting = keys.keys.iter().filter(|key| {
            key.algorithm == header.alg
                && (header.kid.is_none() || key.kid.is_none() || key.kid == header.kid)
        });
        for key in fitting.take(MAX_TRIES) {
            match decode::<Claims>(token, &key.key, &self.validation(key)) {
                Ok(data) if data.claims.sub.is_empty() => return Err(Rejection::Claim),
                Ok(data) => return Ok(data.claims),
                Err(error) => match rejection(error.kind()) {
                    Rejection::Signature => outcome = Rejection::Signature,
                    decided => return Err(decided),
                },
            }
        }
        // A key id that no key has is a rotated key, even where a key without an id was tried in vain.
        let named = header.kid.is_some() && keys.keys.iter().any(|key| key.kid == header.kid);
        if header.kid.is_some() && !named && self.settings.has_jwks() {
            outcome = Rejection::UnknownKey;
        }
        Err(outcome)
    }

    fn validation(&self, key: &VerifyKey) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&self.settings.audiences);
        validation.set_issuer(&self.settings.issuers);
        validation.required_spec_claims = HashSet::from(["exp", "iss", "aud", "sub"].map(str::to_owned));
        validation
    }

    /// Reads the JWKS unless it was asked for within `cooldown`. A failure keeps the keys known so far.
    async fn refresh(&self, cooldown: Duration) -> Result<(), JwksError> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < cooldown) {
            return Ok(());
        }
        *asked = Some(Instant::now());
        let fetched = match (&self.settings.jwks_url, &self.settings.jwks_file) {
            (Some(url), _) => jwks::fetch(&self.client, url).await?,
            (None, Some(path)) => jwks::read_file(path)?,
            (None, None) => return Ok(()),
        };
        self.adopt(fetched);
        Ok(())
    }

    fn adopt(&self, fetched: Fetched) {
        let mut sources = self.sources.lock();
        if sources.set.as_ref().is_none_or(|set| set.text != fetched.text) {
            sources.set = Some(fetched);
            self.publish(&sources);
        }
    }

    /// Reads the PEM files again if one has changed. A failure keeps the keys known so far.
    fn reread(&self) -> Result<(), keys::KeyError> {
        let files = keys::file_texts(&self.settings)?;
        let mut sources = self.sources.lock();
        if sources.files != files {
            sources.fixed = keys::static_keys(&self.settings)?;
            sources.files = files;
            self.publish(&sources);
        }
        Ok(())
    }

    fn publish(&self, sources: &KeySources) {
        let fetched = sources.set.iter().flat_map(|set| &set.keys);
        let keys: Vec<VerifyKey> = sources.fixed.iter().chain(fetched).cloned().collect();
        tracing::info!(keys = keys.len(), "the keys that verify tokens have changed");
        self.keys.store(Arc::new(KeySet { generation: self.keys.load().generation + 1, keys }));
    }
}

impl AuthSettings {
    fn has_jwks(&self) -> bool {
        self.jwks_url.is_some() || self.jwks_file.is_some()
    }
}

/// Refreshes until every [`Auth`] is gone; faster while no keys are known.
async fn keep_fresh(inner: Weak<Inner>) {
    loop {
        let wait = match inner.upgrade() {
            Some(inner) if inner.sources.lock().set.is_none() => {
                inner.settings.jwks_refresh.min(Duration::from_secs(1))
            }
            Some(inner) if inner.settings.jwks_url.is_none() => inner.settings.jwks_refresh.min(LOOK_EVERY),
            Some(inner) => inner.settings.jwks_refresh,
            None => return,
        };
        tokio::time::sleep(wait).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.refresh(Duration::ZERO).await {
            warn_refresh(&error);
        }
    }
}

/// Mounted secrets change in place.
async fn look_at_files(inner: Weak<Inner>) {
    loop {
        let Some(every) = inner.upgrade().map(|inner| inner.settings.jwks_refresh.min(LOOK_EVERY)) else {
            return;
        };
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.reread() {
            tracing::warn!(error = %error, "keeping the keys known so far");
        }
    }
}

fn warn_refresh(error: &JwksError) {
    tracing::warn!(error = crate::problem::chain(error), "keeping the keys known so far");
}

fn bearer(headers: &HeaderMap) -> Result<&str, Rejection> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, more) = (values.next().ok_or(Rejection::Missing)?, values.next());
    if more.is_some() {
        return Err(Rejection::Scheme);
    }
    let text = value.to_str().map_err(|_| Rejection::Scheme)?;
    let (scheme, token) = text.split_once(' ').ok_or(Rejection::Scheme)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(Rejection::Scheme);
    }
    Ok(token.trim())
}

fn rejection(kind: &ErrorKind) -> Rejection {
    match kind {
        ErrorKind::ExpiredSignature => Rejection::Expired,
        ErrorKind::ImmatureSignature => Rejection::Early,
        ErrorKind::InvalidIssuer => Rejection::Issuer,
        ErrorKind::InvalidAudience => Rejection::Audience,
        ErrorKind::InvalidSignature => Rejection::Signature,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            Rejection::Claim
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Rejection::UnknownKey,
        _ => Rejection::Malformed,
    }
}

fn refuse(rejection: Rejection) -> Problem {
    match rejection {
        Rejection::NoKeys => Problem::unavailable(rejection.to_string())
            .header(header::RETRY_AFTER, HeaderValue::from_static("1")),
        // RFC 6750 section 3.1: no error code when the request carries no authentication at all.
        Rejection::Missing => Problem::unauthorized(rejection.to_string()),
        other => {
            let mut problem = Problem::new(http::StatusCode::UNAUTHORIZED).detail(other.to_string());
            let challenge =
                format!("Bearer realm=\"plinth\", error=\"invalid_token\", error_description=\"{other}\"");
            if let Ok(value) = HeaderValue::from_str(&challenge) {
                problem = problem.header(header::WWW_AUTHENTICATE, value);
            }
            problem
        }
    }
}
