//! request-termination: an answer instead of the upstream's.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use plinth_kong::RequestTerminationConfig;

use super::auth::query_values;
use crate::context::{EarlyBody, EarlyResponse, RequestContext};

#[derive(Debug)]
pub(super) struct RequestTermination {
    trigger: Option<String>,
    answer: EarlyResponse,
}

impl RequestTermination {
    pub fn new(config: &RequestTerminationConfig) -> Result<RequestTermination, String> {
        let status =
            StatusCode::from_u16(config.status_code).map_err(|_| "invalid status_code".to_owned())?;
        Ok(RequestTermination { trigger: config.trigger.clone(), answer: answer(status, config)? })
    }

    pub fn access(&self, ctx: &RequestContext) -> Option<EarlyResponse> {
        let wanted = self.trigger.as_deref().is_none_or(|name| {
            let in_query =
                || ctx.head.uri.query().is_some_and(|query| query_values(query, name).next().is_some());
            ctx.head.headers.contains_key(name) || in_query()
        });
        wanted.then(|| self.answer.clone())
    }
}

fn answer(status: StatusCode, config: &RequestTerminationConfig) -> Result<EarlyResponse, String> {
    if let Some(body) = &config.body {
        let kind = config.content_type.as_deref().unwrap_or("application/json; charset=utf-8");
        let kind = HeaderValue::from_str(kind).map_err(|_| "invalid content_type".to_owned())?;
        let mut answer = EarlyResponse::empty(status).with(header::CONTENT_TYPE, kind);
        answer.body = EarlyBody::Verbatim(Bytes::from(body.clone()));
        return Ok(answer);
    }
    let message = config.message.as_deref().or(match status.as_u16() {
        401 => Some("Unauthorized"),
        404 => Some("Not found"),
        405 => Some("Method not allowed"),
        500 => Some("An unexpected error occurred"),
        502 => Some("Bad gateway"),
        503 => Some("Service unavailable"),
        _ => None,
    });
    Ok(message
        .map_or_else(|| EarlyResponse::empty(status), |message| EarlyResponse::message(status, message)))
}
