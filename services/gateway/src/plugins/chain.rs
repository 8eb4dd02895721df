//! A compiled chain and its phases.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderValue, StatusCode, header, response};
use uuid::Uuid;

use super::{
    Labels, access_log, acl, basic_auth, bot_detection, correlation, cors, entry, file_log, hmac_auth,
    ip_restriction, jwks_auth, jwt, key_auth, metrics, oas_validation, oauth2, opentelemetry, proxy_cache,
    rate_limiting, remote_log, request_transformer, response_ratelimiting, response_transformer, session,
    size_limiting, termination, zipkin,
};
use crate::client::{RequestBody, Ungathered};
use crate::context::{EarlyResponse, RequestContext};
use crate::proxy::answer;

/// The client's body, for the plugins that look into it.
#[derive(Debug)]
pub struct BodySource<'b> {
    /// The body, not read yet.
    pub body: &'b mut RequestBody,
    /// Most bytes held in memory for plugins; larger ones are answered 413.
    pub limit: usize,
    /// Limit between two pieces.
    pub timeout: Duration,
}

impl BodySource<'_> {
    /// Reads it whole, once.
    async fn gather(&mut self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        let status = match self.body.gather(self.limit, self.timeout).await {
            Ok(whole) => {
                ctx.bodies.request = Some(whole);
                return None;
            }
            Err(Ungathered::TooLong(_)) => {
                let refusal = size_limiting::refusal(&ctx.head.headers);
                return Some(refusal.with(header::CONNECTION, HeaderValue::from_static("close")));
            }
            Err(Ungathered::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Err(Ungathered::Timeout) => StatusCode::REQUEST_TIMEOUT,
            Err(Ungathered::Broken(_)) => StatusCode::BAD_REQUEST,
        };
        // what is left of the body cannot be told from a next request
        let refusal = EarlyResponse::error(status, answer::message(status));
        Some(refusal.with(header::CONNECTION, HeaderValue::from_static("close")))
    }
}

/// One plugin with its configuration.
#[derive(Debug)]
pub(super) enum Instance {
    Jwt(jwt::Jwt),
    KeyAuth(key_auth::KeyAuth),
    BasicAuth(basic_auth::BasicAuth),
    HmacAuth(hmac_auth::HmacAuth),
    Acl(acl::Acl),
    IpRestriction(ip_restriction::IpRestriction),
    BotDetection(bot_detection::BotDetection),
    ResponseRateLimiting(response_ratelimiting::ResponseRateLimiting),
    ProxyCache(proxy_cache::ProxyCache),
    RequestTransformer(Box<request_transformer::RequestTransformer>),
    ResponseTransformer(response_transformer::ResponseTransformer),
    RateLimiting(rate_limiting::RateLimiting),
    Cors(cors::Cors),
    SizeLimiting(size_limiting::SizeLimiting),
    FileLog(file_log::FileLog),
    Prometheus(metrics::Prometheus),
    RequestTermination(termination::RequestTermination),
    CorrelationId(correlation::CorrelationId),
    OAuth2(Box<oauth2::OAuth2>),
    JwksAuth(Box<jwks_auth::JwksAuth>),
    Session(Box<session::Session>),
    OasValidation(Box<oas_validation::OasValidation>),
    RemoteLog(remote_log::RemoteLog),
    Opentelemetry(opentelemetry::Opentelemetry),
    Zipkin(zipkin::Zipkin),
    AccessLog(access_log::AccessLog),
}

impl Instance {
    /// The instance for one route: most are shared by all, those that name the route are made for it.
    pub fn bind(self: &Arc<Self>, at: &Labels<'_>) -> Arc<Instance> {
        match &**self {
            Instance::FileLog(log) => Arc::new(Instance::FileLog(log.bind(at))),
            Instance::Prometheus(metrics) => Arc::new(Instance::Prometheus(metrics.bind(at))),
            Instance::RemoteLog(log) => Arc::new(Instance::RemoteLog(log.bind(at))),
            Instance::Opentelemetry(spans) => Arc::new(Instance::Opentelemetry(spans.bind(at))),
            Instance::Zipkin(spans) => Arc::new(Instance::Zipkin(spans.bind(at))),
            _ => Arc::clone(self),
        }
    }

    fn logs(&self) -> bool {
        self.writes_entries()
            || matches!(self, Instance::Prometheus(_) | Instance::Zipkin(_) | Instance::AccessLog(_))
    }

    /// Writes log entries, which hold the response's headers.
    fn writes_entries(&self) -> bool {
        matches!(self, Instance::FileLog(_) | Instance::RemoteLog(_) | Instance::Opentelemetry(_))
    }

    /// It may look into request bodies; whether it does is [`Instance::wants_body`] for each request.
    fn looks_into_bodies(&self) -> bool {
        match self {
            Instance::KeyAuth(plugin) => plugin.looks_into_bodies(),
            Instance::OAuth2(_) | Instance::Session(_) => true,
            Instance::HmacAuth(plugin) => plugin.looks_into_bodies(),
            Instance::OasValidation(plugin) => plugin.looks_into_bodies(),
            Instance::RequestTransformer(plugin) => plugin.looks_into_bodies(),
            Instance::RequestTermination(plugin) => plugin.looks_into_bodies(),
            _ => false,
        }
    }

