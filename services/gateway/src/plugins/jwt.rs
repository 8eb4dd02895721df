//! jwt: who is asking, by a signed token.

mod cache;
mod places;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Method, StatusCode, header};
use plinth_kong::{Claim, JwtAlgorithm, JwtConfig};
use serde_json::json;

use super::auth::{Directory, Fallback, JwtCredential, Names};
use crate::context::{EarlyResponse, RequestContext};
pub(super) use places::{Absent, Places, cookie};
use token::{Stamp, Token};

/// Tells verified tokens of one compiled plugin from those of another in the workers' caches.
static SERIAL: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(super) struct Jwt {
    serial: u64,
    config: JwtConfig,
    places: Places,
    credentials: Arc<Names<Arc<JwtCredential>>>,
    fallback: Fallback,
    challenge: HeaderValue,
    challenge_invalid: HeaderValue,
}

/// A verified token: whose it is, and the times that are checked at each use.
#[derive(Clone, Debug)]
struct Verified {
    credential: Arc<JwtCredential>,
    exp: Stamp,
    nbf: Stamp,
    iat: Stamp,
}

/// Why a token is refused.
enum Refusal {
    NoToken,
    Message(String),
    Claims(serde_json::Value),
}

fn message(text: impl Into<String>) -> Refusal {
    Refusal::Message(text.into())
}

impl Jwt {
    pub fn new(config: &JwtConfig, directory: &Directory) -> Result<Jwt, String> {
        let realm = config.realm.as_ref().map(|realm| format!(" realm=\"{realm}\"")).unwrap_or_default();
        let challenge = |text: String| HeaderValue::from_str(&text).map_err(|_| "invalid realm".to_owned());
        Ok(Jwt {
            serial: SERIAL.fetch_add(1, Relaxed),
            places: Places::new(&config.uri_param_names, &config.cookie_names, &config.header_names)?,
            credentials: directory.jwt(config.secret_is_base64),
            fallback: directory.fallback(config.anonymous.as_deref()),
            challenge: challenge(format!("Bearer{realm}"))?,
            challenge_invalid: challenge(format!("Bearer{realm} error=\"invalid_token\""))?,
            config: config.clone(),
        })
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        if (!self.config.run_on_preflight && ctx.head.method == Method::OPTIONS) || self.fallback.skips(ctx) {
            return None;
        }
        match self.authenticate(ctx) {
            Ok(credential) => {
                credential.known.accept(ctx);
                None
            }
            Err(refusal) => self.fallback.failed(ctx, || self.refuse(refusal)),
        }
    }

    fn refuse(&self, refusal: Refusal) -> EarlyResponse {
        let (challenge, body) = match refusal {
            Refusal::NoToken => (&self.challenge, json!({ "message": "Unauthorized" })),
            Refusal::Message(text) => (&self.challenge_invalid, json!({ "message": text })),
            Refusal::Claims(body) => (&self.challenge_invalid, body),
        };
        EarlyResponse::json(StatusCode::UNAUTHORIZED, &body).with(header::WWW_AUTHENTICATE, challenge.clone())
    }

    fn authenticate(&self, ctx: &RequestContext) -> Result<Arc<JwtCredential>, Refusal> {
        let token = self.places.token(ctx).map_err(|absent| match absent {
            Absent::None => Refusal::NoToken,
            Absent::Several => message("Multiple tokens provided"),
        })?;
        let verified = match cache::get(self.serial, &token) {
            Some(verified) => verified,
            None => {
                let verified = self.verify(&token)?;
                cache::put(self.serial, token.into_owned(), verified.clone());
                verified
            }
        };
        self.check_times(&verified, ctx.timing.started_at)?;
        Ok(verified.credential)
    }

    /// Kong's order of checks; the algorithm is compared before any key is touched.
    fn verify(&self, text: &str) -> Result<Verified, Refusal> {
        let token = Token::parse(text).map_err(|why| message(format!("Bad token; {why}")))?;
        let name = &self.config.key_claim_name;
        let key = match token.key(name) {
            None => return Err(message(format!("No mandatory '{name}' in claims"))),
            Some(key) if key.is_empty() => return Err(message(format!("Invalid '{name}' in claims"))),
            Some(key) => key,
        };
        let Some(credential) = self.credentials.get(&*key) else {
            return Err(message(format!("No credentials found for given '{name}'")));
        };
        if token.algorithm != credential.algorithm {
            return Err(message("Invalid algorithm"));
        }
        let Some(verifying) = &credential.key else { return Err(message("Invalid key/secret")) };
        if !verifying.verifies(credential.algorithm, token.message, token.signature) {
            return Err(message("Invalid signature"));
        }
        Ok(Verified {
            credential: Arc::clone(credential),
            exp: token.stamp("exp"),
            nbf: token.stamp("nbf"),
            iat: token.stamp("iat"),
        })
    }

    fn check_times(&self, verified: &Verified, now: SystemTime) -> Result<(), Refusal> {
        let now = now.duration_since(UNIX_EPOCH).map(|time| time.as_secs_f64()).unwrap_or_default();
        let mut faults = serde_json::Map::new();
        for claim in &self.config.claims_to_verify {
            let (name, stamp) = match claim {
                Claim::Exp => ("exp", verified.exp),
                Claim::Nbf => ("nbf", verified.nbf),
                Claim::Iat => ("iat", verified.iat),
            };
            let fault = match (claim, stamp) {
                (_, Stamp::Absent | Stamp::NotANumber) => "must be a number",
                (Claim::Exp, Stamp::At(time)) if time <= now => "token expired",
                (Claim::Nbf, Stamp::At(time)) if time > now => "token not valid yet",
                (Claim::Iat, Stamp::At(time)) if time > now => "token issued in the future",
                _ => continue,
            };
            faults.insert(name.to_owned(), fault.into());
        }
        if faults.is_empty()
            && self.config.maximum_expiration > 0
            && !matches!(verified.exp, Stamp::At(exp) if exp - now <= self.config.maximum_expiration as f64)
        {
            faults.insert("exp".to_owned(), "exceeds maximum allowed expiration".into());
        }
        if faults.is_empty() { Ok(()) } else { Err(Refusal::Claims(faults.into())) }
    }
}

/// The algorithm's name in a token header.
fn algorithm(name: &str) -> Option<JwtAlgorithm> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}

#[cfg(test)]
mod tests;
