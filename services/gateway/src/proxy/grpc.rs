//! gRPC's rules: what may reach a gRPC route, and errors as gRPC clients understand them.

use http::{HeaderMap, HeaderValue, StatusCode, Version, header, request};
use plinth_kong::{Protocol, Route};

use crate::context::EarlyResponse;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// The request is gRPC by its content type.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.len() >= 16 && kind[..16].eq_ignore_ascii_case(b"application/grpc")
    })
}

/// What does not belong on a gRPC route, with Kong's answers to it.
#[must_use]
pub fn refuse(route: &Route, head: &request::Parts, https: bool) -> Option<EarlyResponse> {
    if !route.is_grpc() {
        return None;
    }
    if !is_grpc(&head.headers) {
        let message = "Non-gRPC request matched gRPC route";
        return Some(EarlyResponse::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if head.version < Version::HTTP_2 {
        let refusal = EarlyResponse::error(StatusCode::UPGRADE_REQUIRED, "Please use HTTP2 protocol");
        return Some(
            refusal
                .with(header::CONNECTION, HeaderValue::from_static("Upgrade"))
                .with(header::UPGRADE, HeaderValue::from_static("HTTP/2")),
        );
    }
    if !https && !route.protocols.contains(&Protocol::Grpc) {
        let refusal = EarlyResponse::empty(StatusCode::OK);
        return Some(
            refusal
                .with(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
                .with(header::HeaderName::from_static(STATUS), HeaderValue::from_static("1"))
                .with(
                    header::HeaderName::from_static(MESSAGE),
                    HeaderValue::from_static("gRPC request matched gRPCs route"),
                ),
        );
    }
    None
}

/// Turns an error of the gateway's own into one without body that a gRPC client reads: the status it stands for and
/// the message as `grpc-message`.
pub fn trailers_only(status: StatusCode, headers: &mut HeaderMap, message: &str) {
    // percent-encoding as gRPC has it: printable ASCII but `%` stays
    const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(code(status)));
    let message = percent_encoding::utf8_percent_encode(message, ESCAPED).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert(MESSAGE, message);
    }
}

/// Kong's map from HTTP to gRPC statuses; 2 is "unknown".
fn code(status: StatusCode) -> u16 {
    match status.as_u16() {
        200 => 0,
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 5,
        409 => 6,
        429 => 8,
        499 => 1,
        500 => 13,
        501 => 12,
        503 => 14,
        504 => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_headers() {
        let mut headers = HeaderMap::new();
        trailers_only(StatusCode::UNAUTHORIZED, &mut headers, "50% ü");
        assert_eq!(headers[STATUS], "16");
        assert_eq!(headers[MESSAGE], "50%25 %C3%BC");
    }

    #[test]
    fn content_types_of_grpc_are_known() {
        for (kind, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC-web", true),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), wanted, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
