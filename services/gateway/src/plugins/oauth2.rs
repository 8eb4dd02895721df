//! oauth2: an authorization server for the applications of consumers, and the check of the tokens it gave out.
//!
//! Fields, endpoints and answers are Kong's, which needs a database for them; here tokens live in this process or in Redis.
//! Tokens, codes and secrets are kept and compared as SHA-256 digests only.

mod authorize;
mod parameters;
mod store;
mod token;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{constant_time, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use plinth_kong::{ClientType, OAuth2Config, OAuth2Storage};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::{Directory, Fallback, Names, OAuth2Client, query_values, sha256};
use super::body;
use super::redis;
use crate::context::{EarlyResponse, RequestContext};
use parameters::Parameters;
pub(super) use store::Memory;
use store::{Kind, Store, Token, Unavailable};

const SCOPE: HeaderName = HeaderName::from_static("x-authenticated-scope");
const USER: HeaderName = HeaderName::from_static("x-authenticated-userid");
const EXPIRED: &str = "The access token is invalid or has expired";

#[derive(Debug)]
pub(super) struct OAuth2 {
    config: OAuth2Config,
    id: Uuid,
    store: Store,
    clients: Arc<Names<Arc<OAuth2Client>>>,
    fallback: Fallback,
    auth_header: HeaderName,
    /// `None`: nobody knows it.
    provision_key: Option<[u8; 32]>,
    challenge: String,
}

/// The endpoints of the authorization server, by the end of the path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Token,
    Authorize,
    Introspect,
}

impl OAuth2 {
    pub fn new(
        id: Uuid,
        config: &OAuth2Config,
        directory: &Directory,
        memory: &Arc<Memory>,
        pools: &redis::Pools,
    ) -> Result<OAuth2, String> {
        let store = match config.storage {
            OAuth2Storage::Memory => Store::Memory(Arc::clone(memory)),
            OAuth2Storage::Redis => Store::Redis(pools.patient(&config.redis)?),
        };
        let realm = config.realm.as_ref().map(|realm| format!(" realm=\"{realm}\"")).unwrap_or_default();
        HeaderValue::from_str(&realm).map_err(|_| "in 'realm': not usable in a header".to_owned())?;
        Ok(OAuth2 {
            id,
            store,
            clients: Arc::clone(&directory.oauth2),
            fallback: directory.fallback(config.anonymous.as_deref()),
            auth_header: HeaderName::from_bytes(config.auth_header_name.as_bytes())
                .map_err(|_| "in 'auth_header_name': not a header name".to_owned())?,
            provision_key: config.provision_key.as_ref().map(|key| sha256(key.as_bytes())),
            challenge: format!("Bearer{realm}"),
            config: config.clone(),
        })
    }

    /// Credentials and grants may be in the body, an access token in a form.
    pub fn wants_body(&self, ctx: &RequestContext) -> bool {
        matches!(ctx.head.method, Method::POST | Method::PUT | Method::PATCH)
            && (self.endpoint(ctx).is_some()
                || (!ctx.head.headers.contains_key(&self.auth_header)
                    && body::Kind::of(&ctx.head.headers).is_some()))
    }

    fn endpoint(&self, ctx: &RequestContext) -> Option<Endpoint> {
        let path = ctx.head.uri.path();
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.ends_with("/oauth2/token") {
            Some(Endpoint::Token)
        } else if path.ends_with("/oauth2/authorize") {
            Some(Endpoint::Authorize)
        } else if self.config.enable_introspection && path.ends_with("/oauth2/introspect") {
            Some(Endpoint::Introspect)
        } else {
            None
        }
    }

