//! Who calls.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderValue, header};

use crate::problem::Problem;

use super::{Auth, AuthError, Claims, Scope};

/// The caller of a request: an extractor for handlers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    subject: String,
    scopes: Vec<Scope>,
    /// None for the anonymous caller of a service without authentication.
    claims: Option<Claims>,
}

impl Caller {
    /// The caller of a service without authentication: may do everything.
    pub fn anonymous() -> Caller {
        Caller {
            inner: Arc::new(Inner { subject: "anonymous".to_owned(), scopes: Vec::new(), claims: None }),
        }
    }

    pub(super) fn verified(claims: Claims) -> Caller {
        let (subject, scopes) = (claims.sub.clone(), claims.scopes());
        Caller { inner: Arc::new(Inner { subject, scopes, claims: Some(claims) }) }
    }

    /// The `sub` claim; `anonymous` without authentication.
    pub fn subject(&self) -> &str {
        &self.inner.subject
    }

    /// The token's claims; none without authentication.
    pub fn claims(&self) -> Option<&Claims> {
        self.inner.claims.as_ref()
    }

    /// The token's scopes.
    pub fn scopes(&self) -> &[Scope] {
        &self.inner.scopes
    }

    /// True without authentication.
    pub fn is_anonymous(&self) -> bool {
        self.inner.claims.is_none()
    }

    /// True when the caller may do `action` on `name` of `kind`; without a name: on all of them.
    pub fn allows(&self, kind: &str, action: &str, name: Option<&str>) -> bool {
        self.is_anonymous() || self.inner.scopes.iter().any(|scope| scope.allows(kind, action, name))
    }

    /// Requires a permission.
    ///
    /// # Errors
    /// 403 that names the missing scope.
    pub fn require(&self, kind: &str, action: &str, name: Option<&str>) -> Result<(), Problem> {
        if self.allows(kind, action, name) {
            return Ok(());
        }
        let needed = match name {
            Some(name) => format!("{kind}:{action}:{name}"),
            None => format!("{kind}:{action}"),
        };
        let mut problem = Problem::forbidden(format!("the token lacks the scope {needed}"));
        let challenge = format!("Bearer realm=\"plinth\", error=\"insufficient_scope\", scope=\"{needed}\"");
        // A name with characters that no header may hold keeps the answer, without the challenge.
        if !needed.contains(['"', '\\'])
            && let Ok(value) = HeaderValue::from_str(&challenge)
        {
            problem = problem.header(header::WWW_AUTHENTICATE, value);
        }
        Err(problem)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(caller.clone());
        }
        let Some(auth) = parts.extensions.get::<Auth>().cloned() else {
            return Err(Problem::internal(&AuthError::NotInstalled));
        };
        let caller = auth.caller(&parts.headers).await?;
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}
