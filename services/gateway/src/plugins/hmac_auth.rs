//! hmac-auth: who is asking, by a signature over headers of the request.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use plinth_kong::{HmacAlgorithm, HmacAuthConfig};

use super::auth::{Directory, Fallback, HmacCredential, Names, Secret};
use crate::context::{EarlyResponse, RequestContext};

const NO_DATE: &str =
    "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication";
const NOT_VALID: &str = "HMAC signature cannot be verified";
const NOT_SAME: &str = "HMAC signature does not match";
const X_DATE: HeaderName = HeaderName::from_static("x-date");
const DIGEST: HeaderName = HeaderName::from_static("digest");

#[derive(Debug)]
pub(super) struct HmacAuth {
    config: HmacAuthConfig,
    clock_skew: Duration,
    credentials: Arc<Names<HmacCredential>>,
    fallback: Fallback,
    challenge: HeaderValue,
}

/// `hmac username="u", algorithm="hmac-sha256", headers="date request-line", signature="b64"`
#[derive(Debug, PartialEq, Eq)]
struct Signed {
    username: String,
    algorithm: HmacAlgorithm,
    headers: Vec<String>,
    signature: Vec<u8>,
}

impl HmacAuth {
    pub fn new(config: &HmacAuthConfig, directory: &Directory) -> Result<HmacAuth, String> {
        let realm = config.realm.as_ref().map(|realm| format!(" realm=\"{realm}\"")).unwrap_or_default();
        Ok(HmacAuth {
            clock_skew: Duration::try_from_secs_f64(config.clock_skew).unwrap_or(Duration::MAX),
            credentials: Arc::clone(&directory.hmac),
            fallback: directory.fallback(config.anonymous.as_deref()),
            challenge: HeaderValue::from_str(&format!("hmac{realm}"))
                .map_err(|_| "invalid realm".to_owned())?,
            config: config.clone(),
        })
    }

    pub fn looks_into_bodies(&self) -> bool {
        self.config.validate_request_body
    }

    /// Requests without any signature are refused before their body is read.
    pub fn wants_body(&self, ctx: &RequestContext) -> bool {
        let headers = &ctx.head.headers;
        self.config.validate_request_body
            && !self.fallback.skips(ctx)
            && (headers.contains_key(header::AUTHORIZATION)
                || headers.contains_key(header::PROXY_AUTHORIZATION))
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        if self.fallback.skips(ctx) {
            return None;
        }
        let refusal = match self.authenticate(ctx) {
            Ok(username) => match self.credentials.get(username.as_str()) {
                Some(credential) => {
                    credential.known.accept(ctx);
                    return None;
                }
                None => NOT_VALID,
            },
            Err(refusal) => refusal,
        };
        self.fallback.failed(ctx, || {
            EarlyResponse::error(StatusCode::UNAUTHORIZED, refusal)
                .with(header::WWW_AUTHENTICATE, self.challenge.clone())
        })
    }

    /// Kong's order of checks; gives the name of the credential whose signature it is.
    fn authenticate(&self, ctx: &mut RequestContext) -> Result<String, &'static str> {
        let headers = &ctx.head.headers;
        if !headers.contains_key(header::AUTHORIZATION) && !headers.contains_key(header::PROXY_AUTHORIZATION)
        {
            return Err("Unauthorized");
        }
        if ![X_DATE, header::DATE].iter().any(|name| self.is_recent(ctx, name)) {
            return Err(NO_DATE);
        }
        let of =
            |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(Signed::parse);
        let (signed, hidden) = match of(&header::PROXY_AUTHORIZATION) {
            Some(Some(signed)) => (Some(signed), header::PROXY_AUTHORIZATION),
            _ => (of(&header::AUTHORIZATION).flatten(), header::AUTHORIZATION),
        };
        let verified = signed.ok_or(NOT_VALID).and_then(|signed| self.verify(ctx, signed));
        if self.config.hide_credentials {
            ctx.head.headers.remove(hidden);
        }
        verified
    }

    fn verify(&self, ctx: &RequestContext, signed: Signed) -> Result<String, &'static str> {
        let unsigned = |name: &String| !signed.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
        if self.config.enforce_headers.iter().any(unsigned)
            || !self.config.algorithms.contains(&signed.algorithm)
        {
            return Err(NOT_VALID);
        }
        let credential = self.credentials.get(signed.username.as_str()).ok_or(NOT_VALID)?;
        let text = signing_text(ctx, &signed.headers);
        if !credential.secret.as_ref().is_some_and(|secret| signed.fits(secret, text.as_bytes())) {
            return Err(NOT_SAME);
        }
        if self.config.validate_request_body && !body_fits(ctx) {
            return Err(NOT_SAME);
        }
        Ok(signed.username)
    }

    fn is_recent(&self, ctx: &RequestContext, name: &HeaderName) -> bool {
        let date = ctx.header(name).and_then(|date| httpdate::parse_http_date(date).ok());
        date.is_some_and(|date| distance(date, ctx.timing.started_at) <= self.clock_skew)
    }
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

impl Signed {
    fn parse(value: &str) -> Option<Signed> {
        let (scheme, rest) = value.trim_start().split_at_checked(4)?;
        if !scheme.eq_ignore_ascii_case("hmac") {
            return None;
        }
        let parameter = |name: &str| {
            let (_, after) = rest.split_once(&format!("{name}=\""))?;
            after.split_once('"').map(|(value, _)| value)
        };
        Some(Signed {
            username: parameter("username").filter(|name| !name.is_empty())?.to_owned(),
            algorithm: serde_json::from_value(parameter("algorithm")?.into()).ok()?,
            headers: parameter("headers")?
                .split(' ')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            signature: STANDARD.decode(parameter("signature")?).ok()?,
        })
    }

    /// Compared in constant time.
    fn fits(&self, secret: &Secret, text: &[u8]) -> bool {
        let algorithm = match self.algorithm {
            HmacAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            HmacAlgorithm::Sha256 => hmac::HMAC_SHA256,
            HmacAlgorithm::Sha384 => hmac::HMAC_SHA384,
            HmacAlgorithm::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::verify(&hmac::Key::new(algorithm, &secret.0), text, &self.signature).is_ok()
    }
}

/// `name: value` lines in the order the client signed them.
fn signing_text(ctx: &RequestContext, names: &[String]) -> String {
    let target = ctx.head.uri.path_and_query().map_or("/", |target| target.as_str());
    let method = ctx.head.method.as_str();
    let lines = names.iter().map(|name| {
        let value = match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header::HOST) => ctx.host(),
            Ok(header) => ctx.header(&header),
            Err(_) => None,
        };
        match (value, name.as_str()) {
            (Some(value), _) => format!("{name}: {value}"),
            (None, "@request-target") => format!("{name}: {} {target}", method.to_ascii_lowercase()),
            (None, "request-line") => format!("{method} {target} HTTP/{}", version(ctx.head.version)),
            (None, _) => format!("{name}:"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    }
}

/// `Digest: SHA-256=b64` is that of the body; without the header there must be no body.
fn body_fits(ctx: &RequestContext) -> bool {
    let body = ctx.bodies.request.as_deref().unwrap_or_default();
    match ctx.header(&DIGEST) {
        None => body.is_empty(),
        Some(told) => {
            let hash = digest::digest(&digest::SHA256, body);
            told.strip_prefix("SHA-256=").is_some_and(|told| told == STANDARD.encode(hash.as_ref()))
        }
    }
}

#[cfg(test)]
mod tests;
