//! basic-auth: who is asking, by name and password.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, StatusCode, header};
use plinth_kong::BasicAuthConfig;

use super::auth::{BasicCredential, Directory, Fallback, Names};
use crate::context::{EarlyResponse, RequestContext};

#[derive(Debug)]
pub(super) struct BasicAuth {
    hide_credentials: bool,
    credentials: Arc<Names<BasicCredential>>,
    fallback: Fallback,
    challenge: HeaderValue,
}

impl BasicAuth {
    pub fn new(config: &BasicAuthConfig, directory: &Directory) -> Result<BasicAuth, String> {
        let realm = config.realm.as_deref().unwrap_or("service");
        Ok(BasicAuth {
            hide_credentials: config.hide_credentials,
            credentials: Arc::clone(&directory.basic),
            fallback: directory.fallback(config.anonymous.as_deref()),
            challenge: HeaderValue::from_str(&format!("Basic realm=\"{realm}\""))
                .map_err(|_| "invalid realm".to_owned())?,
        })
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        if self.fallback.skips(ctx) {
            return None;
        }
        // A proxy's credential counts first; one whose name nobody has gives way to the other.
        for name in [header::PROXY_AUTHORIZATION, header::AUTHORIZATION] {
            let login = ctx.head.headers.get(&name).and_then(login);
            if self.hide_credentials && ctx.head.headers.contains_key(&name) {
                hide(ctx, &name);
            }
            let Some((user, password)) = login else { continue };
            let Some(credential) = self.credentials.get(user.as_str()) else { continue };
            if credential.password.fits(&password) {
                credential.known.accept(ctx);
                return None;
            }
            break;
        }
        self.fallback.failed(ctx, || {
            EarlyResponse::error(StatusCode::UNAUTHORIZED, "Unauthorized")
                .with(header::WWW_AUTHENTICATE, self.challenge.clone())
        })
    }
}

fn hide(ctx: &mut RequestContext, name: &HeaderName) {
    ctx.head.headers.remove(name);
}

/// User and password of `Basic base64(user:password)`; the password may hold colons.
fn login(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let value = value.to_str().ok()?.trim_start();
    let (scheme, rest) = value.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':').filter(|at| *at > 0)?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}