    pub async fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        if let Some(endpoint) = self.endpoint(ctx) {
            return Some(self.serve(endpoint, ctx).await);
        }
        if self.fallback.skips(ctx) {
            ctx.head.headers.remove(SCOPE);
            ctx.head.headers.remove(USER);
            return None;
        }
        match self.authenticate(ctx).await {
            Ok((client, token)) => {
                client.known.accept(ctx);
                put(ctx, SCOPE, token.scope.as_deref());
                put(ctx, USER, token.user.as_deref());
                None
            }
            Err(refusal) => {
                put(ctx, SCOPE, None);
                put(ctx, USER, None);
                self.fallback.failed(ctx, || *refusal)
            }
        }
    }

    async fn serve(&self, endpoint: Endpoint, ctx: &RequestContext) -> EarlyResponse {
        if ctx.head.method != Method::POST {
            return self.wrong_method(endpoint, ctx);
        }
        let parameters = Parameters::of(ctx);
        match endpoint {
            Endpoint::Token => self.token(ctx, &parameters).await,
            Endpoint::Authorize => self.authorize(ctx, &parameters).await,
            Endpoint::Introspect => self.introspect(ctx, &parameters).await,
        }
    }

    fn wrong_method(&self, endpoint: Endpoint, ctx: &RequestContext) -> EarlyResponse {
        let name = match endpoint {
            Endpoint::Token => "token",
            Endpoint::Authorize => "authorization",
            Endpoint::Introspect => "introspection",
        };
        let why = format!("The HTTP method {} is invalid for the {name} endpoint", ctx.head.method);
        let body = json!({ "error": "invalid_method", "error_description": why });
        self.challenged(StatusCode::METHOD_NOT_ALLOWED, &body, Some(("invalid_method", &why)))
    }

    /// The client whose token the request carries.
    async fn authenticate(
        &self,
        ctx: &mut RequestContext,
    ) -> Result<(Arc<OAuth2Client>, Token), Box<EarlyResponse>> {
        let Some(presented) = self.presented(ctx) else {
            let body =
                json!({ "error": "invalid_request", "error_description": "The access token is missing" });
            return Err(Box::new(self.challenged(StatusCode::UNAUTHORIZED, &body, None)));
        };
        let found = self.store.get::<Token>(Kind::Access, &sha256(presented.as_bytes())).await;
        let token = match found {
            Ok(Some(token)) => token,
            Ok(None) => return Err(Box::new(self.invalid_token())),
            Err(unavailable) => return Err(Box::new(unavailable.answer())),
        };
        let here = ctx.service().map(|service| service.service.id);
        let belongs = match token.service {
            Some(service) => Some(service) == here,
            None => self.config.global_credentials,
        };
        if !belongs || token.expired(now(ctx)) {
            return Err(Box::new(self.invalid_token()));
        }
        // An application taken out of the configuration takes its tokens along.
        let client = self.clients.values().find(|client| client.id == token.credential);
        let client = client.cloned().ok_or_else(|| Box::new(self.invalid_token()))?;
        if self.config.hide_credentials {
            self.hide(ctx);
        }
        Ok((client, token))
    }

    /// `Bearer x` or `token x` of the header, else `access_token` of query or body.
    fn presented(&self, ctx: &RequestContext) -> Option<String> {
        if let Some(value) = ctx.head.headers.get(&self.auth_header) {
            let value = value.to_str().ok()?;
            let mut parts = value.split_ascii_whitespace();
            return match (parts.next(), parts.next(), parts.next()) {
                (Some(scheme), Some(token), None)
                    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") =>
                {
                    Some(token.to_owned())
                }
                (Some(_), ..) => Some(value.to_owned()),
                (None, ..) => None,
            };
        }
        Parameters::of(ctx).get("access_token").filter(|token| !token.is_empty())
    }

    /// The upstream sees no token.
    fn hide(&self, ctx: &mut RequestContext) {
        if ctx.head.headers.remove(&self.auth_header).is_some() {
            return;
        }
        let name = "access_token";
        let query = ctx.upstream_query.as_deref().or_else(|| ctx.head.uri.query()).unwrap_or_default();
        if query_values(query, name).next().is_some() {
            let kept: Vec<&str> =
                query.split('&').filter(|pair| query_values(pair, name).next().is_none()).collect();
            ctx.upstream_query = Some(kept.join("&"));
        }
        if let Some(body) = parameters::without(ctx, name) {
            ctx.replace_body(body);
        }
    }

    fn invalid_token(&self) -> EarlyResponse {
        let body = json!({ "error": "invalid_token", "error_description": EXPIRED });
        self.challenged(StatusCode::UNAUTHORIZED, &body, Some(("invalid_token", EXPIRED)))
    }

    fn challenged(&self, status: StatusCode, body: &Value, error: Option<(&str, &str)>) -> EarlyResponse {
        let challenge = match error {
            None => self.challenge.clone(),
            Some((error, why)) => format!("{} error=\"{error}\" error_description=\"{why}\"", self.challenge),
        };
        let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer"));
        EarlyResponse::json(status, body).with(header::WWW_AUTHENTICATE, challenge)
    }

    /// Over TLS, or so a trusted proxy says where that is allowed.
    fn is_secure(&self, ctx: &RequestContext) -> bool {
        ctx.client.tls.is_some() || (self.config.accept_http_if_already_terminated && ctx.https())
    }

    fn has_provision_key(&self, parameters: &Parameters) -> bool {
        let given = parameters.get("provision_key").map(|key| sha256(key.as_bytes()));
        given.zip(self.provision_key).is_some_and(|(given, own)| same(&given, &own))
    }

    /// The scopes asked for, each of which has to be configured.
    fn scope(&self, parameters: &Parameters) -> Result<Option<String>, Failure> {
        let wanted = parameters.get("scope");
        if let (Some(wanted), Some(known)) = (&wanted, &self.config.scopes) {
            let mut scopes = Vec::new();
            for scope in wanted.split_ascii_whitespace() {
                if !known.iter().any(|known| known == scope) {
                    return Err(Failure::new("invalid_scope", format!("\"{scope}\" is an invalid scope")));
                }
                scopes.push(scope);
            }
            return Ok((!scopes.is_empty()).then(|| scopes.join(" ")));
        }
        if wanted.is_none() && self.config.mandatory_scope {
            return Err(Failure::new("invalid_scope", "You must specify a scope"));
        }
        Ok(None)
    }

    /// Whether this client has to prove that it is the one who asked for the code.
    fn requires_pkce(&self, client: &OAuth2Client) -> bool {
        use plinth_kong::Pkce;
        match client.kind {
            ClientType::Public => self.config.pkce != Pkce::None,
            ClientType::Confidential => self.config.pkce == Pkce::Strict,
        }
    }

    /// The service tokens are for; `None` when they are for all.
    fn token_service(&self, ctx: &RequestContext) -> Option<Uuid> {
        if self.config.global_credentials {
            return None;
        }
        ctx.service().map(|service| service.service.id)
    }
}

