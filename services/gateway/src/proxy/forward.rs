//! Towards the upstream and back: choose an endpoint, try, try again where that is safe, pass the answer on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use plinth_core::balance::{Endpoint as BalancedEndpoint, InFlight, PickContext};

use super::body::{Content, Ending, ProxyBody};
use super::head::{UpstreamHead, split_port};
use super::{Cargo, answer, content_length, early, error_body, finish, hash, milliseconds};
use crate::client::{
    self, BodyTooLarge, Coding, Connection, Endpoint, Failure, Fault, Limits, Outgoing, Reply, ReplyBody,
    upgrade,
};
use crate::context::{EarlyResponse, RequestContext, Source, Try, TryState};
use crate::identity;
use crate::plugins;
use crate::snapshot::{RouteEntry, ServiceEntry};
use crate::trace::RequestSpan;
use crate::upstream::{Ended, Endpoints, Picked, Upstream};
use crate::worker::Worker;

/// Proxies a request that routing and plugins have let through.
pub async fn forward(
    worker: &Rc<Worker>,
    mut context: Box<RequestContext>,
    entry: &RouteEntry,
    service: &ServiceEntry,
    mut cargo: Cargo,
) -> Response<ProxyBody> {
    if entry.route.request_buffering && cargo.body.coding() != Coding::None && !service.http2 {
        let timeout = worker.shared.data_plane.client_body_timeout;
        // boxed: most requests have no body
        if let Err(fault) = Box::pin(cargo.body.buffer(timeout)).await {
            return failed(context, &fault, cargo);
        }
    }
    let span = RequestSpan::start(&context);
    let mut exchange = Exchange { worker, entry, service, span: span.as_ref(), tried: Vec::new() };
    let mut outcome = exchange.run(&mut context, &mut cargo).await;
    if let Ok((reply, _)) = &outcome
        && entry.chain.rewrites(&context, &reply.headers)
    {
        // boxed: rare and large
        outcome = Box::pin(whole(outcome, worker.shared.data_plane.plugin_body_bytes)).await;
    }
    let response = match outcome {
        Ok((reply, in_flight)) => answer_with(worker, context, (entry, service), reply, in_flight, cargo),
        Err(Stop::Refused(refusal)) => early(context, refusal, cargo),
        Err(Stop::Failed(fault)) => failed(context, &fault, cargo),
    };
    if let Some(span) = span {
        span.answered(response.status().as_u16());
    }
    response
}

/// Why there is no answer of an upstream's.
enum Stop {
    /// Nobody was asked.
    Refused(EarlyResponse),
    /// The last try failed.
    Failed(Fault),
}

/// Waits for all of an answer's body: a plugin rewrites it.
async fn whole(outcome: Result<(Reply, InFlight), Stop>, limit: usize) -> Result<(Reply, InFlight), Stop> {
    let (mut reply, in_flight) = outcome?;
    let gathered = match reply.body {
        ReplyBody::Stream(body) => client::body::gather(body, limit).await,
        ReplyBody::Http2(body) => client::body::gather(body, limit).await,
        here => {
            reply.body = here;
            return Ok((reply, in_flight));
        }
    };
    reply.body = ReplyBody::Whole(gathered.map_err(Stop::Failed)?);
    Ok((reply, in_flight))
}

struct Exchange<'a> {
    worker: &'a Rc<Worker>,
    entry: &'a RouteEntry,
    service: &'a ServiceEntry,
    span: Option<&'a RequestSpan>,
    /// Places tried already; empty for nearly every request.
    tried: Vec<u32>,
}

