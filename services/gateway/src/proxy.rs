//! What happens to a request: refuse, route, plugins, upstream, headers, answer.

pub mod answer;
pub mod body;
pub mod forward;
pub mod framing;
pub mod grpc;
pub mod hash;
pub mod head;

use std::rc::Rc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, response,
};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::client::RequestBody;
use crate::context::{
    Bodies, ClientConnection, EarlyBody, EarlyResponse, Outcome, ReplyHeaders, RequestContext, RequestId,
    Source, Timing, forwarded_https,
};
use crate::identity;
use crate::plugins::{BodySource, Chain};
use crate::router::Ask;
use crate::worker::Worker;
use answer::Format;
use body::{ActiveRequest, Content, Ending, ProxyBody};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");
const PROXY_LATENCY: HeaderName = HeaderName::from_static("x-kong-proxy-latency");
const UPSTREAM_LATENCY: HeaderName = HeaderName::from_static("x-kong-upstream-latency");
const RESPONSE_LATENCY: HeaderName = HeaderName::from_static("x-kong-response-latency");

/// What a request brings besides its context.
#[derive(Debug)]
pub struct Cargo {
    /// Its body.
    pub body: RequestBody,
    /// The client's connection, should it become a websocket.
    pub upgrade: Option<OnUpgrade>,
    /// Counts it as running.
    pub active: ActiveRequest,
}

/// Answers one request; `doubtful` when its bytes could be read in more than one way.
pub async fn handle(
    worker: &Rc<Worker>,
    client: Rc<ClientConnection>,
    mut request: Request<Incoming>,
    doubtful: bool,
) -> Response<ProxyBody> {
    let timing = Timing::start();
    worker.stats.requests.add(1);
    let active = ActiveRequest::start(&worker.stats, timing.start);
    let upgrade = asks_for_websocket(&request).then(|| hyper::upgrade::on(&mut request));
    let (head, incoming) = request.into_parts();
    let announced = head.headers.contains_key(header::CONTENT_LENGTH);
    let limits = &worker.shared.data_plane;
    let body = RequestBody::incoming(incoming, announced, limits.replay_bytes).limited(limits.body_limit);
    let client_ip = if client.trusted {
        worker.shared.data_plane.trust.client(client.peer.ip(), client.proxied, &head.headers)
    } else {
        client.peer.ip()
    };
    // boxed once: it is large, and passes through every phase up to the log
    let mut context = Box::new(RequestContext {
        head,
        client_ip,
        client,
        request_id: RequestId::new(),
        snapshot: worker.snapshot(),
        route: None,
        captures: Vec::new(),
        upstream_path: None,
        upstream_query: None,
        upstream_host: None,
        stripped_prefix: None,
        consumer: None,
        credential: None,
        reply_headers: ReplyHeaders::default(),
        bodies: Bodies::default(),
        carried: http::Extensions::new(),
        timing,
        tries: Vec::new(),
        outcome: Outcome::default(),
    });
    let mut cargo = Cargo { body, upgrade, active };
    let refused = match framing::refuse(&context.head) {
        _ if doubtful => Some(StatusCode::BAD_REQUEST),
        None if cargo.body.announces_too_much() => Some(StatusCode::PAYLOAD_TOO_LARGE),
        refused => refused,
    };
    if let Some(status) = refused {
        let mut answer = early(context, EarlyResponse::error(status, answer::message(status)), cargo);
        // whatever follows on this connection may be anything
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    }
    if let Err(refusal) = route(&mut context) {
        let answer = preflight(&mut context).unwrap_or(*refusal);
        return early(context, answer, cargo);
    }
    let snapshot = context.snapshot.clone();
    let Some(entry) = context.route.and_then(|route| snapshot.routes.get(route)) else {
        return early(context, no_route(), cargo);
    };
    let limits = &worker.shared.data_plane;
    let mut source = BodySource {
        body: &mut cargo.body,
        limit: limits.plugin_body_bytes,
        timeout: limits.client_body_timeout,
    };
    if let Some(refusal) = entry.chain.access(&mut context, &mut source).await {
        return early(context, refusal, cargo);
    }
    let Some(service) = &entry.service else {
        let message = "no Service found with those values";
        return early(context, EarlyResponse::error(StatusCode::SERVICE_UNAVAILABLE, message), cargo);
    };
    forward::forward(worker, context, entry, service, cargo).await
}

fn no_route() -> EarlyResponse {
    EarlyResponse::error(StatusCode::NOT_FOUND, "no Route matched with those values")
}

