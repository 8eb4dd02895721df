//! The request of a log entry, and headers.

use std::collections::BTreeMap;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::json::{number, optional, part, separated, text};
use crate::context::RequestContext;
use crate::plugins::auth::query_pairs;
use crate::plugins::metrics::head_bytes;

/// Appends the `request` of an entry.
pub(super) fn write(line: &mut Vec<u8>, ctx: &RequestContext) {
    let uri = ctx.head.uri.path_and_query().map_or("/", |uri| uri.as_str()).as_bytes();
    line.extend_from_slice(b"{\"id\":\"");
    line.extend_from_slice(ctx.request_id.as_str().as_bytes());
    line.extend_from_slice(b"\",\"method\":");
    text(line, ctx.head.method.as_str().as_bytes());
    line.extend_from_slice(b",\"uri\":");
    text(line, uri);
    line.extend_from_slice(b",\"url\":");
    url(line, ctx, uri);
    line.extend_from_slice(b",\"size\":");
    number(line, head_bytes(ctx) + ctx.outcome.request_body_bytes);
    line.extend_from_slice(b",\"querystring\":");
    querystring(line, ctx.head.uri.query().unwrap_or_default());
    line.extend_from_slice(b",\"headers\":");
    headers(line, &ctx.head.headers);
    if ctx.client.tls {
        line.extend_from_slice(b",\"tls\":{\"sni\":");
        optional(line, ctx.client.sni.as_deref());
        line.push(b'}');
    }
    line.push(b'}');
}

/// Kong always names the port.
fn url(line: &mut Vec<u8>, ctx: &RequestContext, uri: &[u8]) {
    let host = ctx.host().unwrap_or_default();
    let named = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    line.extend_from_slice(if ctx.https() { b"\"https://" } else { b"\"http://" });
    part(line, host.as_bytes());
    if !named {
        line.push(b':');
        number(line, ctx.client.local_port.into());
    }
    part(line, uri);
    line.push(b'"');
}

/// One value as a string, several as a list, none as `true`.
fn querystring(line: &mut Vec<u8>, query: &str) {
    let mut parameters: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for (name, value) in query_pairs(query) {
        parameters.entry(name).or_default().push(value);
    }
    let one = |line: &mut Vec<u8>, value: &Option<String>| match value {
        Some(value) => text(line, value.as_bytes()),
        None => line.extend_from_slice(b"true"),
    };
    line.push(b'{');
    separated(line, &parameters, |line, (name, values)| {
        text(line, name.as_bytes());
        line.push(b':');
        if let [value] = values.as_slice() {
            return one(line, value);
        }
        line.push(b'[');
        separated(line, values, one);
        line.push(b']');
    });
    line.push(b'}');
}

/// The headers of an answer, for later.
pub(in crate::plugins) fn headers_text(headers: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::with_capacity(768);
    self::headers(&mut text, headers);
    text
}

/// Appends headers: one value as a string, several as a list, secrets not at all.
fn headers(line: &mut Vec<u8>, headers: &HeaderMap) {
    line.push(b'{');
    // the values of a name come one after the other
    let mut fields = headers.iter().peekable();
    let all_single = headers.keys_len() == headers.len();
    let mut comma: &[u8] = b"\"";
    while let Some((name, value)) = fields.next() {
        line.extend_from_slice(comma);
        comma = b",\"";
        line.extend_from_slice(name.as_str().as_bytes());
        line.extend_from_slice(b"\":");
        let same = |next: &(&HeaderName, &HeaderValue)| next.0 == name;
        if *name == AUTHORIZATION || *name == PROXY_AUTHORIZATION {
            line.extend_from_slice(b"\"REDACTED\"");
            while fields.next_if(same).is_some() {}
        } else if all_single || fields.peek().is_none_or(|next| !same(next)) {
            text(line, value.as_bytes());
        } else {
            let mut values = vec![value];
            values.extend(std::iter::from_fn(|| fields.next_if(same).map(|(_, value)| value)));
            line.push(b'[');
            separated(line, values, |line, value| text(line, value.as_bytes()));
            line.push(b']');
        }
    }
    line.push(b'}');
}
