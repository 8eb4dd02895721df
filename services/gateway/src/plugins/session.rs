//! session: a cookie that stands for an authentication that another plugin did, so that browsers do it once.
//!
//! The session is the cookie's content, encrypted and authenticated (AES-256-GCM) under a key made of the secret. The other
//! authentication plugins need `anonymous`, so that they leave requests with a session alone.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode, header, response};
use plinth_kong::{SameSite, SessionConfig};
use serde::{Deserialize, Serialize};

use super::auth::{Directory, Identity, Names, query_values, sha256};
use super::body::{Field, Kind, Parsed};
use crate::context::{Credential, EarlyResponse, RequestContext};

/// Longest cookie that is looked at.
const LONGEST: usize = 4096;

pub(super) struct Session {
    config: SessionConfig,
    key: RandomizedNonceKey,
    consumers: Arc<Names<Arc<Identity>>>,
    attributes: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("cookie", &self.config.cookie_name).finish_non_exhaustive()
    }
}

/// What the cookie says. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    consumer: Option<String>,
    credential: String,
    identifier: String,
    began: u64,
    renewed: u64,
}

/// The session the request came with.
#[derive(Clone, Debug)]
struct Open(Content);

/// The session begun for a request that came with the other cookie, and what that one said.
#[derive(Clone, Debug)]
struct Remembered {
    session: Content,
    cookie: Content,
}

/// Which of the two cookies. One is nothing where the other is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cookie {
    Session,
    Remember,
}

