//! key-auth: who is asking, by an API key in a header, the query or the body.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use plinth_kong::KeyAuthConfig;

use super::auth::{Directory, Fallback, KeyCredential, Names, query_values};
use super::body::{Field, Kind, Parsed};
use crate::context::{EarlyResponse, RequestContext};

#[derive(Debug)]
pub(super) struct KeyAuth {
    config: KeyAuthConfig,
    names: Vec<(HeaderName, String)>,
    keys: Arc<Names<KeyCredential>>,
    fallback: Fallback,
    challenge: HeaderValue,
}

impl KeyAuth {
    pub fn new(config: &KeyAuthConfig, directory: &Directory) -> Result<KeyAuth, String> {
        let names = config
            .key_names
            .iter()
            .map(|name| HeaderName::from_bytes(name.as_bytes()).map(|header| (header, name.clone())));
        let realm = config.realm.as_ref().map(|realm| format!(" realm=\"{realm}\"")).unwrap_or_default();
        Ok(KeyAuth {
            names: names.collect::<Result<_, _>>().map_err(|_| "invalid key name".to_owned())?,
            keys: Arc::clone(&directory.keys),
            fallback: directory.fallback(config.anonymous.as_deref()),
            challenge: HeaderValue::from_str(&format!("Key{realm}"))
                .map_err(|_| "invalid realm".to_owned())?,
            config: config.clone(),
        })
    }

    pub fn looks_into_bodies(&self) -> bool {
        self.config.key_in_body
    }

    /// Only bodies of kinds that can hold a key.
    pub fn wants_body(&self, ctx: &RequestContext) -> bool {
        self.config.key_in_body && !self.skips(ctx) && Kind::of(&ctx.head.headers).is_some()
    }

    fn skips(&self, ctx: &RequestContext) -> bool {
        (!self.config.run_on_preflight && ctx.head.method == Method::OPTIONS) || self.fallback.skips(ctx)
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        if self.skips(ctx) {
            return None;
        }
        let refusal = match self.key(ctx) {
            Err(message) => message,
            Ok(None) => "No API key found in request",
            Ok(Some(key)) => match self.keys.get(key.as_str()).filter(|known| is_live(known)) {
                Some(known) => {
                    known.known.accept(ctx);
                    return None;
                }
                None => "Unauthorized",
            },
        };
        self.fallback.failed(ctx, || {
            EarlyResponse::error(StatusCode::UNAUTHORIZED, refusal)
                .with(header::WWW_AUTHENTICATE, self.challenge.clone())
        })
    }

    /// The first name that carries a key decides; header before query before body.
    fn key(&self, ctx: &mut RequestContext) -> Result<Option<String>, &'static str> {
        let mut body: Option<Parsed> = None;
        for (header, name) in &self.names {
            let mut values: Vec<String> = Vec::new();
            if self.config.key_in_header {
                let all = ctx.head.headers.get_all(header).iter();
                values = all.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
            }
            let in_header = !values.is_empty();
            if !in_header && self.config.key_in_query {
                values =
                    ctx.head.uri.query().map(|query| query_values(query, name).collect()).unwrap_or_default();
            }
            if self.config.key_in_body
                && body.is_none()
                && (values.is_empty() || self.config.hide_credentials)
            {
                body = ctx.bodies.request.as_ref().and_then(|body| Parsed::of(&ctx.head.headers, body));
            }
            if values.is_empty() {
                match body.as_ref().map_or(Field::Absent, |body| body.field(name)) {
                    Field::Absent => continue,
                    Field::Several => return Err("Duplicate API key found"),
                    Field::Text(key) => values.push(key),
                }
            }
            if values.len() > 1 {
                return Err("Duplicate API key found");
            }
            if self.config.hide_credentials {
                hide(ctx, header, name);
                if body.as_mut().is_some_and(|body| body.remove(name))
                    && let Some(body) = &body
                {
                    ctx.replace_body(body.bytes());
                }
            }
            return Ok(values.pop().filter(|key| !key.is_empty()));
        }
        Ok(None)
    }
}

fn is_live(credential: &KeyCredential) -> bool {
    credential.expires.is_none_or(|expires| Instant::now() < expires)
}

/// The upstream sees no key; the rest of the query keeps its order and spelling.
fn hide(ctx: &mut RequestContext, header: &HeaderName, name: &str) {
    ctx.head.headers.remove(header);
    let query = ctx.upstream_query.as_deref().or_else(|| ctx.head.uri.query());
    let Some(query) = query else { return };
    if query_values(query, name).next().is_some() {
        let kept: Vec<&str> =
            query.split('&').filter(|pair| query_values(pair, name).next().is_none()).collect();
        ctx.upstream_query = Some(kept.join("&"));
    }
}
