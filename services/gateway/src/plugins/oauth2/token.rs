//! `/oauth2/token` and `/oauth2/introspect`: grants become tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header};
use plinth_kong::ClientType;
use serde_json::{Value, json};
use uuid::Uuid;

use super::parameters::Parameters;
use super::store::{Code, Kind, Token, Unavailable};
use super::{Failure, OAuth2, OAuth2Client, answer, now, random, same};
use crate::context::{EarlyResponse, RequestContext};
use crate::plugins::auth::sha256;

/// What a client says about itself.
struct Claimed {
    id: Option<String>,
    secret: Option<String>,
    from_header: bool,
}

/// A grant that was refused, or could not be looked at.
enum Stop {
    Refused(Failure),
    Unavailable(Unavailable),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Refused(failure)
    }
}

impl From<Unavailable> for Stop {
    fn from(unavailable: Unavailable) -> Stop {
        Stop::Unavailable(unavailable)
    }
}

fn invalid(name: &str) -> Failure {
    Failure::new("invalid_request", format!("Invalid {name}"))
}

impl OAuth2 {
    pub(super) async fn token(&self, ctx: &RequestContext, parameters: &Parameters) -> EarlyResponse {
        let state = parameters.get("state");
        match self.exchange(ctx, parameters).await {
            Ok(issued) => answer(StatusCode::OK, issued, state),
            Err(Stop::Unavailable(unavailable)) => unavailable.answer(),
            Err(Stop::Refused(failure)) => refused(&failure, state),
        }
    }

    async fn exchange(&self, ctx: &RequestContext, parameters: &Parameters) -> Result<Value, Stop> {
        if !self.is_secure(ctx) {
            return Err(Failure::insecure().into());
        }
        let grant = parameters.get("grant_type").unwrap_or_default();
        let allowed = match grant.as_str() {
            "authorization_code" | "refresh_token" => true,
            "client_credentials" => self.config.enable_client_credentials,
            "password" => self.config.enable_password_grant,
            _ => false,
        };
        let claimed = self.claimed(ctx, parameters);
        let client = self.client(&claimed)?;
        if grant != "client_credentials" {
            let asked = parameters.get("redirect_uri");
            if client.redirect_uris.is_empty() {
                return Err(Failure::client(claimed.from_header).into());
            }
            if asked.is_some_and(|asked| !client.redirect_uris.contains(&asked)) {
                return Err(Failure::redirect_uri().into());
            }
        }
        if !allowed {
            return Err(Failure::new("unsupported_grant_type", "Invalid grant_type").into());
        }
        match grant.as_str() {
            "authorization_code" => self.by_code(ctx, parameters, &client).await,
            "refresh_token" => self.by_refresh(ctx, parameters, &client).await,
            "password" => self.by_password(ctx, parameters, &client).await,
            _ => self.by_credentials(ctx, parameters, &client).await,
        }
    }

