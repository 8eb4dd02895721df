//! What a client says, in query and body: the body's word counts.

use bytes::Bytes;

use crate::context::RequestContext;
use crate::plugins::auth::query_values;
use crate::plugins::body::{Field, Kind, Parsed};

pub(super) struct Parameters {
    query: String,
    body: Option<Parsed>,
}

impl Parameters {
    pub fn of(ctx: &RequestContext) -> Parameters {
        let body = ctx.bodies.request.as_ref().and_then(|body| Parsed::of(&ctx.head.headers, body));
        Parameters { query: ctx.head.uri.query().unwrap_or_default().to_owned(), body }
    }

    /// A parameter given several times counts as not given (RFC 6749, section 3.1).
    pub fn get(&self, name: &str) -> Option<String> {
        match self.body.as_ref().map(|body| body.field(name)) {
            Some(Field::Text(text)) => Some(text),
            Some(Field::Several) => None,
            Some(Field::Absent) | None => {
                let mut values = query_values(&self.query, name);
                match (values.next(), values.next()) {
                    (Some(value), None) => Some(value),
                    _ => None,
                }
            }
        }
    }

    /// The same, blank counting as absent.
    pub fn filled(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }
}

/// The form of a request without one of its fields; `None` when it is not there.
pub(super) fn without(ctx: &RequestContext, name: &str) -> Option<Bytes> {
    let body = ctx.bodies.request.as_ref()?;
    if Kind::of(&ctx.head.headers) != Some(Kind::Form) {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    query_values(text, name).next()?;
    let kept: Vec<&str> = text.split('&').filter(|pair| query_values(pair, name).next().is_none()).collect();
    Some(Bytes::from(kept.join("&")))
}
