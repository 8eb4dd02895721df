//! The path of a request: decoded, without the parts that Go's router cleans away.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;

use super::reply::Reply;
use super::route::{self, Found};

pub(super) fn may_block(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET && uri.query().is_some_and(|query| query.contains("index="))
}

/// Copies what lies in the connection's read buffer. A question that waits would keep that buffer from being used again: each
/// watcher would hold a second one, and each answer would take and give back 8 KiB.
pub(super) fn detach(parts: &mut http::request::Parts) {
    for value in parts.headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    let text = parts.uri.path_and_query().map_or("", |text| text.as_str());
    if let Ok(copy) = Uri::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes())) {
        parts.uri = copy;
    }
}

/// The decoded path. Nearly all are already what they decode and are cleaned to.
pub(super) fn path_of<'a>(method: &Method, uri: &'a Uri) -> Result<Cow<'a, str>, Reply> {
    let raw = uri.path();
    if raw.bytes().all(|b| b > b' ' && b < 0x7f && b != b'%') && !may_need_cleaning(raw) {
        return Ok(Cow::Borrowed(raw));
    }
    if !escapes_are_whole(raw) {
        let reply = Reply::text(StatusCode::BAD_REQUEST, "400 Bad Request");
        return Err(reply.with_header("connection", "close"));
    }
    let decoded = percent_decode_str(raw).decode_utf8_lossy();
    if decoded.bytes().any(|b| b < 0x20 || b == 0x7f) || !printable(&decoded) {
        return Err(Reply::empty(StatusCode::BAD_REQUEST));
    }
    match cleaned(&decoded) {
        Some(mut clean) => {
            // Go's router looks for the missing slash first
            if route::find(&clean) == Found::Slash {
                clean.push('/');
            }
            Err(moved(method, uri, &clean))
        }
        None => Ok(decoded),
    }
}

/// Whether Go would print all characters beyond ASCII. The standard library escapes those of the same categories, and behind
/// a text's first character no others.
fn printable(path: &str) -> bool {
    let beyond = |chars: &mut dyn Iterator<Item = char>| chars.filter(|c| !c.is_ascii()).count();
    path.is_ascii() || beyond(&mut path.chars()) == beyond(&mut path.escape_debug())
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(super) fn escapes_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|part| {
        let digits = part.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

/// Cheaper than to look for each of the parts that are cleaned away.
fn may_need_cleaning(path: &str) -> bool {
    path.as_bytes().windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'))
}

/// The path without empty, `.` and `..` parts, if it has any.
fn cleaned(path: &str) -> Option<String> {
    let dirty = path.contains("//")
        || path.contains("/./")
        || path.contains("/../")
        || path.ends_with("/.")
        || path.ends_with("/..");
    if !dirty {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    Some(clean)
}

pub(super) fn moved(method: &Method, uri: &Uri, path: &str) -> Reply {
    const KEEP: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b',')
        .remove(b':')
        .remove(b';')
        .remove(b'=')
        .remove(b'@');
    let mut location = percent_encoding::utf8_percent_encode(path, KEEP).to_string();
    if let Some(query) = uri.query() {
        location = format!("{location}?{query}");
    }
    let mut reply = Reply::empty(StatusCode::MOVED_PERMANENTLY).with_header("location", &location);
    if *method == Method::GET || *method == Method::HEAD {
        reply = reply.with_header("content-type", "text/html; charset=utf-8");
        let shown = location.replace('&', "&amp;").replace('"', "&#34;");
        reply.body = Bytes::from(format!("<a href=\"{shown}\">Moved Permanently</a>.\n\n"));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(cleaned("/v1/kv/a//b").as_deref(), Some("/v1/kv/a/b"));
        assert_eq!(cleaned("/v1/kv//a/").as_deref(), Some("/v1/kv/a/"));
        assert_eq!(cleaned("/v1/kv/a/../b").as_deref(), Some("/v1/kv/b"));
        assert_eq!(cleaned("/v1/kv/a.b/..c"), None);
    }

    #[test]
    fn what_go_prints() {
        for path in ["/é", "/中文", "/a\u{301}", "/\u{301}", "/'\"\\", "/\u{FFFD}", "/🚀"] {
            assert!(printable(path), "{path:?}");
        }
        for path in ["/\u{2028}", "/\u{A0}", "/\u{AD}", "/é\u{200B}", "/\u{FEFF}", "/\u{200C}", "/\u{E000}"]
        {
            assert!(!printable(path), "{path:?}");
        }
    }
}
