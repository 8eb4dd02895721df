//! Kong's log entry, as every log plugin writes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Labels;
use super::auth::query_values;
use super::metrics::head_bytes;
use crate::context::{RequestContext, Source, TryState};

/// Kong's workspace "default" in DB-less mode.
const WORKSPACE: &str = "0dc6f45b-8f8d-40d2-a504-473544ee190b";

#[derive(serde::Serialize)]
struct Entry<'e> {
    request: Request<'e>,
    response: Response<'e>,
    upstream_uri: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_status: Option<String>,
    latencies: Latencies,
    tries: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<&'e plinth_kong::Consumer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated_entity: Option<Value>,
    client_ip: String,
    started_at: u64,
    source: &'static str,
    workspace: &'static str,
    workspace_name: &'static str,
}

#[derive(serde::Serialize)]
struct Request<'e> {
    id: &'e str,
    method: &'e str,
    uri: &'e str,
    url: String,
    size: u64,
    querystring: BTreeMap<String, Value>,
    headers: Headers<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Value>,
}

#[derive(serde::Serialize)]
struct Response<'e> {
    status: u16,
    size: u64,
    headers: Headers<'e>,
}

/// Milliseconds; -1 where there was no upstream.
#[derive(serde::Serialize)]
struct Latencies {
    request: u64,
    kong: u64,
    proxy: i64,
    receive: u64,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The route's and service's entities as the log shows them, written once.
#[derive(Clone, Debug, Default)]
pub(super) struct Entities {
    route: Option<Arc<RawValue>>,
    service: Option<Arc<RawValue>>,
}

impl Entities {
    pub fn of(at: &Labels<'_>) -> Entities {
        Entities { route: at.route.and_then(raw), service: at.service.and_then(raw) }
    }
}

fn raw(entity: &impl serde::Serialize) -> Option<Arc<RawValue>> {
    serde_json::value::to_raw_value(entity).ok().map(Arc::from)
}

/// One line of the log, newline included.
pub(super) fn line(ctx: &RequestContext, entities: &Entities) -> Result<Vec<u8>, serde_json::Error> {
    let outcome = &ctx.outcome;
    let timing = &ctx.timing;
    let entry = Entry {
        request: request(ctx),
        response: Response {
            status: outcome.status.as_u16(),
            size: outcome.response_head_bytes + outcome.response_body_bytes,
            headers: Headers(outcome.response_headers.as_ref()),
        },
        upstream_uri: &outcome.upstream_uri,
        upstream_status: outcome.upstream_status.map(|status| status.as_str().to_owned()),
        latencies: Latencies {
            request: milliseconds(timing.total()),
            kong: milliseconds(timing.gateway()),
            proxy: timing.upstream().map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
            receive: timing.receive().map(milliseconds).unwrap_or_default(),
        },
        tries: ctx.tries.iter().map(attempt).collect(),
        service: entities.service.as_deref(),
        route: entities.route.as_deref(),
        consumer: ctx.consumer.as_deref(),
        authenticated_entity: ctx.credential.as_ref().map(|credential| json!({ "id": &*credential.id })),
        client_ip: ctx.client_ip.to_string(),
        started_at: milliseconds(timing.started_at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        source: if outcome.source == Source::Upstream { "upstream" } else { "kong" },
        workspace: WORKSPACE,
        workspace_name: "default",
    };
    let mut line = Vec::with_capacity(2048);
    serde_json::to_writer(&mut line, &entry)?;
    line.push(b'\n');
    Ok(line)
}

fn request(ctx: &RequestContext) -> Request<'_> {
    let uri = ctx.head.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let scheme = if ctx.https() { "https" } else { "http" };
    let host = ctx.host().unwrap_or_default();
    // Kong always names the port.
    let port = if host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')) {
        String::new()
    } else {
        format!(":{}", ctx.client.local_port)
    };
    Request {
        id: ctx.request_id.as_str(),
        method: ctx.head.method.as_str(),
        uri,
        url: format!("{scheme}://{host}{port}{uri}"),
        size: head_bytes(ctx) + ctx.outcome.request_body_bytes,
        querystring: querystring(ctx.head.uri.query().unwrap_or_default()),
        headers: Headers(Some(&ctx.head.headers)),
        tls: ctx.client.tls.then(|| json!({ "sni": ctx.client.sni.as_deref() })),
    }
}

/// One value as a string, several as a list.
fn gather(values: Vec<String>) -> Value {
    match <[String; 1]>::try_from(values) {
        Ok([one]) => Value::String(one),
        Err(many) => many.into(),
    }
}

fn querystring(query: &str) -> BTreeMap<String, Value> {
    let names =
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap_or(pair));
    names.map(|name| (name.to_owned(), gather(query_values(query, name).collect()))).collect()
}

/// Written straight from the header map: one value as a string, several as a list, secrets not at all.
struct Headers<'e>(Option<&'e HeaderMap>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (headers, name) in
            self.0.iter().flat_map(|headers| headers.keys().map(move |name| (headers, name)))
        {
            let secret = name == http::header::AUTHORIZATION || name == http::header::PROXY_AUTHORIZATION;
            if secret {
                map.serialize_entry(name.as_str(), "REDACTED")?;
            } else {
                map.serialize_entry(name.as_str(), &Values(headers, name))?;
            }
        }
        map.end()
    }
}

struct Values<'e>(&'e HeaderMap, &'e http::HeaderName);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut values = self.0.get_all(self.1).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        match (values.next(), values.next()) {
            (Some(only), None) => serializer.serialize_str(&only),
            (first, second) => {
                let mut list = serializer.serialize_seq(None)?;
                for value in first.into_iter().chain(second).chain(values) {
                    list.serialize_element(&value)?;
                }
                list.end()
            }
        }
    }
}

fn attempt(attempt: &crate::context::Try) -> Value {
    let mut entry = json!({
        "ip": attempt.address.ip().to_string(),
        "port": attempt.address.port(),
        "balancer_latency": 0,
        "balancer_start": milliseconds(attempt.after),
    });
    if attempt.state != TryState::Answered {
        entry["state"] = "failed".into();
        entry["code"] = match (attempt.state, attempt.status) {
            (_, Some(status)) => status.as_u16().into(),
            (TryState::TimedOut, None) => 504.into(),
            _ => 502.into(),
        };
    }
    entry
}