    /// It looks into this request's body.
    fn wants_body(&self, ctx: &RequestContext) -> bool {
        match self {
            Instance::KeyAuth(plugin) => plugin.wants_body(ctx),
            Instance::OAuth2(plugin) => plugin.wants_body(ctx),
            Instance::Session(plugin) => plugin.wants_body(ctx),
            Instance::HmacAuth(plugin) => plugin.wants_body(ctx),
            Instance::OasValidation(plugin) => plugin.wants_body(ctx),
            Instance::RequestTransformer(plugin) => plugin.wants_body(ctx),
            Instance::RequestTermination(plugin) => plugin.looks_into_bodies() && plugin.applies(ctx),
            _ => false,
        }
    }
}

/// One plugin of a chain: the configuration for everybody, and those of particular consumers.
#[derive(Debug)]
pub(super) struct Step {
    pub priority: i32,
    pub default: Option<Arc<Instance>>,
    pub by_consumer: HashMap<Uuid, Arc<Instance>, RandomState>,
}

impl Step {
    fn instance(&self, ctx: &RequestContext) -> Option<&Instance> {
        if !self.by_consumer.is_empty()
            && let Some(consumer) = &ctx.consumer
            && let Some(own) = self.by_consumer.get(&consumer.id)
        {
            return Some(own);
        }
        self.default.as_deref()
    }

    fn any(&self, wanted: impl Fn(&Instance) -> bool) -> bool {
        self.default.iter().chain(self.by_consumer.values()).any(|instance| wanted(instance))
    }
}

/// The plugins of a route, in the order they run.
#[derive(Clone, Debug)]
pub struct Chain {
    steps: Arc<[Step]>,
    logs: bool,
    wants_response_headers: bool,
    looks_into_bodies: bool,
    rewrites_bodies: bool,
    caches: bool,
}

impl Chain {
    pub(super) fn new(steps: Vec<Step>) -> Chain {
        let logs = steps.iter().any(|step| step.any(Instance::logs));
        let wants_response_headers = steps.iter().any(|step| step.any(Instance::writes_entries));
        let looks_into_bodies = steps.iter().any(|step| step.any(Instance::looks_into_bodies));
        let rewrites = |instance: &Instance| matches!(instance, Instance::ResponseTransformer(plugin) if plugin.rewrites());
        let rewrites_bodies = steps.iter().any(|step| step.any(rewrites));
        let caches =
            steps.iter().any(|step| step.any(|instance| matches!(instance, Instance::ProxyCache(_))));
        Chain {
            steps: steps.into(),
            logs,
            wants_response_headers,
            looks_into_bodies,
            rewrites_bodies,
            caches,
        }
    }

    /// Both are the same chain, not only equal ones.
    #[must_use]
    pub fn is(&self, other: &Chain) -> bool {
        Arc::ptr_eq(&self.steps, &other.steps)
    }

    /// A chain without plugins.
    #[must_use]
    pub fn empty() -> Chain {
        Chain::new(Vec::new())
    }

    /// Before the request goes upstream. An answer ends it.
    pub async fn access(
        &self,
        ctx: &mut RequestContext,
        source: &mut BodySource<'_>,
    ) -> Option<EarlyResponse> {
        for step in &*self.steps {
            let Some(instance) = step.instance(ctx) else { continue };
            if self.looks_into_bodies && ctx.bodies.request.is_none() && instance.wants_body(ctx) {
                // boxed: rare and large
                let refused = Box::pin(source.gather(ctx)).await;
                if refused.is_some() {
                    return refused;
                }
            }
            let ended = match instance {
                Instance::FileLog(_)
                | Instance::Prometheus(_)
                | Instance::RemoteLog(_)
                | Instance::AccessLog(_)
                | Instance::ResponseTransformer(_) => None,
                Instance::Opentelemetry(plugin) => {
                    plugin.access(ctx);
                    None
                }
                Instance::Zipkin(plugin) => {
                    plugin.access(ctx);
                    None
                }
                Instance::Jwt(plugin) => plugin.access(ctx),
                Instance::KeyAuth(plugin) => plugin.access(ctx),
                Instance::BasicAuth(plugin) => plugin.access(ctx),
                // boxed: they wait, and are larger than all others
                Instance::OAuth2(plugin) => Box::pin(plugin.access(ctx)).await,
                Instance::JwksAuth(plugin) => Box::pin(plugin.access(ctx)).await,
                Instance::Session(plugin) => plugin.access(ctx),
                Instance::OasValidation(plugin) => plugin.access(ctx),
                Instance::HmacAuth(plugin) => plugin.access(ctx),
                Instance::Acl(plugin) => plugin.access(ctx),
                Instance::IpRestriction(plugin) => plugin.access(ctx),
                Instance::BotDetection(plugin) => plugin.access(ctx),
                Instance::RequestTransformer(plugin) => plugin.access(ctx),
                Instance::SizeLimiting(plugin) => plugin.access(ctx, source.body),
                Instance::RateLimiting(plugin) => match plugin.access(ctx) {
                    rate_limiting::Access::Done(ended) => ended,
                    rate_limiting::Access::Ask(question) => {
                        let answer = Box::pin(question.answer()).await;
                        plugin.resume(ctx, answer)
                    }
                },
                Instance::ResponseRateLimiting(plugin) => match plugin.access(ctx) {
                    response_ratelimiting::Access::Done(ended) => ended,
                    response_ratelimiting::Access::Ask(question) => {
                        let answer = Box::pin(question.answer()).await;
                        plugin.resume(ctx, answer)
                    }
                },
                Instance::ProxyCache(plugin) => match plugin.access(ctx) {
                    proxy_cache::Access::Done(ended) => ended,
                    proxy_cache::Access::Ask(question) => {
                        let answer = Box::pin(question.answer()).await;
                        plugin.resume(ctx, answer)
                    }
                },
                Instance::Cors(plugin) => plugin.access(ctx),
                Instance::RequestTermination(plugin) => plugin.access(ctx),
                Instance::CorrelationId(plugin) => {
                    plugin.access(ctx);
                    None
                }
            };
            if ended.is_some() {
                return ended;
            }
        }
        if self.looks_into_bodies
            && let Some(body) = ctx.bodies.request.take()
            && ctx.bodies.replaced
        {
            source.body.replace(body);
        }
        None
    }

