//! `Host` as Go's server wants it: HTTP/1.1 must have it, nobody twice, and only with characters of a host.

use http::header::{CONNECTION, HOST, HeaderValue};
use http::{HeaderMap, Method, Response, Version};

use super::reply::{Answer, Reply};

/// What a request is answered that is not well-formed in it; its connection ends.
pub(crate) fn refused(method: &Method, version: Version, headers: &HeaderMap) -> Option<Response<Answer>> {
    let mut hosts = headers.get_all(HOST).iter();
    let why = match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 && *method != Method::CONNECT => {
            "missing required Host header"
        }
        (Some(_), Some(_)) => "too many Host headers",
        (Some(host), None) if !host.as_bytes().iter().all(|byte| fits(*byte)) => "malformed Host header",
        _ => return None,
    };
    let mut reply = Reply::bad(&format!("400 Bad Request: {why}"));
    reply.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Some(reply.into_response())
}

fn fits(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=@[]_~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_and_only_of_a_hosts_characters() {
        let refused = |version, hosts: &[&'static str]| {
            let hosts = hosts.iter().map(|host| (HOST, HeaderValue::from_static(host)));
            super::refused(&Method::GET, version, &hosts.collect()).is_some()
        };
        for (version, hosts, expected) in [
            (Version::HTTP_11, &["consul.example:8500"][..], false),
            (Version::HTTP_11, &["[::1]:8500"], false),
            (Version::HTTP_11, &[""], false),
            (Version::HTTP_11, &[], true),
            (Version::HTTP_10, &[], false),
            (Version::HTTP_10, &["a", "b"], true),
            (Version::HTTP_11, &["a b"], true),
            (Version::HTTP_11, &["a/b"], true),
        ] {
            assert_eq!(refused(version, hosts), expected, "{version:?} {hosts:?}");
        }
    }
}
