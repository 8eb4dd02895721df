//! jwks-auth: who is asking, by a token of an identity provider whose keys are published (JWKS), found by OIDC discovery and
//! followed when they rotate. Not in Kong.
//!
//! kit's verifier does the work, on the control runtime; a token it has verified lately is accepted on the worker at once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use plinth_kit::auth::{Auth, AuthSettings, Caller, Rejection};
use plinth_kit::outbound::Outbound;
use plinth_kong::JwksAuthConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::auth::{Directory, Fallback, Identity, Names};
use super::jwt::{Absent, Places};
use crate::context::{Credential, EarlyResponse, RequestContext};

/// Between two tries to find out where the keys are.
const DISCOVER_EVERY: Duration = Duration::from_secs(1);
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest discovery document that is read.
const DISCOVER_LIMIT: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct JwksAuth {
    config: JwksAuthConfig,
    places: Places,
    issuer: Arc<Issuer>,
    consumers: Arc<Names<Arc<Identity>>>,
    fallback: Fallback,
    control: Handle,
    challenge: String,
}

/// The issuers in use, one for each different configuration: a new configuration must not forget the keys.
#[derive(Debug, Default)]
pub(super) struct Issuers(Mutex<HashMap<String, Weak<Issuer>>>);

impl Issuers {
    fn issuer(&self, config: &JwksAuthConfig, control: &Handle) -> Result<Arc<Issuer>, String> {
        let key = super::remote_log::key(config)?;
        let mut issuers = self.0.lock();
        issuers.retain(|_, issuer| issuer.strong_count() > 0);
        if let Some(issuer) = issuers.get(&key).and_then(Weak::upgrade) {
            return Ok(issuer);
        }
        let issuer = Arc::new(Issuer { auth: ArcSwapOption::empty() });
        let outbound = Outbound::new().map_err(|error| plinth_kit::problem::chain(&error))?;
        let settings = AuthSettings {
            jwks_url: config.jwks_uri.clone(),
            issuers: vec![config.issuer.clone()],
            audiences: config.audience.clone(),
            leeway: Duration::from_secs(config.leeway),
            jwks_refresh: Duration::from_secs(config.refresh_interval),
            jwks_cooldown: Duration::from_secs(config.refresh_cooldown),
            ..AuthSettings::default()
        };
        control.spawn(find_keys(Arc::downgrade(&issuer), outbound, settings, config.issuer.clone()));
        issuers.insert(key, Arc::downgrade(&issuer));
        Ok(issuer)
    }
}

/// The verifier of one issuer's tokens; empty until its keys were found.
#[derive(Debug)]
struct Issuer {
    auth: ArcSwapOption<Auth>,
}

/// Why a request is refused.
enum Refusal {
    Absent(Absent),
    Rejected(Rejection),
    Consumer,
    Scope(String),
}

impl JwksAuth {
    pub fn new(
        config: &JwksAuthConfig,
        directory: &Directory,
        issuers: &Issuers,
        control: &Handle,
    ) -> Result<JwksAuth, String> {
        let realm = config.realm.as_ref().map(|realm| format!(" realm=\"{realm}\"")).unwrap_or_default();
        HeaderValue::from_str(&realm).map_err(|_| "in 'realm': not usable in a header".to_owned())?;
        Ok(JwksAuth {
            places: Places::new(&config.uri_param_names, &config.cookie_names, &config.header_names)?,
            issuer: issuers.issuer(config, control)?,
            consumers: directory.consumers_by(&config.consumer_by),
            fallback: directory.fallback(config.anonymous.as_deref()),
            control: control.clone(),
            challenge: format!("Bearer{realm}"),
            config: config.clone(),
        })
    }