    /// Whether the body of this answer has to be here whole before it goes on ([`Chain::body`]).
    #[must_use]
    pub fn rewrites(&self, ctx: &RequestContext, headers: &HeaderMap) -> bool {
        self.rewrites_bodies
            && self.steps.iter().any(|step| match step.instance(ctx) {
                Some(Instance::ResponseTransformer(plugin)) => plugin.wants_body(headers),
                _ => false,
            })
    }

    /// After [`Chain::header`]: the body the client gets for this one, when a plugin of the chain rewrites it.
    pub fn body(&self, ctx: &RequestContext, head: &response::Parts, body: &Bytes) -> Option<Bytes> {
        let mut rewritten = None;
        for step in &*self.steps {
            if let Some(Instance::ResponseTransformer(plugin)) = step.instance(ctx)
                && let Some(new) = plugin.body(&head.headers, rewritten.as_ref().unwrap_or(body))
            {
                rewritten = Some(new);
            }
        }
        rewritten
    }

    /// On every answer's head, the gateway's own included.
    pub fn header(&self, ctx: &mut RequestContext, head: &mut response::Parts) {
        if self.caches {
            self.cache(ctx, head);
        }
        for step in &*self.steps {
            match step.instance(ctx) {
                Some(Instance::Cors(plugin)) => plugin.header(ctx, head),
                Some(Instance::Opentelemetry(plugin)) => plugin.header(ctx, head),
                Some(Instance::Zipkin(plugin)) => plugin.header(ctx, head),
                Some(Instance::Session(plugin)) => plugin.header(ctx, head),
                Some(Instance::ResponseTransformer(plugin)) => plugin.header(&mut head.headers),
                Some(Instance::ResponseRateLimiting(plugin)) => plugin.header(ctx, head),
                _ => {}
            }
        }
    }

    /// An answer is kept as the upstream gave it: what plugins make of it, they make of the kept one again.
    fn cache(&self, ctx: &mut RequestContext, head: &mut response::Parts) {
        for step in &*self.steps {
            if let Some(Instance::ProxyCache(plugin)) = step.instance(ctx) {
                plugin.header(ctx, head);
            }
        }
    }

    /// Answers a preflight whose route was found by the method it asks for, when a cors plugin here does that.
    pub fn preflight(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        self.steps.iter().find_map(|step| match step.instance(ctx) {
            Some(Instance::Cors(plugin)) if plugin.answers_any_method() => plugin.access(ctx),
            _ => None,
        })
    }

    /// Whether anything runs after the response's end.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.logs
    }

    /// The response's headers as the log shows them, if the log phase does.
    #[must_use]
    pub fn logged_headers(&self, headers: &HeaderMap) -> Option<Vec<u8>> {
        self.wants_response_headers.then(|| entry::headers_text(headers))
    }

    /// After the response's last byte.
    pub fn log(&self, ctx: &RequestContext) {
        for step in &*self.steps {
            match step.instance(ctx) {
                Some(Instance::FileLog(plugin)) => plugin.log(ctx),
                Some(Instance::Prometheus(plugin)) => plugin.log(ctx),
                Some(Instance::RemoteLog(plugin)) => plugin.log(ctx),
                Some(Instance::Opentelemetry(plugin)) => plugin.log(ctx),
                Some(Instance::Zipkin(plugin)) => plugin.log(ctx),
                Some(Instance::AccessLog(plugin)) => plugin.log(ctx),
                _ => {}
            }
        }
    }
}
