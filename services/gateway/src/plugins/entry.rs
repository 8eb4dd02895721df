//! Kong's log entry, as every log plugin writes it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Labels;
use super::auth::query_pairs;
use super::metrics::head_bytes;
use crate::context::{RequestContext, Source, Try, TryState};

/// Kong's workspace "default" in DB-less mode.
const WORKSPACE: &str = "0dc6f45b-8f8d-40d2-a504-473544ee190b";

#[derive(serde::Serialize)]
struct LogEntry<'e> {
    request: Request<'e>,
    response: Response<'e>,
    upstream_uri: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_status: Option<&'e str>,
    latencies: Latencies,
    tries: Tries<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<&'e plinth_kong::Consumer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated_entity: Option<Identity<'e>>,
    client_ip: Text<IpAddr>,
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
    url: Text<Url<'e>>,
    size: u64,
    querystring: BTreeMap<String, Value>,
    headers: Headers<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls<'e>>,
}

#[derive(serde::Serialize)]
struct Tls<'e> {
    sni: Option<&'e str>,
}

#[derive(serde::Serialize)]
struct Identity<'e> {
    id: &'e str,
}

/// Written as a string without making one.
struct Text<T>(T);

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Url<'e> {
    scheme: &'static str,
    host: &'e str,
    /// Kong always names the port.
    port: Option<u16>,
    uri: &'e str,
}

impl std::fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Url { scheme, host, port, uri } = self;
        match port {
            Some(port) => write!(f, "{scheme}://{host}:{port}{uri}"),
            None => write!(f, "{scheme}://{host}{uri}"),
        }
    }
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

/// One line of the log, newline included, to be kept.
pub(super) fn line(ctx: &RequestContext, entities: &Entities) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Vec::with_capacity(2048);
    write(ctx, entities, &mut line)?;
    Ok(line)
}

/// Appends one line of the log, newline included.
pub(super) fn write(
    ctx: &RequestContext,
    entities: &Entities,
    line: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let outcome = &ctx.outcome;
    let timing = &ctx.timing;
    let entry = LogEntry {
        request: request(ctx),
        response: Response {
            status: outcome.status.as_u16(),
            size: outcome.response_head_bytes + outcome.response_body_bytes,
            headers: Headers(outcome.response_headers.as_ref()),
        },
        upstream_uri: &outcome.upstream_uri,
        upstream_status: outcome.upstream_status.as_ref().map(StatusCode::as_str),
        latencies: Latencies {
            request: milliseconds(timing.total()),
            kong: milliseconds(timing.gateway()),
            proxy: timing.upstream().map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
            receive: timing.receive().map(milliseconds).unwrap_or_default(),
        },
        tries: Tries(&ctx.tries),
        service: entities.service.as_deref(),
        route: entities.route.as_deref(),
        consumer: ctx.consumer.as_deref(),
        authenticated_entity: ctx.credential.as_ref().map(|credential| Identity { id: &credential.id }),
        client_ip: Text(ctx.client_ip),
        started_at: milliseconds(timing.started_at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        source: if outcome.source == Source::Upstream { "upstream" } else { "kong" },
        workspace: WORKSPACE,
        workspace_name: "default",
    };
    serde_json::to_writer(&mut *line, &entry)?;
    line.push(b'\n');
    Ok(())
}

fn request(ctx: &RequestContext) -> Request<'_> {
    let uri = ctx.head.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let host = ctx.host().unwrap_or_default();
    let named = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    Request {
        id: ctx.request_id.as_str(),
        method: ctx.head.method.as_str(),
        uri,
        url: Text(Url {
            scheme: if ctx.https() { "https" } else { "http" },
            host,
            port: (!named).then_some(ctx.client.local_port),
            uri,
        }),
        size: head_bytes(ctx) + ctx.outcome.request_body_bytes,
        querystring: querystring(ctx.head.uri.query().unwrap_or_default()),
        headers: Headers(Some(&ctx.head.headers)),
        tls: ctx.client.tls.then(|| Tls { sni: ctx.client.sni.as_deref() }),
    }
}

/// One value as a string, several as a list, none as `true`.
fn querystring(query: &str) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    for (name, value) in query_pairs(query) {
        let value = value.map_or(Value::Bool(true), Value::String);
        match values.entry(name) {
            Entry::Vacant(place) => {
                place.insert(value);
            }
            Entry::Occupied(mut place) => match place.get_mut() {
                Value::Array(several) => several.push(value),
                one => *one = Value::Array(vec![one.take(), value]),
            },
        }
    }
    values
}

/// Written straight from the header map: one value as a string, several as a list, secrets not at all.
struct Headers<'e>(Option<&'e HeaderMap>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // the values of a name come one after the other
        let mut fields = self.0.into_iter().flatten().peekable();
        while let Some((name, value)) = fields.next() {
            let same = |next: &(&HeaderName, &HeaderValue)| next.0 == name;
            map.serialize_key(name.as_str())?;
            if *name == AUTHORIZATION || *name == PROXY_AUTHORIZATION {
                map.serialize_value("REDACTED")?;
                while fields.next_if(same).is_some() {}
            } else if fields.peek().is_some_and(same) {
                let mut several = vec![text(value)];
                several.extend(std::iter::from_fn(|| fields.next_if(same).map(|(_, value)| text(value))));
                map.serialize_value(&several)?;
            } else {
                map.serialize_value(&text(value))?;
            }
        }
        map.end()
    }
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    value.to_str().map_or_else(|_| String::from_utf8_lossy(value.as_bytes()), Cow::Borrowed)
}

struct Tries<'e>(&'e [Try]);

impl Serialize for Tries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(attempt))
    }
}

#[derive(serde::Serialize)]
struct Attempt {
    ip: Text<IpAddr>,
    port: u16,
    balancer_latency: u64,
    balancer_start: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

fn attempt(attempt: &Try) -> Attempt {
    let failed = attempt.state != TryState::Answered;
    let code = match (attempt.state, attempt.status) {
        (_, Some(status)) => status.as_u16(),
        (TryState::TimedOut, None) => 504,
        _ => 502,
    };
    Attempt {
        ip: Text(attempt.address.ip()),
        port: attempt.address.port(),
        balancer_latency: 0,
        balancer_start: milliseconds(attempt.after),
        state: failed.then_some("failed"),
        code: failed.then_some(code),
    }
}