impl Exchange<'_> {
    async fn run(
        &mut self,
        context: &mut RequestContext,
        cargo: &mut Cargo,
    ) -> Result<(Reply, InFlight), Stop> {
        let upstream = &self.service.upstream;
        let endpoints = upstream.endpoints();
        let hash = upstream.definition.kong.as_ref().and_then(|kong| hash::key(context, kong));
        let sticky = upstream.definition.extensions.sticky_cookie.as_deref();
        let sticky = sticky.map(|name| hash::sticky(&context.head.headers, name));
        let mut left = self.service.retries;
        let mut last = None;
        loop {
            let now = Instant::now();
            let Some(picked) = self.pick(&endpoints, hash, sticky.flatten(), now) else {
                return Err(last.map_or_else(|| Stop::Refused(nobody(&endpoints)), Stop::Failed));
            };
            let Some(endpoint) = endpoints.balancer.endpoints().get(picked.place as usize) else {
                return Err(Stop::Refused(nobody(&endpoints)));
            };
            context.timing.upstream_start = Some(now);
            let in_flight = endpoint.live.start(self.worker.shared.clock.at(now));
            match self.attempt(context, cargo, &endpoints, &picked).await {
                Ok(reply) => {
                    let now = Instant::now();
                    context.timing.upstream_head = Some(now);
                    in_flight.responded(self.worker.shared.clock.at(now));
                    upstream.ended(&endpoints, picked.place, Ended::Answered(reply.status.as_u16()));
                    if let Some(cookie) = sticky_cookie(upstream, endpoint, sticky) {
                        context.outcome.set_cookie = Some(cookie);
                    }
                    self.note(context, &picked, TryState::Answered, Some(reply.status));
                    return Ok((reply, in_flight));
                }
                Err(Failure { fault, .. }) if fault.is_clients() => return Err(Stop::Failed(fault)),
                Err(Failure { fault, .. }) => {
                    in_flight.failed(self.worker.shared.clock.micros());
                    let again = left > 0 && may_repeat(&fault, context) && cargo.body.rewind();
                    let ended = if again { Ended::Failed(&fault) } else { Ended::GaveUp(&fault) };
                    upstream.ended(&endpoints, picked.place, ended);
                    let state = if fault.is_timeout() { TryState::TimedOut } else { TryState::Failed };
                    self.note(context, &picked, state, None);
                    tracing::debug!(
                        address = %picked.address, request_id = context.request_id.as_str(), error = %fault, "try failed"
                    );
                    if !again {
                        return Err(Stop::Failed(fault));
                    }
                    left -= 1;
                    self.worker.stats.retries.add(1);
                    self.tried.push(picked.place);
                    last = Some(fault);
                }
            }
        }
    }

    fn pick(
        &self,
        endpoints: &Endpoints,
        hash: Option<u64>,
        sticky: Option<u64>,
        now: Instant,
    ) -> Option<Picked> {
        let mut rng = self.worker.rng.borrow_mut();
        let mut pick = PickContext::new(&mut rng, self.worker.shared.clock.at(now));
        pick.hash = hash;
        pick.sticky = sticky;
        pick.tried = &self.tried;
        self.service.upstream.pick(endpoints, &mut pick)
    }

    async fn attempt(
        &self,
        context: &RequestContext,
        cargo: &mut Cargo,
        endpoints: &Endpoints,
        picked: &Picked,
    ) -> Result<Reply, Failure> {
        let name = endpoints.names.get(picked.place as usize).map_or("", |name| name);
        let upgrade = cargo.upgrade.is_some();
        let head = UpstreamHead {
            context,
            route: self.entry,
            service: self.service,
            name,
            port: picked.address.port(),
            coding: cargo.body.coding(),
            upgrade,
            traceparent: self.span.and_then(|span| span.traceparent.as_ref()),
        };
        let data_plane = &self.worker.shared.data_plane;
        let endpoint = Endpoint {
            address: picked.address,
            tls: self.service.tls.as_ref(),
            name: self.service.host_header.as_deref().map_or(name, |host| split_port(host).0),
            connect_timeout: self.service.connect_timeout,
            limits: Limits {
                write_timeout: self.service.write_timeout,
                read_timeout: self.service.read_timeout,
                client_body_timeout: data_plane.client_body_timeout,
                head_bytes: data_plane.response_head_bytes,
            },
        };
        if self.service.http2 {
            let unsendable = |error| Failure { fault: Fault::Unsendable(error), sent: false };
            let request = head.request().map_err(unsendable)?;
            return Box::pin(client::http2::send(&self.worker.pools, &endpoint, request, &mut cargo.body))
                .await;
        }
        let write_head = |out: &mut Vec<u8>| head.write(out);
        let outgoing = Outgoing { method: &context.head.method, upgrade, write_head: &write_head };
        client::send(&self.worker.pools, &endpoint, &outgoing, &mut cargo.body).await
    }

    /// For the log; the usual single answered try is noted only when somebody logs.
    fn note(
        &self,
        context: &mut RequestContext,
        picked: &Picked,
        state: TryState,
        status: Option<StatusCode>,
    ) {
        if state == TryState::Answered && !self.entry.chain.logs() {
            return;
        }
        let after = context
            .timing
            .upstream_start
            .map_or(Duration::ZERO, |start| start.saturating_duration_since(context.timing.start));
        context.tries.push(Try { address: picked.address, after, state, status });
    }
}

