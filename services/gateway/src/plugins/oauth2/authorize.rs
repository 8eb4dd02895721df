//! `/oauth2/authorize`: called by the user's login page, which vouches for the user with the provision key.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::parameters::Parameters;
use super::store::{Code, Kind, Unavailable};
use super::{Failure, OAuth2, OAuth2Client, answer, random};
use crate::context::{EarlyResponse, RequestContext};
use crate::plugins::auth::sha256;

/// How long a code is good, seconds.
const CODE_TTL: u64 = 300;

impl OAuth2 {
    pub(super) async fn authorize(&self, ctx: &RequestContext, parameters: &Parameters) -> EarlyResponse {
        let state = parameters.get("state");
        let mut client = None;
        let mut implicit = false;
        let outcome = match self.check_authorize(ctx, parameters, &mut client) {
            Err(failure) => Err(failure),
            Ok(asked) => {
                implicit = asked.implicit;
                match self.grant(ctx, parameters, asked).await {
                    Ok(granted) => Ok(granted),
                    Err(unavailable) => return unavailable.answer(),
                }
            }
        };
        let status = if outcome.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let mut said = outcome.unwrap_or_else(|failure| failure.body());
        // Where the client cannot be sent back, the login page is told.
        let Some(redirect) = client.as_ref().and_then(|client| self.redirect(client, parameters)) else {
            return answer(status, said, state);
        };
        if let (Some(state), Some(object)) = (state, said.as_object_mut()) {
            object.insert("state".to_owned(), state.into());
        }
        answer(status, json!({ "redirect_uri": joined(redirect, &said, implicit) }), None)
    }

    /// The registered URI asked for, else the first one.
    fn redirect<'c>(&self, client: &'c OAuth2Client, parameters: &Parameters) -> Option<&'c str> {
        let asked = parameters.get("redirect_uri");
        let fits = client.redirect_uris.iter().find(|known| asked.as_deref() == Some(known));
        fits.or_else(|| client.redirect_uris.first()).map(String::as_str)
    }

    fn check_authorize(
        &self,
        ctx: &RequestContext,
        parameters: &Parameters,
        found: &mut Option<Arc<OAuth2Client>>,
    ) -> Result<Asked, Failure> {
        if !self.is_secure(ctx) {
            return Err(Failure::insecure());
        }
        if !self.has_provision_key(parameters) {
            return Err(Failure::new("invalid_provision_key", "Invalid provision_key"));
        }
        let Some(user) = parameters.filled("authenticated_userid") else {
            let why = "Missing authenticated_userid parameter";
            return Err(Failure::new("invalid_authenticated_userid", why));
        };
        let client = parameters.get("client_id").and_then(|id| self.clients.get(id.as_str())).cloned();
        found.clone_from(&client);
        let kind = parameters.get("response_type");
        let implicit = kind.as_deref() == Some("token") && self.config.enable_implicit_grant;
        let code = kind.as_deref() == Some("code") && self.config.enable_authorization_code;
        // Of several faults Kong tells the one it finds last; so do these, in the opposite order.
        let challenge = challenge(parameters)?;
        let registered = client.as_ref().filter(|client| challenge.is_none() && self.requires_pkce(client));
        if let Some(client) = registered {
            let why = format!("code_challenge is required for {} clients", client.kind_name());
            return Err(Failure::new("invalid_request", why));
        }
        let client = match client {
            Some(client) if !client.redirect_uris.is_empty() => client,
            _ => return Err(Failure::client(false)),
        };
        let redirect_uri = parameters.get("redirect_uri");
        if redirect_uri.as_ref().is_some_and(|asked| !client.redirect_uris.contains(asked)) {
            return Err(Failure::redirect_uri());
        }
        let scope = self.scope(parameters)?;
        if !(implicit || code) {
            return Err(Failure::new("unsupported_response_type", "Invalid response_type"));
        }
        Ok(Asked { client, user, scope, challenge, redirect_uri, implicit })
    }

    async fn grant(
        &self,
        ctx: &RequestContext,
        parameters: &Parameters,
        asked: Asked,
    ) -> Result<Value, Unavailable> {
        let Asked { client, user, scope, challenge, redirect_uri, implicit } = asked;
        if implicit {
            let state = parameters.get("state");
            return self.issue(ctx, client.id, Some(user), scope, state, None).await;
        }
        let code = random()?;
        let entry = Code {
            service: self.token_service(ctx),
            credential: client.id,
            plugin: self.id,
            user,
            scope,
            challenge,
            redirect_uri,
        };
        self.store.put(Kind::Code, &sha256(code.as_bytes()), &entry, Some(CODE_TTL)).await?;
        Ok(json!({ "code": code }))
    }
}

/// A request for authorization in order.
struct Asked {
    client: Arc<OAuth2Client>,
    user: String,
    scope: Option<String>,
    challenge: Option<String>,
    redirect_uri: Option<String>,
    implicit: bool,
}

/// The PKCE challenge in its one base64url form.
fn challenge(parameters: &Parameters) -> Result<Option<String>, Failure> {
    let invalid = |why: &str| Err(Failure::new("invalid_request", why));
    let method = parameters.get("code_challenge_method");
    let Some(challenge) = parameters.get("code_challenge") else {
        return match method {
            Some(_) => invalid("code_challenge is required when code_method is present"),
            None => Ok(None),
        };
    };
    if method.is_some_and(|method| !method.eq_ignore_ascii_case("s256")) {
        return invalid("code_challenge_method is not supported, must be S256");
    }
    let decoded = URL_SAFE_NO_PAD.decode(challenge.trim_end_matches('='));
    Ok(Some(decoded.map_or(challenge, |bytes| URL_SAFE_NO_PAD.encode(bytes))))
}

/// The URI with what is said as query, or as fragment for the implicit grant.
fn joined(uri: &str, said: &Value, implicit: bool) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = said.as_object().into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", encode(name), encode(&value))
    });
    let pairs: Vec<String> = pairs.collect();
    let sign = match (implicit, uri.contains('?')) {
        (true, _) => '#',
        (false, true) => '&',
        (false, false) => '?',
    };
    format!("{uri}{sign}{}", pairs.join("&"))
}