    /// Both as parameters, else Basic authentication, else the id alone.
    fn claimed(&self, ctx: &RequestContext, parameters: &Parameters) -> Claimed {
        let (id, secret) = (parameters.get("client_id"), parameters.get("client_secret"));
        if id.is_some() && secret.is_some() {
            return Claimed { id, secret, from_header: false };
        }
        let Some(value) = ctx.header(&self.auth_header) else {
            return Claimed { id, secret: None, from_header: false };
        };
        let decoded = value
            .trim_start()
            .split_at_checked(5)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, rest)| STANDARD.decode(rest.trim()).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let (id, secret) = match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((id, secret)) => (Some(id.to_owned()), Some(secret.to_owned())),
            None => (None, None),
        };
        Claimed { id, secret, from_header: true }
    }

    fn client(&self, claimed: &Claimed) -> Result<Arc<OAuth2Client>, Failure> {
        let refused = || Failure::client(claimed.from_header);
        let client = claimed.id.as_deref().and_then(|id| self.clients.get(id)).ok_or_else(refused)?;
        let secret = claimed.secret.as_deref().unwrap_or_default();
        match client.kind {
            ClientType::Confidential if !same(&sha256(secret.as_bytes()), &client.secret) => Err(refused()),
            ClientType::Public if !secret.trim().is_empty() => {
                Err(Failure::new("invalid_request", "client_secret is disallowed for public clients"))
            }
            _ => Ok(Arc::clone(client)),
        }
    }

    async fn by_code(
        &self,
        ctx: &RequestContext,
        parameters: &Parameters,
        client: &OAuth2Client,
    ) -> Result<Value, Stop> {
        let presented = parameters.get("code").ok_or_else(|| invalid("code"))?;
        // Taken before anything is checked: of two who present a code one gets it, and a wrong guess costs it.
        let code: Option<Code> = self.store.take(Kind::Code, &sha256(presented.as_bytes())).await?;
        let code = code.ok_or_else(|| invalid("code"))?;
        let fits = code.service == self.token_service(ctx)
            && code.credential == client.id
            && (!self.config.global_credentials || code.plugin == self.id);
        if !fits || code.redirect_uri.is_some() && parameters.get("redirect_uri") != code.redirect_uri {
            return Err(invalid("code").into());
        }
        if code.challenge.is_some() || self.requires_pkce(client) {
            verify(parameters, code.challenge.as_deref())?;
        }
        let refresh = self.refreshable()?;
        Ok(self.issue(ctx, client.id, Some(code.user), code.scope, None, refresh).await?)
    }

    async fn by_credentials(
        &self,
        ctx: &RequestContext,
        parameters: &Parameters,
        client: &OAuth2Client,
    ) -> Result<Value, Stop> {
        let user = parameters.get("authenticated_userid");
        if user.is_some() && !self.has_provision_key(parameters) {
            return Err(Failure::new("invalid_provision_key", "Invalid provision_key").into());
        }
        let scope = self.scope(parameters)?;
        Ok(self.issue(ctx, client.id, user, scope, None, None).await?)
    }

    async fn by_password(
        &self,
        ctx: &RequestContext,
        parameters: &Parameters,
        client: &OAuth2Client,
    ) -> Result<Value, Stop> {
        if !self.has_provision_key(parameters) {
            return Err(Failure::new("invalid_provision_key", "Invalid provision_key").into());
        }
        let Some(user) = parameters.filled("authenticated_userid") else {
            let why = "Missing authenticated_userid parameter";
            return Err(Failure::new("invalid_authenticated_userid", why).into());
        };
        let scope = self.scope(parameters)?;
        let refresh = self.refreshable()?;
        Ok(self.issue(ctx, client.id, Some(user), scope, None, refresh).await?)
    }

    async fn by_refresh(
        &self,
        ctx: &RequestContext,
        parameters: &Parameters,
        client: &OAuth2Client,
    ) -> Result<Value, Stop> {
        let presented = parameters.get("refresh_token").ok_or_else(|| invalid("refresh_token"))?;
        let name = sha256(presented.as_bytes());
        // Looked at first: another client's attempt must not cost its owner the token.
        let token: Option<Token> = self.store.get(Kind::Refresh, &name).await?;
        let token = token.ok_or_else(|| invalid("refresh_token"))?;
        if token.service != self.token_service(ctx) {
            return Err(invalid("refresh_token").into());
        }
        if token.credential != client.id {
            return Err(Failure::client(false).into());
        }
        let known = self.config.scopes.as_deref().unwrap_or_default();
        let scopes = token.scope.as_deref().unwrap_or_default().split_ascii_whitespace();
        if scopes.into_iter().any(|scope| !known.iter().any(|known| known == scope)) {
            return Err(Failure::new("invalid_scope", "Scope mismatch").into());
        }
        // Of two who present it one gets a new token.
        let Some(token) = self.store.take::<Token>(Kind::Refresh, &name).await? else {
            return Err(invalid("refresh_token").into());
        };
        if let Some(access) = token.access {
            self.store.take::<Token>(Kind::Access, &access).await?;
        }
        let refresh = if self.config.reuse_refresh_token { Some(presented) } else { self.refreshable()? };
        Ok(self.issue(ctx, client.id, token.user, token.scope, None, refresh).await?)
    }

    /// A new refresh token, where tokens expire at all.
    fn refreshable(&self) -> Result<Option<String>, Unavailable> {
        if self.config.token_expiration == 0 { Ok(None) } else { random().map(Some) }
    }

    /// Makes and keeps an access token, with the refresh token given.
    pub(super) async fn issue(
        &self,
        ctx: &RequestContext,
        credential: Uuid,
        user: Option<String>,
        scope: Option<String>,
        state: Option<String>,
        refresh: Option<String>,
    ) -> Result<Value, Unavailable> {
        let access = random()?;
        let name = sha256(access.as_bytes());
        let expires_in = self.config.token_expiration;
        let token = Token {
            service: self.token_service(ctx),
            credential,
            user,
            scope,
            issued: now(ctx),
            expires_in,
            access: None,
        };
        // Kong keeps the access token as long as its refresh token; here it goes when it is of no more use.
        let access_ttl = (expires_in > 0).then_some(expires_in.saturating_add(1));
        if let Some(refresh) = &refresh {
            let ttl = (self.config.refresh_token_ttl > 0).then_some(self.config.refresh_token_ttl);
            let entry = Token { access: Some(name), ..token.clone() };
            self.store.put(Kind::Refresh, &sha256(refresh.as_bytes()), &entry, ttl).await?;
        }
        self.store.put(Kind::Access, &name, &token, access_ttl).await?;
        let mut issued = json!({ "access_token": access, "token_type": "bearer" });
        if let Some(object) = issued.as_object_mut() {
            if expires_in > 0 {
                object.insert("expires_in".to_owned(), expires_in.into());
            }
            for (name, value) in [("refresh_token", refresh), ("state", state)] {
                if let Some(value) = value {
                    object.insert(name.to_owned(), value.into());
                }
            }
        }
        Ok(issued)
    }

    /// RFC 7662: a client asks about a token. Not in Kong.
    pub(super) async fn introspect(&self, ctx: &RequestContext, parameters: &Parameters) -> EarlyResponse {
        if !self.is_secure(ctx) {
            return refused(&Failure::insecure(), None);
        }
        let claimed = self.claimed(ctx, parameters);
        if let Err(failure) = self.client(&claimed) {
            return refused(&Failure { basic: true, ..failure }, None);
        }
        let presented = parameters.get("token").unwrap_or_default();
        let token: Option<Token> = match self.store.get(Kind::Access, &sha256(presented.as_bytes())).await {
            Ok(token) => token,
            Err(unavailable) => return unavailable.answer(),
        };
        let live = token.filter(|token| {
            !token.expired(now(ctx)) && (token.service.is_none() || token.service == self.token_service(ctx))
        });
        let owner = live
            .as_ref()
            .and_then(|token| self.clients.iter().find(|(_, client)| client.id == token.credential));
        let body = match (live, owner) {
            (Some(token), Some((client_id, client))) => {
                let mut body = json!({
                    "active": true,
                    "client_id": client_id,
                    "token_type": "bearer",
                    "iat": token.issued,
                    "scope": token.scope,
                    "sub": token.user,
                    "username": client.known.identity.consumer.username,
                    "exp": (token.expires_in > 0).then_some(token.issued + token.expires_in),
                });
                if let Some(object) = body.as_object_mut() {
                    object.retain(|_, value| !value.is_null());
                }
                body
            }
            _ => json!({ "active": false }),
        };
        answer(StatusCode::OK, body, None)
    }
}

fn refused(failure: &Failure, state: Option<String>) -> EarlyResponse {
    if failure.basic {
        let challenge = HeaderValue::from_static("Basic realm=\"OAuth2.0\"");
        return answer(StatusCode::UNAUTHORIZED, failure.body(), state)
            .with(header::WWW_AUTHENTICATE, challenge);
    }
    answer(StatusCode::BAD_REQUEST, failure.body(), state)
}

/// RFC 7636, section 4.6.
fn verify(parameters: &Parameters, challenge: Option<&str>) -> Result<(), Failure> {
    let invalid = |why: &str| Err(Failure::new("invalid_request", why));
    let Some(verifier) = parameters.get("code_verifier") else {
        return invalid("code_verifier is required for PKCE authorization requests");
    };
    if !(43..=128).contains(&verifier.len()) {
        return invalid("code_verifier must be between 43 and 128 characters");
    }
    let made = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()));
    match challenge {
        Some(challenge) if same(made.as_bytes(), challenge.as_bytes()) => Ok(()),
        _ => Err(Failure::new("invalid_grant", "Invalid code")),
    }
}
