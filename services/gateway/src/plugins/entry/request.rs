//! The request of a log entry, and headers.

use std::collections::BTreeMap;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::json::{number, part, plain_but_for_quotes, separated, text};
use crate::context::RequestContext;
use crate::plugins::auth::query_pairs;
use crate::proxy::head::split_port;

/// Kong's host of a request that names none.
const NAMELESS: &str = "kong";
/// In place of a credential.
const REDACTED: &[u8] = b"REDACTED";

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
    number(line, ctx.outcome.request_head_bytes + ctx.outcome.request_body_bytes);
    line.extend_from_slice(b",\"querystring\":");
    querystring(line, ctx.head.uri.query().unwrap_or_default());
    line.extend_from_slice(b",\"headers\":");
    headers(line, &ctx.head.headers);
    if let Some(tls) = &ctx.client.tls {
        line.extend_from_slice(b",\"tls\":{\"version\":");
        text(line, tls.version.as_bytes());
        line.extend_from_slice(b",\"cipher\":");
        text(line, tls.cipher.as_bytes());
        line.extend_from_slice(b",\"client_verify\":");
        text(line, if tls.verified { b"SUCCESS" } else { b"NONE" });
        line.push(b'}');
    }
    line.push(b'}');
}

/// What nginx knows: the connection's scheme, the host without its port and in lower case, the listener's port.
fn url(line: &mut Vec<u8>, ctx: &RequestContext, uri: &[u8]) {
    let (host, _) = split_port(ctx.host().unwrap_or(NAMELESS));
    line.extend_from_slice(if ctx.client.tls.is_some() { b"\"https://" } else { b"\"http://" });
    let begin = line.len();
    part(line, host.as_bytes());
    line[begin..].make_ascii_lowercase();
    line.push(b':');
    number(line, ctx.client.local_port.into());
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
    let mut text = Vec::with_capacity(64 * headers.len());
    self::headers(&mut text, headers);
    text
}

/// Appends headers: one value as a string, several as a list, secrets not at all.
fn headers(line: &mut Vec<u8>, headers: &HeaderMap) {
    let begin = line.len();
    as_they_are(line, headers);
    // Looked at once for all of them: four quotes each, nothing that has to be escaped.
    let single = headers.keys_len() == headers.len();
    if !single || !plain_but_for_quotes(&line[begin..], 4 * headers.len()) {
        line.truncate(begin);
        one_by_one(line, headers);
    }
}

fn as_they_are(line: &mut Vec<u8>, headers: &HeaderMap) {
    line.push(b'{');
    let mut comma: &[u8] = b"\"";
    for (name, value) in headers {
        line.extend_from_slice(comma);
        comma = b",\"";
        line.extend_from_slice(name.as_str().as_bytes());
        line.extend_from_slice(b"\":\"");
        line.extend_from_slice(if secret(name) { REDACTED } else { value.as_bytes() });
        line.push(b'"');
    }
    line.push(b'}');
}

fn secret(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || *name == PROXY_AUTHORIZATION
}

fn one_by_one(line: &mut Vec<u8>, headers: &HeaderMap) {
    line.push(b'{');
    separated(line, headers.keys(), |line, name| {
        text(line, name.as_str().as_bytes());
        line.push(b':');
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        match values.as_slice() {
            _ if secret(name) => text(line, REDACTED),
            [value] => text(line, value),
            several => {
                line.push(b'[');
                separated(line, several, |line, value| text(line, value));
                line.push(b']');
            }
        }
    });
    line.push(b'}');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn value() -> impl Strategy<Value = HeaderValue> {
        let bytes = prop_oneof![
            "[ -~]{0,20}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..9)
        ];
        bytes.prop_filter_map("no header value", |bytes| HeaderValue::from_bytes(&bytes).ok())
    }

    proptest! {
        #[test]
        fn any_headers_are_read_back(fields in proptest::collection::vec(("[a-d]|authorization", value()), 0..6)) {
            let mut map = HeaderMap::new();
            let mut expected = serde_json::Map::new();
            for (name, value) in &fields {
                map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.clone());
                let shown = Value::from(String::from_utf8_lossy(value.as_bytes()));
                match expected.get_mut(name) {
                    _ if name == "authorization" => drop(expected.insert(name.clone(), "REDACTED".into())),
                    None => drop(expected.insert(name.clone(), shown)),
                    Some(Value::Array(several)) => several.push(shown),
                    Some(one) => *one = Value::Array(vec![one.take(), shown]),
                }
            }
            let text = headers_text(&map);
            prop_assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), Value::Object(expected));
        }
    }
}
