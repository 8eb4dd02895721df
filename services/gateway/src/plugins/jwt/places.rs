//! Where a request may carry its token.

use std::borrow::Cow;

use http::{HeaderName, header};

use crate::context::RequestContext;
use crate::plugins::auth::query_values;

/// Query parameters, cookies and headers that are looked at.
#[derive(Debug)]
pub(in crate::plugins) struct Places {
    parameters: Vec<String>,
    cookies: Vec<String>,
    headers: Vec<HeaderName>,
}

/// Why there is no token to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugins) enum Absent {
    None,
    /// Different ones.
    Several,
}

impl Places {
    pub fn new(parameters: &[String], cookies: &[String], headers: &[String]) -> Result<Places, String> {
        let names = headers.iter().map(|name| HeaderName::from_bytes(name.as_bytes()));
        Ok(Places {
            parameters: parameters.to_vec(),
            cookies: cookies.to_vec(),
            headers: names.collect::<Result<_, _>>().map_err(|_| "invalid header name".to_owned())?,
        })
    }

    /// The one token of the request. The same one in several places is fine, different ones are not.
    pub fn token<'c>(&self, ctx: &'c RequestContext) -> Result<Cow<'c, str>, Absent> {
        let mut found: Option<Cow<'c, str>> = None;
        let mut several = false;
        let mut add = |token: Cow<'c, str>| match &found {
            Some(other) if *other != token => several = true,
            _ => found = Some(token),
        };
        if let Some(query) = ctx.head.uri.query() {
            for name in &self.parameters {
                let values = query_values(query, name).filter(|value| !value.is_empty());
                values.map(Cow::Owned).for_each(&mut add);
            }
        }
        for name in &self.cookies {
            let value = cookie(ctx, name).filter(|value| !value.is_empty());
            value.map(Cow::Borrowed).into_iter().for_each(&mut add);
        }
        for name in &self.headers {
            let bearer = ctx.header(name).and_then(bearer);
            bearer.map(Cow::Borrowed).into_iter().for_each(&mut add);
        }
        if several {
            return Err(Absent::Several);
        }
        found.ok_or(Absent::None)
    }
}

/// `Bearer x`, any case.
fn bearer(value: &str) -> Option<&str> {
    let value = value.trim_start();
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = rest.trim();
    (scheme.eq_ignore_ascii_case("bearer") && rest.starts_with([' ', '\t']) && !token.is_empty())
        .then_some(token)
}

pub(in crate::plugins) fn cookie<'c>(ctx: &'c RequestContext, name: &str) -> Option<&'c str> {
    let lines = ctx.head.headers.get_all(header::COOKIE).iter();
    lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}
