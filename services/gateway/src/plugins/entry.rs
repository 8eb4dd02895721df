//! Kong's log entry, as every log plugin writes it.
//!
//! Written piece by piece: with a log plugin this is the most that the gateway does for a request, and through serde's
//! derived structures it took about three times as many instructions.

mod json;
mod request;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use plinth_kong::Consumer;
use uuid::Uuid;

use super::Labels;
use crate::context::{RequestContext, Source, Try, TryState};
use json::{address, number, optional, separated, text};
pub(super) use request::headers_text;

/// Kong's workspace "default" in DB-less mode, and the end of the line.
const WORKSPACE: &str =
    ",\"workspace\":\"0dc6f45b-8f8d-40d2-a504-473544ee190b\",\"workspace_name\":\"default\"}\n";

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The route's and service's entities as the log shows them, written once.
#[derive(Clone, Debug, Default)]
pub(super) struct Entities(Arc<str>);

impl Entities {
    pub fn of(at: &Labels<'_>) -> Entities {
        let mut text = String::new();
        member(&mut text, "service", at.service);
        member(&mut text, "route", at.route);
        Entities(text.into())
    }
}

fn member(text: &mut String, name: &str, entity: Option<&impl serde::Serialize>) {
    if let Some(entity) = entity.and_then(|entity| serde_json::to_string(entity).ok()) {
        text.push_str(&format!(",\"{name}\":{entity}"));
    }
}

/// One line of the log, newline included, to be kept.
pub(super) fn line(ctx: &RequestContext, entities: &Entities) -> Vec<u8> {
    let mut line = Vec::with_capacity(2048);
    write(ctx, entities, &mut line);
    line
}

/// Appends one line of the log, newline included.
pub(super) fn write(ctx: &RequestContext, entities: &Entities, line: &mut Vec<u8>) {
    let outcome = &ctx.outcome;
    let began = ctx.timing.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    line.extend_from_slice(b"{\"request\":");
    request::write(line, ctx);
    line.extend_from_slice(b",\"response\":{\"status\":");
    line.extend_from_slice(outcome.status.as_str().as_bytes());
    line.extend_from_slice(b",\"size\":");
    number(line, outcome.response_head_bytes + outcome.response_body_bytes);
    line.extend_from_slice(b",\"headers\":");
    line.extend_from_slice(outcome.response_headers.as_deref().unwrap_or(b"{}"));
    line.extend_from_slice(b"},\"upstream_uri\":");
    text(line, outcome.upstream_uri.as_bytes());
    line.extend_from_slice(b",\"upstream_status\":\"");
    upstream_status(line, ctx);
    line.push(b'"');
    latencies(line, ctx);
    tries(line, &ctx.tries, began);
    line.extend_from_slice(entities.0.as_bytes());
    if let Some(known) = &ctx.consumer {
        consumer(line, known);
    }
    if let Some(credential) = &ctx.credential {
        line.extend_from_slice(b",\"authenticated_entity\":{\"id\":");
        text(line, credential.id.as_bytes());
        line.push(b'}');
    }
    line.extend_from_slice(b",\"client_ip\":");
    address(line, ctx.client_ip);
    line.extend_from_slice(b",\"started_at\":");
    number(line, milliseconds(began));
    line.extend_from_slice(match outcome.source {
        Source::Upstream => b",\"source\":\"upstream\"".as_slice(),
        Source::Gateway => b",\"source\":\"kong\"",
    });
    line.extend_from_slice(WORKSPACE.as_bytes());
}

/// As nginx says it: the status of each try, 502 and 504 for those that got none. Nothing when no upstream was asked.
fn upstream_status(line: &mut Vec<u8>, ctx: &RequestContext) {
    if ctx.tries.is_empty() {
        let kept = ctx.outcome.upstream_status.as_ref().map_or("", |status| status.as_str());
        return line.extend_from_slice(kept.as_bytes());
    }
    for (at, attempt) in ctx.tries.iter().enumerate() {
        if at > 0 {
            line.extend_from_slice(b", ");
        }
        number(line, code(attempt).into());
    }
}

/// The entity as the Admin API shows it.
fn consumer(line: &mut Vec<u8>, consumer: &Consumer) {
    let Consumer { id, username, custom_id, tags } = consumer;
    line.extend_from_slice(b",\"consumer\":{\"id\":\"");
    line.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    line.extend_from_slice(b"\",\"username\":");
    optional(line, username.as_deref());
    line.extend_from_slice(b",\"custom_id\":");
    optional(line, custom_id.as_deref());
    line.extend_from_slice(b",\"tags\":");
    if tags.is_empty() {
        line.extend_from_slice(b"null");
    } else {
        line.push(b'[');
        separated(line, tags, |line, tag| text(line, tag.as_bytes()));
        line.push(b']');
    }
    line.push(b'}');
}

/// Milliseconds; -1 where there was no upstream.
fn latencies(line: &mut Vec<u8>, ctx: &RequestContext) {
    let timing = &ctx.timing;
    line.extend_from_slice(b",\"latencies\":{\"request\":");
    number(line, milliseconds(timing.total()));
    line.extend_from_slice(b",\"kong\":");
    number(line, milliseconds(timing.gateway()));
    line.extend_from_slice(b",\"proxy\":");
    match timing.upstream() {
        Some(time) => number(line, milliseconds(time)),
        None => line.extend_from_slice(b"-1"),
    }
    line.extend_from_slice(b",\"receive\":");
    number(line, timing.receive().map(milliseconds).unwrap_or_default());
    line.push(b'}');
}

fn tries(line: &mut Vec<u8>, tries: &[Try], since: Duration) {
    line.extend_from_slice(b",\"tries\":[");
    separated(line, tries, |line, attempt| {
        let began = since + attempt.after;
        line.extend_from_slice(b"{\"ip\":");
        address(line, attempt.address.ip());
        line.extend_from_slice(b",\"port\":");
        number(line, attempt.address.port().into());
        line.extend_from_slice(b",\"balancer_latency\":0,\"balancer_start\":");
        number(line, milliseconds(began));
        line.extend_from_slice(b",\"balancer_start_ns\":");
        number(line, u64::try_from(began.as_nanos()).unwrap_or(u64::MAX));
        if attempt.state != TryState::Answered {
            line.extend_from_slice(b",\"state\":\"failed\",\"code\":");
            number(line, code(attempt).into());
        }
        line.push(b'}');
    });
    line.push(b']');
}

fn code(attempt: &Try) -> u16 {
    match (attempt.state, attempt.status) {
        (_, Some(status)) => status.as_u16(),
        (TryState::TimedOut, None) => 504,
        _ => 502,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_the_whole_entity() {
        for (username, custom_id, tags) in
            [(Some("a\"b"), None, vec![]), (None, Some("7"), vec!["one".to_owned(), "t\u{e4}g".to_owned()])]
        {
            let [username, custom_id] = [username, custom_id].map(|name| name.map(str::to_owned));
            let entity = Consumer { id: Uuid::new_v4(), username, custom_id, tags };
            let mut line = Vec::new();
            consumer(&mut line, &entity);
            let text = String::from_utf8(line).unwrap();
            let said: serde_json::Value = serde_json::from_str(text.split_once(':').unwrap().1).unwrap();
            assert_eq!(said, serde_json::to_value(&entity).unwrap());
        }
    }
}