/// The cookie that keeps the session at its target; `None` when the client has it, or the upstream wants none.
fn sticky_cookie(
    upstream: &Upstream,
    endpoint: &BalancedEndpoint,
    sent: Option<Option<u64>>,
) -> Option<HeaderValue> {
    let name = upstream.definition.extensions.sticky_cookie.as_deref()?;
    let token = endpoint.token();
    if sent? == Some(token) {
        return None;
    }
    HeaderValue::from_str(&format!("{name}={token:016x}; Path=/; SameSite=Lax; HttpOnly")).ok()
}

/// Another try is safe: nothing was sent, or the method may be sent twice. A bad answer is an answer, and not asked
/// for again.
fn may_repeat(fault: &Fault, context: &RequestContext) -> bool {
    match fault {
        Fault::BadHead(_) | Fault::HeadTooLarge | Fault::BadBody(_) | Fault::Unsendable(_) => false,
        fault if fault.is_connect() => true,
        _ => client::repeatable(&context.head.method),
    }
}

/// No endpoint to ask.
fn nobody(endpoints: &Endpoints) -> EarlyResponse {
    let message = if endpoints.unresolved() {
        "name resolution failed"
    } else {
        "failure to get a peer from the ring-balancer"
    };
    EarlyResponse::error(StatusCode::SERVICE_UNAVAILABLE, message)
}

