//! Answers the gateway makes itself: Kong's error bodies, formatted by what the client accepts.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::context::RequestId;

/// Formats of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `{"message":"…","request_id":"…"}`
    Json,
    /// Plain text.
    Text,
    /// A small page.
    Html,
    /// `<error>…</error>`
    Xml,
}

impl Format {
    /// The best format for an `Accept` header; without one `fallback`.
    #[must_use]
    pub fn accepted(headers: &HeaderMap, fallback: Self) -> Self {
        let Some(accept) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else {
            return fallback;
        };
        let mut best: Option<(Self, f32)> = None;
        for part in accept.split(',') {
            let mut fields = part.split(';').map(str::trim);
            let Some(format) = fields.next().and_then(Self::of_media_range) else { continue };
            let quality = fields
                .find_map(|field| field.strip_prefix("q="))
                .and_then(|quality| quality.trim().parse::<f32>().ok())
                .unwrap_or(1.0);
            if quality > 0.0 && best.is_none_or(|(_, before)| quality > before) {
                best = Some((format, quality));
            }
        }
        best.map_or(Self::Json, |(format, _)| format)
    }

    fn of_media_range(range: &str) -> Option<Self> {
        match range.to_ascii_lowercase().as_str() {
            "application/json" | "*/*" | "application/*" => Some(Self::Json),
            "text/plain" | "text/*" => Some(Self::Text),
            "text/html" | "application/xhtml+xml" => Some(Self::Html),
            "application/xml" => Some(Self::Xml),
            _ => None,
        }
    }

    /// The content type.
    #[must_use]
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
        })
    }

    /// The body.
    #[must_use]
    pub fn body(self, message: &str, id: RequestId) -> Bytes {
        let id = id.as_str();
        Bytes::from(match self {
            Self::Json => {
                let message = serde_json::Value::from(message);
                format!("{{\n  \"message\":{message},\n  \"request_id\":\"{id}\"\n}}")
            }
            Self::Text => format!("{message}\nrequest_id: {id}"),
            Self::Html => {
                let message = escape(message);
                format!(
                    "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  \
                     </head>\n  <body>\n    <h1>Error</h1>\n    <p>{message}.</p>\n    <p>request_id: {id}</p>\n  \
                     </body>\n</html>\n"
                )
            }
            Self::Xml => {
                let message = escape(message);
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>{message}</message>\n  \
                     <requestid>{id}</requestid>\n</error>"
                )
            }
        })
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Kong's words for a status of a proxy failure.
#[must_use]
pub fn message(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "Bad request",
        404 => "Not found",
        405 => "Method not allowed",
        408 => "Request timeout",
        411 => "Length required",
        412 => "Precondition failed",
        413 => "Payload too large",
        414 => "URI too long",
        415 => "Unsupported media type",
        417 => "Expectation failed",
        494 => "Request header or cookie too large",
        502 => "An invalid response was received from the upstream server",
        503 => "The upstream server is currently unavailable",
        504 => "The upstream server is timing out",
        _ => "An unexpected error occurred",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &'static str) -> Format {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        Format::accepted(&headers, Format::Text)
    }

    #[test]
    fn the_highest_quality_wins() {
        assert_eq!(accepted("text/html"), Format::Html);
        assert_eq!(accepted("text/plain;q=0.3, application/xml;q=0.9, */*;q=0.1"), Format::Xml);
        assert_eq!(accepted("*/*"), Format::Json);
        assert_eq!(accepted("image/png"), Format::Json);
        assert_eq!(accepted("text/html;q=0, text/plain;q=0.1"), Format::Text);
        assert_eq!(Format::accepted(&HeaderMap::new(), Format::Text), Format::Text);
    }

    #[test]
    fn messages_cannot_break_out_of_their_format() {
        let id = RequestId::new();
        let json: serde_json::Value = serde_json::from_slice(&Format::Json.body("a\"b\n", id)).unwrap();
        assert_eq!(json["message"], "a\"b\n");
        assert_eq!(json["request_id"], id.as_str());
        let html = Format::Html.body("<script>", id);
        assert!(!String::from_utf8_lossy(&html).contains("<script>"));
    }
}