/// An error of the protocol: `error` and `error_description`.
#[derive(Debug)]
struct Failure {
    error: &'static str,
    why: String,
    /// 401 and a challenge instead of 400.
    basic: bool,
}

impl Failure {
    fn new(error: &'static str, why: impl Into<String>) -> Failure {
        Failure { error, why: why.into(), basic: false }
    }

    fn client(from_header: bool) -> Failure {
        Failure { basic: from_header, ..Failure::new("invalid_client", "Invalid client authentication") }
    }

    fn redirect_uri() -> Failure {
        let why =
            "Invalid redirect_uri that does not match with any redirect_uri created with the application";
        Failure::new("invalid_request", why)
    }

    fn insecure() -> Failure {
        Failure::new("access_denied", "You must use HTTPS")
    }

    fn body(&self) -> Value {
        json!({ "error": self.error, "error_description": self.why })
    }
}

/// An answer that must not be stored, with the client's state.
fn answer(status: StatusCode, mut body: Value, state: Option<String>) -> EarlyResponse {
    if let (Some(state), Some(object)) = (state, body.as_object_mut()) {
        object.insert("state".to_owned(), state.into());
    }
    EarlyResponse::json(status, &body)
        .with(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with(header::PRAGMA, HeaderValue::from_static("no-cache"))
}

impl Unavailable {
    fn answer(self) -> EarlyResponse {
        tracing::error!(reason = %self, "oauth2: the token store cannot be used");
        let body = json!({
            "error": "temporarily_unavailable",
            "error_description": "The authorization server is currently unable to handle the request",
        });
        answer(StatusCode::SERVICE_UNAVAILABLE, body, None)
    }
}

fn put(ctx: &mut RequestContext, name: HeaderName, value: Option<&str>) {
    match value.and_then(|value| HeaderValue::from_str(value).ok()) {
        Some(value) => ctx.head.headers.insert(name, value),
        None => ctx.head.headers.remove(name),
    };
}

/// 192 random bits as 32 characters.
fn random() -> Result<String, Unavailable> {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).map_err(|_| Unavailable::Randomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Seconds since 1970 when the request came.
fn now(ctx: &RequestContext) -> u64 {
    seconds(ctx.timing.started_at)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