/// All tries failed: 502 or 504, counted as the upstream's answer; or the client broke off its own request.
fn failed(mut context: Box<RequestContext>, fault: &Fault, cargo: Cargo) -> Response<ProxyBody> {
    if let Fault::RequestBody(error) = fault
        && error.is::<client::TooLong>()
    {
        // what is left of its body cannot be told from a next request
        let refusal = plugins::too_long(&context.head.headers)
            .with(header::CONNECTION, HeaderValue::from_static("close"));
        return early(context, refusal, cargo);
    }
    let status = match fault {
        Fault::RequestBodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Fault::RequestBody(error) if error.is::<BodyTooLarge>() => StatusCode::PAYLOAD_TOO_LARGE,
        Fault::RequestBody(_) => StatusCode::BAD_REQUEST,
        fault if fault.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    let body = error_body(&context, &mut head, answer::message(status), answer::Format::Text);
    content_length(&mut head, &body);
    head.headers.insert(header::SERVER, HeaderValue::from_static(identity::SERVER));
    if fault.is_clients() {
        // what is left of its body cannot be told from a next request
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        context.outcome.source = Source::Gateway;
    } else {
        tracing::warn!(
            request_id = context.request_id.as_str(),
            service = context.service().map_or("", |service| service.service.label()),
            error = plinth_kit::problem::chain(fault),
            tries = context.tries.len(),
            "no answer from the upstream"
        );
        context.outcome.source = Source::Upstream;
        proxied_headers(&context, &mut head.headers);
    }
    context.outcome.request_body_bytes = cargo.body.received();
    note_target(&mut context);
    cargo.active.answered(context.outcome.source, status);
    let content =
        if context.head.method == http::Method::HEAD { Content::Empty } else { Content::Whole(body) };
    finish(context, head, content, Ending { active: Some(cargo.active), ..Ending::default() })
}

/// `Via` and the two latencies of a proxied answer.
pub(super) fn proxied_headers(context: &RequestContext, headers: &mut http::HeaderMap) {
    match headers.get(header::VIA) {
        None => {
            headers.insert(header::VIA, HeaderValue::from_static(identity::VIA));
        }
        Some(before) => {
            let both = [before.as_bytes(), b", ", identity::VIA.as_bytes()].concat();
            if let Ok(both) = HeaderValue::from_bytes(&both) {
                headers.insert(header::VIA, both);
            }
        }
    }
    let upstream = context.timing.upstream().or_else(|| Some(context.timing.upstream_start?.elapsed()));
    headers.insert(UPSTREAM_LATENCY, milliseconds(upstream.unwrap_or_default()));
    headers.insert(PROXY_LATENCY, milliseconds(context.timing.gateway()));
}

const PROXY_LATENCY: HeaderName = super::PROXY_LATENCY;
const UPSTREAM_LATENCY: HeaderName = super::UPSTREAM_LATENCY;

/// The path and query sent, for the log.
fn note_target(context: &mut RequestContext) {
    let logs = context.route().is_some_and(|entry| entry.chain.logs());
    if logs {
        let path = context.upstream_path.as_deref().unwrap_or(context.head.uri.path());
        context.outcome.upstream_uri = match context.upstream_query.as_deref().or(context.head.uri.query()) {
            Some(query) if !query.is_empty() => format!("{path}?{query}"),
            _ => path.to_owned(),
        };
    }
}

/// Passes an upstream's answer on.
fn answer_with(
    worker: &Rc<Worker>,
    mut context: Box<RequestContext>,
    (entry, service): (&RouteEntry, &ServiceEntry),
    reply: Reply,
    in_flight: InFlight,
    cargo: Cargo,
) -> Response<ProxyBody> {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = reply.status;
    head.headers = reply.headers;
    proxied_headers(&context, &mut head.headers);
    if let Some(cookie) = context.outcome.set_cookie.take() {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    context.outcome.source = Source::Upstream;
    context.outcome.upstream_status = Some(reply.status);
    context.outcome.request_body_bytes = cargo.body.received();
    note_target(&mut context);
    cargo.active.answered(Source::Upstream, reply.status);
    let mut ending = Ending { active: Some(cargo.active), ..Ending::default() };
    match &reply.body {
        ReplyBody::Stream(body) => {
            body.counts(in_flight);
            if entry.route.response_buffering {
                worker.ahead.watch(body);
            }
        }
        _ => ending.in_flight = Some(in_flight),
    }
    match reply.body {
        ReplyBody::Empty => finish(context, head, Content::Empty, ending),
        ReplyBody::Whole(bytes) => finish(context, head, Content::Whole(bytes), ending),
        ReplyBody::Stream(body) => finish(context, head, Content::Upstream(body), ending),
        ReplyBody::Http2(body) => finish(context, head, Content::Http2(body), ending),
        ReplyBody::Upgraded(connection) => {
            let Some(client) = cargo.upgrade else {
                return finish(context, head, Content::Empty, ending);
            };
            let mut response = finish(context, head, Content::Empty, Ending::default());
            let mut active = ending.active;
            if let Some(active) = &mut active {
                active.tunnels();
            }
            // what happens at the end happens at the tunnel's end
            let late = std::mem::take(response.body_mut().ending_mut());
            tunnel(
                worker,
                client,
                connection,
                service.read_timeout,
                Ending { in_flight: ending.in_flight, active, log: late.log, tap: None },
            );
            response
        }
    }
}

/// Runs a websocket until either side ends, drains with the worker's other connections.
fn tunnel(
    worker: &Rc<Worker>,
    client: OnUpgrade,
    connection: Box<Connection>,
    idle: Duration,
    mut ending: Ending,
) {
    let guard = worker.drain.enter();
    tokio::task::spawn_local(async move {
        let (mut upstream, early): (_, Bytes) = connection.into_parts();
        let bytes = Cell::new((0, 0));
        match client.await {
            Err(error) => tracing::debug!(%error, "the client's connection could not be taken over"),
            Ok(client) => {
                let mut client = TokioIo::new(client);
                match upgrade::tunnel(&mut client, &mut upstream, &early, idle).await {
                    Ok(moved) => bytes.set(moved),
                    Err(error) => tracing::debug!(%error, "tunnel ended badly"),
                }
            }
        }
        if let Some(mut context) = ending.log.take() {
            context.timing.end = Some(Instant::now());
            (context.outcome.request_body_bytes, context.outcome.response_body_bytes) = bytes.get();
            super::body::log(&context);
        }
        drop((ending, guard));
    });
}