impl Session {
    /// `fallback` is the secret of a configuration without one.
    pub fn new(
        config: &SessionConfig,
        directory: &Directory,
        fallback: &[u8; 32],
    ) -> Result<Session, String> {
        let secret = match &config.secret {
            Some(secret) => sha256(&[b"plinth session\0", secret.as_bytes()].concat()),
            None => *fallback,
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &secret).map_err(|error| error.to_string())?;
        let mut attributes = format!("; Path={}", config.cookie_path);
        if let Some(domain) = &config.cookie_domain {
            attributes.push_str(&format!("; Domain={domain}"));
        }
        attributes.push_str(match config.cookie_same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
            SameSite::Default => "",
        });
        for (wanted, name) in [(config.cookie_secure, "; Secure"), (config.cookie_http_only, "; HttpOnly")] {
            if wanted {
                attributes.push_str(name);
            }
        }
        Ok(Session { key, consumers: directory.consumers_by_id(), attributes, config: config.clone() })
    }

    /// A logout may be in the body.
    pub fn wants_body(&self, ctx: &RequestContext) -> bool {
        self.config.read_body_for_logout
            && self.can_log_out(ctx)
            && Kind::of(&ctx.head.headers).is_some()
            && [Cookie::Session, Cookie::Remember].iter().any(|which| self.cookie(ctx, *which).is_some())
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        let now = now(ctx);
        let content = match self.found(ctx, Cookie::Session, now) {
            Some(content) => content,
            None => {
                let cookie = self.found(ctx, Cookie::Remember, now)?;
                let session = Content { began: now, renewed: now, ..cookie.clone() };
                ctx.carried.insert(Remembered { session: session.clone(), cookie });
                session
            }
        };
        if self.logs_out(ctx) {
            let mut answer = EarlyResponse::empty(StatusCode::OK);
            for which in self.cookies() {
                let gone = format!("{}=; Max-Age=0{}", self.name(which), self.attributes);
                if let Ok(gone) = HeaderValue::from_str(&gone) {
                    answer.headers.append(header::SET_COOKIE, gone);
                }
            }
            // the header phase runs on this answer too
            ctx.carried.remove::<Remembered>();
            return Some(answer);
        }
        // A consumer who is gone takes the session along.
        let identity = match &content.consumer {
            None => None,
            Some(id) => {
                let identity = self.consumers.get(id.as_str());
                if identity.is_none() {
                    ctx.carried.remove::<Remembered>();
                }
                Some(identity?)
            }
        };
        let credential = Credential {
            id: content.credential.as_str().into(),
            identifier: content.identifier.as_str().into(),
        };
        super::auth::accept(ctx, identity, credential);
        if ctx.carried.get::<Remembered>().is_none() {
            ctx.carried.insert(Open(content));
        }
        None
    }

    /// Begins a session for whoever was authenticated in this request, and renews one that is getting old.
    pub fn header(&self, ctx: &RequestContext, head: &mut response::Parts) {
        let now = now(ctx);
        if let Some(Remembered { session, cookie }) = ctx.carried.get() {
            self.set(head, Cookie::Session, session);
            self.set(head, Cookie::Remember, &Content { renewed: now, ..cookie.clone() });
            return;
        }
        if let Some(Open(content)) = ctx.carried.get() {
            if !self.is_old(content, now) {
                return;
            }
            self.set(head, Cookie::Session, &Content { renewed: now, ..content.clone() });
            if let Some(cookie) = self.found(ctx, Cookie::Remember, now) {
                self.set(head, Cookie::Remember, &Content { renewed: now, ..cookie });
            }
            return;
        }
        let Some(credential) = &ctx.credential else { return };
        let content = Content {
            consumer: ctx.consumer.as_ref().map(|consumer| consumer.id.to_string()),
            credential: credential.id.to_string(),
            identifier: credential.identifier.to_string(),
            began: now,
            renewed: now,
        };
        for which in self.cookies() {
            self.set(head, which, &content);
        }
    }

    /// Those that are in use.
    fn cookies(&self) -> impl Iterator<Item = Cookie> {
        let second = self.config.remember.then_some(Cookie::Remember);
        std::iter::once(Cookie::Session).chain(second)
    }

    fn name(&self, which: Cookie) -> &str {
        match which {
            Cookie::Session => &self.config.cookie_name,
            Cookie::Remember => &self.config.remember_cookie_name,
        }
    }

    fn set(&self, head: &mut response::Parts, which: Cookie, content: &Content) {
        // the browser keeps it as long as it can be used, not only until it is closed
        let kept = match which {
            Cookie::Remember if self.config.remember_rolling_timeout > 0.0 => {
                format!("; Max-Age={:.0}", self.config.remember_rolling_timeout.ceil())
            }
            // one without a limit: browsers keep none longer than this
            Cookie::Remember => "; Max-Age=34560000".to_owned(),
            Cookie::Session => String::new(),
        };
        let cookie = self.write(which, content).map(|value| {
            HeaderValue::from_str(&format!("{}={value}{kept}{}", self.name(which), self.attributes))
        });
        match cookie {
            Some(Ok(cookie)) => {
                head.headers.append(header::SET_COOKIE, cookie);
            }
            _ => tracing::error!("session: a cookie could not be made"),
        }
    }

    fn can_log_out(&self, ctx: &RequestContext) -> bool {
        self.config.logout_methods.iter().any(|method| method == ctx.head.method.as_str())
    }

    fn logs_out(&self, ctx: &RequestContext) -> bool {
        let in_query = || {
            let query = ctx.head.uri.query().unwrap_or_default();
            query_values(query, &self.config.logout_query_arg).next().is_some()
        };
        let in_body = || {
            let body = ctx.bodies.request.as_ref().filter(|_| self.config.read_body_for_logout);
            let parsed = body.and_then(|body| Parsed::of(&ctx.head.headers, body));
            parsed.is_some_and(|body| body.field(&self.config.logout_post_arg) != Field::Absent)
        };
        self.can_log_out(ctx) && (in_query() || in_body())
    }

    fn cookie<'c>(&self, ctx: &'c RequestContext, which: Cookie) -> Option<&'c str> {
        if which == Cookie::Remember && !self.config.remember {
            return None;
        }
        super::jwt::cookie(ctx, self.name(which)).filter(|cookie| cookie.len() <= LONGEST)
    }

    fn found(&self, ctx: &RequestContext, which: Cookie, now: u64) -> Option<Content> {
        self.read(which, self.cookie(ctx, which)?, now)
    }

    /// Every way a session can have ended counts as none.
    fn read(&self, which: Cookie, cookie: &str, now: u64) -> Option<Content> {
        let mut sealed = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.key.open_in_place(nonce, Aad::from(self.audience(which)), text).ok()?;
        let content: Content = serde_json::from_slice(text).ok()?;
        let over = |limit: f64, since: u64| limit > 0.0 && now.saturating_sub(since) as f64 >= limit;
        let config = &self.config;
        let ended = match which {
            Cookie::Session => {
                over(config.absolute_timeout, content.began)
                    || over(config.rolling_timeout, content.renewed)
                    || over(config.idling_timeout, content.renewed)
            }
            Cookie::Remember => {
                over(config.remember_absolute_timeout, content.began)
                    || over(config.remember_rolling_timeout, content.renewed)
            }
        };
        (!ended).then_some(content)
    }

    fn write(&self, which: Cookie, content: &Content) -> Option<String> {
        let mut text = serde_json::to_vec(content).ok()?;
        let nonce = self.key.seal_in_place_append_tag(Aad::from(self.audience(which)), &mut text).ok()?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// A cookie of one audience is nothing to another, and one kind of cookie not the other.
    fn audience(&self, which: Cookie) -> Vec<u8> {
        let audience = self.config.audience.as_bytes();
        match which {
            Cookie::Session => audience.to_vec(),
            Cookie::Remember => [b"remember\0", audience].concat(),
        }
    }

    /// Renewed at three quarters of the rolling time, and each quarter of the idle time: a cookie on every answer would be
    /// more precise and much more traffic.
    fn is_old(&self, content: &Content, now: u64) -> bool {
        let age = now.saturating_sub(content.renewed) as f64;
        let past = |limit: f64, share: f64| limit > 0.0 && age >= limit * share;
        past(self.config.rolling_timeout, 0.75) || past(self.config.idling_timeout, 0.25)
    }
}

fn now(ctx: &RequestContext) -> u64 {
    ctx.timing.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