/// Finds the route and the path that goes upstream.
fn route(context: &mut RequestContext) -> Result<(), Box<EarlyResponse>> {
    let snapshot = context.snapshot.clone();
    let https = forwarded_https(&context.client, &context.head.headers);
    let found = snapshot.router.find(&Ask {
        method: &context.head.method,
        path: context.head.uri.path(),
        host: context.host(),
        headers: &context.head.headers,
        sni: context.client.sni.as_deref(),
        https,
    });
    let Some(found) = found else { return Err(Box::new(no_route())) };
    let Some(entry) = snapshot.routes.get(found.route) else { return Err(Box::new(no_route())) };
    let path = entry.service.as_ref().map(|service| {
        let strip = entry.route.strip_path;
        let path = plinth_kong::upstream_path(&service.path, &found.path, found.matched, strip);
        let path = plinth_kong::encode_path(&path);
        let changed = (path != context.head.uri.path()).then(|| path.into_owned());
        (changed, strip.then(|| found.prefix().to_owned()))
    });
    let captures = found.captures;
    context.route = Some(found.route);
    context.captures = captures;
    if let Some((path, prefix)) = path {
        context.upstream_path = path;
        context.stripped_prefix = prefix;
    }
    match https {
        false if entry.route.https_only() && !entry.route.is_grpc() => {
            Err(Box::new(https_required(context, entry.route.https_redirect_status_code)))
        }
        _ => {
            grpc::refuse(&entry.route, &context.head, https).map_or(Ok(()), |refusal| Err(Box::new(refusal)))
        }
    }
}

/// A CORS preflight that no route takes, because none has the method OPTIONS: answered by the route that has the method it asks for, where
/// that one's cors plugin is told to (`preflight_any_method`). Kong answers 404.
fn preflight(context: &mut RequestContext) -> Option<EarlyResponse> {
    if context.route.is_some() || context.head.method != Method::OPTIONS {
        return None;
    }
    let asked = context.head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let method = Method::from_bytes(asked.as_bytes()).ok()?;
    let snapshot = context.snapshot.clone();
    let found = snapshot.router.find(&Ask {
        method: &method,
        path: context.head.uri.path(),
        host: context.host(),
        headers: &context.head.headers,
        sni: context.client.sni.as_deref(),
        https: forwarded_https(&context.client, &context.head.headers),
    });
    let route = found?.route;
    let answer = snapshot.routes.get(route)?.chain.preflight(context)?;
    context.route = Some(route);
    Some(answer)
}

/// A route for https only, asked over http.
fn https_required(context: &RequestContext, status: u16) -> EarlyResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UPGRADE_REQUIRED);
    if status == StatusCode::UPGRADE_REQUIRED {
        return EarlyResponse::error(status, "Please use HTTPS protocol")
            .with(header::CONNECTION, HeaderValue::from_static("Upgrade"))
            .with(header::UPGRADE, HeaderValue::from_static("TLS/1.2, HTTP/1.1"));
    }
    let (host, _) = head::split_port(context.host().unwrap_or_default());
    let target = context.head.uri.path_and_query().map_or("/", |target| target.as_str());
    match HeaderValue::from_str(&format!("https://{host}{target}")) {
        Ok(location) => EarlyResponse::empty(status).with(header::LOCATION, location),
        Err(_) => EarlyResponse::error(StatusCode::BAD_REQUEST, answer::message(StatusCode::BAD_REQUEST)),
    }
}