    pub async fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        if (!self.config.run_on_preflight && ctx.head.method == Method::OPTIONS) || self.fallback.skips(ctx) {
            return None;
        }
        let refusal = match self.caller(ctx).await {
            Ok(caller) => match self.accept(&caller, ctx) {
                Ok(()) => return None,
                Err(refusal) => refusal,
            },
            Err(refusal) => refusal,
        };
        self.fallback.failed(ctx, || self.refuse(&refusal))
    }

    async fn caller(&self, ctx: &RequestContext) -> Result<Caller, Refusal> {
        let token = self.places.token(ctx).map_err(Refusal::Absent)?;
        let auth = self.issuer.auth.load_full().ok_or(Refusal::Rejected(Rejection::NoKeys))?;
        if let Some(caller) = auth.cached(&token) {
            return Ok(caller);
        }
        let token = token.into_owned();
        let verifying = self.control.spawn(async move { auth.verify(&token).await });
        // The task ends early only with the control runtime.
        verifying.await.unwrap_or(Err(Rejection::NoKeys)).map_err(Refusal::Rejected)
    }

    fn accept(&self, caller: &Caller, ctx: &mut RequestContext) -> Result<(), Refusal> {
        let Some(claims) = caller.claims() else { return Err(Refusal::Consumer) };
        for wanted in &self.config.scopes_required {
            if !has_scope(&claims.scope, wanted)
                && !has_scope(claims.rest.get("scp").unwrap_or(&Value::Null), wanted)
            {
                return Err(Refusal::Scope(wanted.clone()));
            }
        }
        let named = match self.config.consumer_claim.as_str() {
            "sub" => Some(claims.sub.as_str()),
            other => claims.rest.get(other).and_then(Value::as_str),
        };
        let identity = named.and_then(|name| self.consumers.get(name));
        if identity.is_none() && !self.config.consumer_optional {
            return Err(Refusal::Consumer);
        }
        let subject: Arc<str> = claims.sub.as_str().into();
        let credential = Credential { id: Arc::clone(&subject), identifier: subject };
        super::auth::accept(ctx, identity, credential);
        Ok(())
    }

    fn refuse(&self, refusal: &Refusal) -> EarlyResponse {
        let (status, message, error) = match refusal {
            Refusal::Absent(Absent::None) => (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned(), None),
            Refusal::Absent(Absent::Several) => {
                (StatusCode::UNAUTHORIZED, "Multiple tokens provided".to_owned(), Some("invalid_token"))
            }
            Refusal::Rejected(Rejection::NoKeys) => {
                let text = "the keys of the issuer are not known yet".to_owned();
                let answer = EarlyResponse::message(StatusCode::SERVICE_UNAVAILABLE, &text);
                return answer.with(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Refusal::Rejected(why) => (StatusCode::UNAUTHORIZED, why.to_string(), Some("invalid_token")),
            Refusal::Consumer => {
                let text = format!("the token's {} names no consumer", self.config.consumer_claim);
                (StatusCode::FORBIDDEN, text, Some("access_denied"))
            }
            Refusal::Scope(scope) => (
                StatusCode::FORBIDDEN,
                format!("the token lacks the scope {scope}"),
                Some("insufficient_scope"),
            ),
        };
        let challenge = match error {
            None => self.challenge.clone(),
            Some(error) => format!("{} error=\"{error}\"", self.challenge),
        };
        let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer"));
        EarlyResponse::json(status, &json!({ "message": message })).with(header::WWW_AUTHENTICATE, challenge)
    }
}

/// Words in one string or a list.
fn has_scope(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.split_ascii_whitespace().any(|scope| scope == wanted),
        Value::Array(list) => list.iter().any(|scope| scope.as_str() == Some(wanted)),
        _ => false,
    }
}

/// Finds out where the keys are, as often as it takes, and starts the verifier, which follows them from there.
async fn find_keys(issuer: Weak<Issuer>, outbound: Outbound, mut settings: AuthSettings, name: String) {
    let mut complained = false;
    loop {
        if issuer.strong_count() == 0 {
            return;
        }
        let located = match &settings.jwks_url {
            Some(url) => Ok(url.clone()),
            None => discover(&outbound, &name).await,
        };
        let failed = match located {
            Ok(url) => {
                settings.jwks_url = Some(url);
                match Auth::start(settings.clone(), &Handle::current()).await {
                    Ok(auth) => {
                        if let Some(issuer) = issuer.upgrade() {
                            issuer.auth.store(Some(Arc::new(auth)));
                        }
                        return;
                    }
                    Err(error) => plinth_kit::problem::chain(&error),
                }
            }
            Err(why) => why,
        };
        if !complained {
            complained = true;
            tracing::error!(issuer = name, error = failed, "jwks-auth: the issuer's keys are not known");
        }
        tokio::time::sleep(DISCOVER_EVERY).await;
    }
}

/// OpenID Connect Discovery 1.0, section 4.
async fn discover(outbound: &Outbound, issuer: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Document {
        issuer: String,
        jwks_uri: String,
    }
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let answer = outbound.get(&url, DISCOVER_TIMEOUT, DISCOVER_LIMIT).await;
    let answer = answer.map_err(|error| plinth_kit::problem::chain(&error))?;
    if !answer.status().is_success() {
        return Err(format!("{url} was answered with status {}", answer.status().as_u16()));
    }
    let document: Document =
        serde_json::from_slice(answer.body()).map_err(|error| format!("{url}: {error}"))?;
    // Section 4.3: a document for another issuer is somebody else's.
    if document.issuer != issuer {
        return Err(format!("{url} is about {}, not {issuer}", document.issuer));
    }
    Ok(document.jwks_uri)
}
