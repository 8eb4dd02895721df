//! cors: which pages of other origins may read the answers.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};
use plinth_kong::{CorsConfig, Pattern};

use crate::context::{EarlyResponse, RequestContext};

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const YES: HeaderValue = HeaderValue::from_static("true");

/// Which origins are allowed.
#[derive(Debug)]
enum Origins {
    /// `*`
    Any,
    /// One plain origin: sent whatever the request's is.
    One(HeaderValue),
    Listed(Vec<Allowed>),
}

#[derive(Debug)]
enum Allowed {
    Any,
    Origin(String),
    /// Looks at the host, or at the whole origin when it holds a colon.
    Pattern {
        pattern: Box<Pattern>,
        whole: bool,
    },
}

#[derive(Debug)]
pub(super) struct Cors {
    origins: Origins,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    preflight_continue: bool,
    any_method: bool,
}

/// A preflight was answered: its headers are complete.
#[derive(Clone, Copy)]
struct Answered;

fn is_plain(origin: &str) -> bool {
    origin.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'/' | b'-'))
}

fn joined(list: &[String]) -> Result<Option<HeaderValue>, String> {
    if list.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(&list.join(",")).map(Some).map_err(|_| "not a header value".to_owned())
}

impl Cors {
    pub fn new(config: &CorsConfig) -> Result<Cors, String> {
        Ok(Cors {
            origins: origins(&config.origins)?,
            methods: joined(&config.methods)?.unwrap_or(HeaderValue::from_static("")),
            headers: joined(&config.headers)?,
            exposed: joined(&config.exposed_headers)?,
            max_age: config.max_age.and_then(|age| HeaderValue::from_str(&age.to_string()).ok()),
            credentials: config.credentials,
            private_network: config.private_network,
            preflight_continue: config.preflight_continue,
            any_method: config.preflight_any_method,
        })
    }

    /// Preflights are answered though no route has the method OPTIONS.
    pub fn answers_any_method(&self) -> bool {
        self.any_method
    }

    /// Answers preflights, before any authentication.
    pub fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        let asked = &ctx.head.headers;
        let preflight = ctx.head.method == Method::OPTIONS
            && asked.contains_key(header::ORIGIN)
            && asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !preflight || self.preflight_continue {
            return None;
        }
        let mut answer = EarlyResponse::empty(StatusCode::OK);
        let headers = &mut answer.headers;
        self.allow_origin(asked, headers);
        if self.private_network && asked.get(REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == "true") {
            headers.insert(ALLOW_PRIVATE_NETWORK, YES);
        }
        let allowed = self.headers.as_ref().or_else(|| asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS));
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        if let Some(max_age) = &self.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
        ctx.carried.insert(Answered);
        Some(answer)
    }

    /// Marks every other answer, errors included.
    pub fn header(&self, ctx: &RequestContext, head: &mut response::Parts) {
        if ctx.carried.get::<Answered>().is_some() {
            return;
        }
        self.allow_origin(&ctx.head.headers, &mut head.headers);
        if let Some(exposed) = &self.exposed {
            head.headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    fn allow_origin(&self, asked: &HeaderMap, headers: &mut HeaderMap) {
        let origin = asked.get(header::ORIGIN);
        let any = match &self.origins {
            Origins::Any => true,
            Origins::One(one) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, one.clone());
                false
            }
            Origins::Listed(list) => match origin.and_then(|origin| first_fitting(list, origin)) {
                Some(Allowed::Any) => true,
                Some(_) => {
                    if let Some(origin) = origin {
                        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                    }
                    false
                }
                None => {
                    headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
                    false
                }
            },
        };
        if any {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            vary(headers);
        }
        if !self.credentials {
            return;
        }
        match (any, origin) {
            (false, _) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, YES);
            }
            // "*" and credentials exclude each other: the origin itself is sent.
            (true, Some(origin)) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, YES);
                vary(headers);
            }
            (true, None) => {}
        }
    }
}

fn vary(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::VARY).iter();
    let named = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    if !named.map(str::trim).any(|name| name.eq_ignore_ascii_case("origin") || name == "*") {
        headers.append(header::VARY, ORIGIN);
    }
}

fn origins(list: &[String]) -> Result<Origins, String> {
    match list {
        [] => return Ok(Origins::Any),
        [one] if one == "*" => return Ok(Origins::Any),
        [one] if is_plain(one) => {
            return HeaderValue::from_str(one).map(Origins::One).map_err(|_| "invalid origin".to_owned());
        }
        _ => {}
    }
    let mut list = list.iter().map(|entry| allowed(entry)).collect::<Result<Vec<_>, _>>()?;
    // What stands behind it is never asked.
    if let Some(any) = list.iter().position(|allowed| matches!(allowed, Allowed::Any)) {
        list.truncate(any + 1);
    }
    Ok(Origins::Listed(list))
}

/// The first entry that allows the origin, or another that says the same of it.
fn first_fitting<'l>(list: &'l [Allowed], origin: &HeaderValue) -> Option<&'l Allowed> {
    let written = |allowed: &&Allowed| matches!(allowed, Allowed::Origin(allowed) if *allowed == *origin);
    list.iter().find(written).or_else(|| {
        let origin = origin.to_str().ok().and_then(normal);
        list.iter().find(|allowed| allowed.fits(origin.as_deref()))
    })
}

fn allowed(entry: &str) -> Result<Allowed, String> {
    if entry == "*" {
        return Ok(Allowed::Any);
    }
    if is_plain(entry)
        && let Some(origin) = normal(entry)
    {
        return Ok(Allowed::Origin(origin.into_owned()));
    }
    let pattern = Box::new(Pattern::whole(entry)?);
    Ok(Allowed::Pattern { pattern, whole: entry.contains(':') })
}

/// Scheme and host lower-case, default ports dropped.
fn normal(origin: &str) -> Option<Cow<'_, str>> {
    let scheme = &origin[..origin.find(':')?];
    let host = origin[scheme.len()..].strip_prefix("://")?;
    let default = match scheme.len() {
        4 if scheme.eq_ignore_ascii_case("http") => ":80",
        5 if scheme.eq_ignore_ascii_case("https") => ":443",
        _ => "",
    };
    let bare = host.trim_end_matches('/');
    let bare = if default.is_empty() { bare } else { bare.strip_suffix(default).unwrap_or(bare) };
    if bare.len() == host.len() && !origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(Cow::Borrowed(origin));
    }
    let mut normal = [scheme, "://", bare].concat();
    normal.make_ascii_lowercase();
    Some(Cow::Owned(normal))
}

impl Allowed {
    /// Whether it allows this origin, in its normal form if it has one.
    fn fits(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return matches!(self, Allowed::Any) };
        match self {
            Allowed::Any => true,
            Allowed::Origin(allowed) => *allowed == origin,
            Allowed::Pattern { pattern, whole: true } => pattern.is_match(origin),
            Allowed::Pattern { pattern, whole: false } => {
                let host = origin.split_once("://").map_or("", |(_, host)| host);
                pattern.is_match(host.split(':').next().unwrap_or(host))
            }
        }
    }
}

#[cfg(test)]
mod tests;
