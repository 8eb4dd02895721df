//! request-size-limiting: no larger bodies than that.

use http::{HeaderMap, StatusCode, header};
use plinth_kong::RequestSizeLimitingConfig;

use crate::client::RequestBody;
use crate::context::{EarlyResponse, RequestContext};

#[derive(Debug)]
pub(super) struct SizeLimiting {
    most: u64,
    require_content_length: bool,
}

impl SizeLimiting {
    pub fn new(config: &RequestSizeLimitingConfig) -> SizeLimiting {
        SizeLimiting { most: config.bytes(), require_content_length: config.require_content_length }
    }

    /// By the announced length where there is one; else the bytes are counted as they pass.
    pub fn access(&self, ctx: &RequestContext, body: &mut RequestBody) -> Option<EarlyResponse> {
        let announced = ctx.head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|value| value.trim().parse::<u64>().ok());
        if announced.is_none() && self.require_content_length {
            let message = "A valid Content-Length header is required";
            return Some(EarlyResponse::error(StatusCode::LENGTH_REQUIRED, message));
        }
        let gathered = ctx.bodies.request.as_ref().map(|body| body.len() as u64);
        if announced.into_iter().chain(gathered).any(|length| length > self.most) {
            return Some(refusal(&ctx.head.headers));
        }
        body.at_most(self.most);
        None
    }
}

/// 413, or 417 to a client that asked before it sends.
pub fn refusal(headers: &HeaderMap) -> EarlyResponse {
    let expects = headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue"));
    let status = if expects { StatusCode::EXPECTATION_FAILED } else { StatusCode::PAYLOAD_TOO_LARGE };
    EarlyResponse::error(status, "Request size limit exceeded")
}