/// `GET` with `Connection: upgrade` and `Upgrade: websocket` over HTTP/1.1. No other protocol is tunnelled: h2c, for
/// one, would carry requests past routing and plugins.
fn asks_for_websocket(request: &Request<Incoming>) -> bool {
    if request.version() != Version::HTTP_11 || request.method() != Method::GET {
        return false;
    }
    let headers = request.headers();
    let Some(protocol) = headers.get(header::UPGRADE) else { return false };
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
        && headers.get_all(header::CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// Makes the gateway's own answer: response phases and log run on it like on any other.
fn early(mut context: Box<RequestContext>, refusal: EarlyResponse, cargo: Cargo) -> Response<ProxyBody> {
    let EarlyResponse { status, headers, body } = refusal;
    let raised_by_gateway = matches!(status.as_u16(), 404 | 426 | 503) || context.route.is_some();
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers = headers;
    let kept = matches!(body, EarlyBody::Kept(_));
    let bytes = match body {
        EarlyBody::Empty => Bytes::new(),
        EarlyBody::Verbatim(bytes) if grpc::is_grpc(&context.head.headers) => {
            let told = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
            let told = told.as_ref().and_then(|told| told.get("message")?.as_str());
            grpc::trailers_only(status, &mut head.headers, told.unwrap_or(answer::message(status)));
            Bytes::new()
        }
        EarlyBody::Verbatim(bytes) | EarlyBody::Kept(bytes) => bytes,
        EarlyBody::Error(message) => {
            let fallback = if raised_by_gateway { Format::Json } else { Format::Text };
            error_body(&context, &mut head, &message, fallback)
        }
    };
    context.outcome.request_body_bytes = cargo.body.received();
    if kept {
        context.outcome.source = Source::Upstream;
        forward::proxied_headers(&context, &mut head.headers);
    } else {
        context.outcome.source = Source::Gateway;
        head.headers.insert(header::SERVER, HeaderValue::from_static(identity::SERVER));
        head.headers.insert(RESPONSE_LATENCY, milliseconds(context.timing.gateway()));
    }
    if !kept || context.head.method != Method::HEAD {
        content_length(&mut head, &bytes);
    }
    cargo.active.answered(context.outcome.source, head.status);
    // the answer to a HEAD keeps the length and leaves the bytes
    let content = if context.head.method == Method::HEAD { Content::Empty } else { Content::Whole(bytes) };
    finish(context, head, content, Ending { active: Some(cargo.active), ..Ending::default() })
}

/// An answer of one piece says how long it is; a gRPC error has no body to speak of.
fn content_length(head: &mut response::Parts, body: &Bytes) {
    if !(body.is_empty() && grpc::is_grpc(&head.headers)) {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
}

/// The body of an error answer, in the format the client accepts; for gRPC it is told in headers.
fn error_body(
    context: &RequestContext,
    head: &mut response::Parts,
    message: &str,
    fallback: Format,
) -> Bytes {
    if grpc::is_grpc(&context.head.headers) {
        grpc::trailers_only(head.status, &mut head.headers, message);
        return Bytes::new();
    }
    let format = Format::accepted(&context.head.headers, fallback);
    head.headers.insert(header::CONTENT_TYPE, format.content_type());
    format.body(message, context.request_id)
}

fn milliseconds(duration: std::time::Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Puts the last headers on, runs the header phase, and arranges for the log phase.
fn finish(
    mut context: Box<RequestContext>,
    mut head: response::Parts,
    mut content: Content,
    mut ending: Ending,
) -> Response<ProxyBody> {
    head.headers.insert(REQUEST_ID, context.request_id.header());
    let snapshot = context.snapshot.clone();
    let entry = context.route.and_then(|route| snapshot.routes.get(route));
    let chain = entry.map_or(&snapshot.unmatched, |entry| &entry.chain);
    context.reply_headers.move_to(&mut head.headers);
    chain.header(&mut context, &mut head);
    let mut tap = context.bodies.tap.take();
    if let Some(body) = context.bodies.reply.take() {
        content = replaced(&context, &mut head, body);
        tap = None;
    } else if chain.rewrites(&context, &head.headers) {
        // the tap sees the body as the upstream gave it
        if let (Content::Whole(body), Some(mut tap)) = (&content, tap.take()) {
            tap.data(body);
            tap.end(true);
        }
        content = rewritten(&context, chain, &mut head, content);
    }
    ending.tap = tap;
    if chain.logs() {
        context.outcome.status = head.status;
        context.outcome.request_head_bytes = request_head_bytes(&context);
        context.outcome.response_head_bytes = headers_bytes(&head.headers) + STATUS_LINE;
        context.outcome.response_headers = chain.logged_headers(&head.headers);
        ending.log = Some(context);
    }
    Response::from_parts(head, ProxyBody::new(content, ending))
}

/// Another body than the one there was.
fn replaced(context: &RequestContext, head: &mut response::Parts, body: Bytes) -> Content {
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if context.head.method == Method::HEAD { Content::Empty } else { Content::Whole(body) }
}

/// Lets the plugins have the body, which is here as a whole.
fn rewritten(
    context: &RequestContext,
    chain: &Chain,
    head: &mut response::Parts,
    content: Content,
) -> Content {
    match content {
        Content::Whole(body) => match chain.body(context, head, &body) {
            Some(new) => replaced(context, head, new),
            None => Content::Whole(body),
        },
        Content::Empty if context.head.method == Method::HEAD => {
            // that of the body before
            head.headers.remove(header::CONTENT_LENGTH);
            Content::Empty
        }
        other => other,
    }
}

/// The end of the head with it.
const STATUS_LINE: u64 = "HTTP/1.1 200 OK\r\n\r\n".len() as u64;

fn request_head_bytes(context: &RequestContext) -> u64 {
    let head = &context.head;
    let line = head.method.as_str().len() + head.uri.path().len() + " HTTP/1.1\r\n \r\n".len();
    line as u64 + headers_bytes(&head.headers)
}

/// Names, values and separators.
fn headers_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() as u64
}
