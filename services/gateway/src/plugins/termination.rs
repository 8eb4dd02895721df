//! request-termination: an answer instead of the upstream's.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use plinth_kong::RequestTerminationConfig;
use serde_json::{Map, Value, json};

use super::auth::query_values;
use super::body::{Pairs, Parsed};
use crate::context::{EarlyBody, EarlyResponse, RequestContext};
use crate::proxy::head::split_port;

#[derive(Debug)]
pub(super) struct RequestTermination {
    /// As a header and as a query parameter.
    trigger: Option<(Option<HeaderName>, String)>,
    /// The answer tells what was asked.
    echo: bool,
    answer: EarlyResponse,
    message: Option<String>,
}

impl RequestTermination {
    pub fn new(config: &RequestTerminationConfig) -> Result<RequestTermination, String> {
        let status =
            StatusCode::from_u16(config.status_code).map_err(|_| "invalid status_code".to_owned())?;
        let named = |name: &String| (HeaderName::from_bytes(name.as_bytes()).ok(), name.clone());
        let message = config.message.as_deref().or(usual(status)).map(str::to_owned);
        Ok(RequestTermination {
            trigger: config.trigger.as_ref().map(named),
            echo: config.echo,
            answer: answer(status, config, message.as_deref())?,
            message,
        })
    }

    pub fn looks_into_bodies(&self) -> bool {
        self.echo
    }

    /// The trigger, if one is configured, is there.
    pub fn applies(&self, ctx: &RequestContext) -> bool {
        self.trigger.as_ref().is_none_or(|(header, name)| {
            let in_header = header.as_ref().is_some_and(|header| ctx.head.headers.contains_key(header));
            let in_query =
                || ctx.head.uri.query().is_some_and(|query| query_values(query, name).next().is_some());
            in_header || in_query()
        })
    }

    pub fn access(&self, ctx: &RequestContext) -> Option<EarlyResponse> {
        if !self.applies(ctx) {
            return None;
        }
        let mut answer = self.answer.clone();
        if self.echo {
            answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer.body = EarlyBody::Verbatim(Bytes::from(self.told(ctx).to_string()));
        }
        Some(answer)
    }

    /// The request, and what it matched.
    fn told(&self, ctx: &RequestContext) -> Value {
        let (host, port) = split_port(ctx.host().unwrap_or_default());
        let port = port.and_then(|port| port.parse().ok()).unwrap_or(ctx.client.local_port);
        let raw = ctx.bodies.request.clone().unwrap_or_default();
        let parsed = Parsed::of(&ctx.head.headers, &raw).map(|parsed| parsed.value());
        let mut told = json!({
            "request": {
                "scheme": if ctx.https() { "https" } else { "http" },
                "host": host,
                "port": port,
                "headers": headers(&ctx.head.headers),
                "query": Pairs::parse(ctx.head.uri.query().unwrap_or_default()).value(),
                "body": parsed,
                "raw_body": String::from_utf8_lossy(&raw),
                "method": ctx.head.method.as_str(),
                "path": ctx.head.uri.path(),
            },
            "matched_route": ctx.route().map(|entry| &*entry.route),
            "matched_service": ctx.service().map(|entry| &*entry.service),
        });
        if let (Some(message), Some(members)) = (&self.message, told.as_object_mut()) {
            members.insert("message".to_owned(), message.clone().into());
        }
        told
    }
}

/// One value as text, several as a list.
fn headers(headers: &HeaderMap) -> Value {
    let text = |value: &HeaderValue| Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned());
    let members = headers.keys().map(|name| {
        let mut values: Vec<Value> = headers.get_all(name).iter().map(text).collect();
        let value = if values.len() == 1 { values.swap_remove(0) } else { Value::Array(values) };
        (name.as_str().to_owned(), value)
    });
    Value::Object(members.collect::<Map<_, _>>())
}

fn usual(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        401 => Some("Unauthorized"),
        404 => Some("Not found"),
        405 => Some("Method not allowed"),
        500 => Some("An unexpected error occurred"),
        502 => Some("Bad Gateway"),
        503 => Some("Service unavailable"),
        _ => None,
    }
}

fn answer(
    status: StatusCode,
    config: &RequestTerminationConfig,
    message: Option<&str>,
) -> Result<EarlyResponse, String> {
    let Some(body) = &config.body else {
        return Ok(message.map_or_else(
            || EarlyResponse::empty(status),
            |message| EarlyResponse::message(status, message),
        ));
    };
    let kind = config.content_type.as_deref().unwrap_or("application/json; charset=utf-8");
    let kind = HeaderValue::from_str(kind).map_err(|_| "invalid content_type".to_owned())?;
    let mut answer = EarlyResponse::empty(status).with(header::CONTENT_TYPE, kind);
    answer.body = EarlyBody::Verbatim(Bytes::from(body.clone()));
    Ok(answer)
}
