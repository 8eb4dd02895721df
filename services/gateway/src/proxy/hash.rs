//! The key of consistent hashing, from what the upstream says to hash on.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use plinth_core::balance::stable_hash;
use plinth_kong::HashInput;

use crate::context::RequestContext;

/// The key of a request; `None` when nothing to hash on is there (then all such requests go to one endpoint). A
/// cookie that is missing is made and given to the client.
#[must_use]
pub fn key(context: &mut RequestContext, upstream: &plinth_kong::Upstream) -> Option<u64> {
    let names = Names {
        header: upstream.hash_on_header.as_deref(),
        query: upstream.hash_on_query_arg.as_deref(),
        capture: upstream.hash_on_uri_capture.as_deref(),
    };
    let first = match upstream.hash_on {
        HashInput::None => return None,
        HashInput::Cookie => return cookie(context, upstream),
        input => of(context, input, &names),
    };
    if first.is_some() {
        return first;
    }
    let names = Names {
        header: upstream.hash_fallback_header.as_deref(),
        query: upstream.hash_fallback_query_arg.as_deref(),
        capture: upstream.hash_fallback_uri_capture.as_deref(),
    };
    match upstream.hash_fallback {
        HashInput::None => None,
        HashInput::Cookie => cookie(context, upstream),
        input => of(context, input, &names),
    }
}

struct Names<'a> {
    header: Option<&'a str>,
    query: Option<&'a str>,
    capture: Option<&'a str>,
}

fn of(context: &RequestContext, input: HashInput, names: &Names<'_>) -> Option<u64> {
    match input {
        HashInput::None | HashInput::Cookie => None,
        HashInput::Ip => Some(stable_hash(context.client_ip.to_string().as_bytes())),
        HashInput::Path => Some(stable_hash(plinth_kong::normalize_path(context.head.uri.path()).as_bytes())),
        HashInput::Consumer => {
            let consumer = context.consumer.as_ref().map(|consumer| stable_hash(consumer.id.as_bytes()));
            consumer.or_else(|| Some(stable_hash(context.credential.as_ref()?.id.as_bytes())))
        }
        HashInput::Header => {
            let name = HeaderName::from_bytes(names.header?.as_bytes()).ok()?;
            let values: Vec<&[u8]> =
                context.head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            joined(values)
        }
        HashInput::QueryArg => {
            let name = names.query?;
            let pairs =
                context.head.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            joined(pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.as_bytes()).collect())
        }
        HashInput::UriCapture => {
            let name = names.capture?;
            let (_, value) = context.captures.iter().find(|(key, _)| key.as_ref() == name)?;
            Some(stable_hash(value.as_bytes()))
        }
    }
}

/// Several values count whatever their order.
fn joined(mut values: Vec<&[u8]>) -> Option<u64> {
    values.sort_unstable();
    (!values.is_empty()).then(|| stable_hash(&values.join(&b","[..])))
}

/// The place a session's cookie names.
#[must_use]
pub fn sticky(headers: &HeaderMap, name: &str) -> Option<u64> {
    cookie_value(headers, name).and_then(|value| u64::from_str_radix(value, 16).ok())
}

fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get_all(header::COOKIE).iter().find_map(|line| {
        let mut pairs = line.to_str().ok()?.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    })
}

fn cookie(context: &mut RequestContext, upstream: &plinth_kong::Upstream) -> Option<u64> {
    let name = upstream.hash_on_cookie.as_deref()?;
    let sent = cookie_value(&context.head.headers, name).map(|value| stable_hash(value.as_bytes()));
    if sent.is_some() {
        return sent;
    }
    let value = uuid::Uuid::new_v4().to_string();
    let path = upstream.hash_on_cookie_path.as_deref().unwrap_or("/");
    let cookie = format!("{name}={value}; Path={path}; Same-Site=Lax; HttpOnly");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        context.outcome.set_cookie = Some(cookie);
    }
    Some(stable_hash(value.as_bytes()))
}
