//! What is refused before anything else looks at a request. hyper has parsed it strictly; this closes what it leaves
//! open.

use http::{Method, StatusCode, Version, header, request};

/// The status a request is refused with, if it is.
///
/// - HTTP/1.1 without exactly one usable `Host`, a target with user information: 400;
/// - any transfer coding but `chunked` alone, or on HTTP/1.0: 400;
/// - TRACE and CONNECT: 405.
#[must_use]
pub fn refuse(head: &request::Parts) -> Option<StatusCode> {
    if head.method == Method::TRACE || head.method == Method::CONNECT {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    if head.uri.authority().is_some_and(|authority| !plausible_host(authority.as_str().as_bytes())) {
        return Some(StatusCode::BAD_REQUEST);
    }
    if head.version >= Version::HTTP_2 {
        return None;
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Some(StatusCode::BAD_REQUEST),
        (None, None) if head.version == Version::HTTP_11 => return Some(StatusCode::BAD_REQUEST),
        (Some(host), None) if !plausible_host(host.as_bytes()) => return Some(StatusCode::BAD_REQUEST),
        _ => {}
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(coding), None)
            if head.version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            None
        }
        _ => Some(StatusCode::BAD_REQUEST),
    }
}

/// Nothing in it that could end the host part of a URI or start another one.
fn plausible_host(host: &[u8]) -> bool {
    host.iter().all(|byte| {
        byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'@' | b'?' | b'#' | b',' | b'"')
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn refused(version: Version, method: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().version(version).method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        refuse(&parts).map(|status| status.as_u16())
    }

    #[test]
    fn doubtful_requests_are_refused() {
        let one = Version::HTTP_11;
        assert_eq!(refused(one, "GET", &[("host", "a")]), None);
        assert_eq!(refused(one, "GET", &[]), Some(400));
        assert_eq!(refused(Version::HTTP_10, "GET", &[]), None);
        assert_eq!(refused(Version::HTTP_2, "GET", &[]), None);
        assert_eq!(refused(one, "GET", &[("host", "a"), ("host", "b")]), Some(400));
        assert_eq!(refused(one, "GET", &[("host", "a/b")]), Some(400));
        assert_eq!(refused(one, "TRACE", &[("host", "a")]), Some(405));
        assert_eq!(refused(one, "CONNECT", &[("host", "a")]), Some(405));
        assert_eq!(refused(one, "POST", &[("host", "a"), ("transfer-encoding", "chunked")]), None);
        let named =
            Request::builder().uri("http://me@a/").header("host", "a").body(()).unwrap().into_parts().0;
        assert_eq!(refuse(&named), Some(StatusCode::BAD_REQUEST));
        assert_eq!(refused(one, "POST", &[("host", "a"), ("transfer-encoding", "gzip, chunked")]), Some(400));
        assert_eq!(
            refused(
                one,
                "POST",
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]
            ),
            Some(400)
        );
    }
}
