//! A compiled chain and its phases.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::response;
use uuid::Uuid;

use super::{
    Labels, access_log, correlation, cors, file_log, jwt, key_auth, metrics, opentelemetry, rate_limiting,
    remote_log, termination, zipkin,
};
use crate::context::{EarlyResponse, RequestContext};

/// One plugin with its configuration.
#[derive(Debug)]
pub(super) enum Instance {
    Jwt(jwt::Jwt),
    KeyAuth(key_auth::KeyAuth),
    RateLimiting(rate_limiting::RateLimiting),
    Cors(cors::Cors),
    FileLog(file_log::FileLog),
    Prometheus(metrics::Prometheus),
    RequestTermination(termination::RequestTermination),
    CorrelationId(correlation::CorrelationId),
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
}

impl Chain {
    pub(super) fn new(steps: Vec<Step>) -> Chain {
        let logs = steps.iter().any(|step| step.any(Instance::logs));
        let wants_response_headers = steps.iter().any(|step| step.any(Instance::writes_entries));
        Chain { steps: steps.into(), logs, wants_response_headers }
    }

    /// A chain without plugins.
    #[must_use]
    pub fn empty() -> Chain {
        Chain::new(Vec::new())
    }

    /// Before the request goes upstream. An answer ends it.
    pub async fn access(&self, ctx: &mut RequestContext) -> Option<EarlyResponse> {
        for step in &*self.steps {
            let ended = match step.instance(ctx) {
                None
                | Some(
                    Instance::FileLog(_)
                    | Instance::Prometheus(_)
                    | Instance::RemoteLog(_)
                    | Instance::AccessLog(_),
                ) => None,
                Some(Instance::Opentelemetry(plugin)) => {
                    plugin.access(ctx);
                    None
                }
                Some(Instance::Zipkin(plugin)) => {
                    plugin.access(ctx);
                    None
                }
                Some(Instance::Jwt(plugin)) => plugin.access(ctx),
                Some(Instance::KeyAuth(plugin)) => plugin.access(ctx),
                Some(Instance::RateLimiting(plugin)) => match plugin.access(ctx) {
                    rate_limiting::Access::Done(ended) => ended,
                    rate_limiting::Access::Ask(question) => {
                        let answer = Box::pin(question.answer()).await;
                        plugin.resume(ctx, answer)
                    }
                },
                Some(Instance::Cors(plugin)) => plugin.access(ctx),
                Some(Instance::RequestTermination(plugin)) => plugin.access(ctx),
                Some(Instance::CorrelationId(plugin)) => {
                    plugin.access(ctx);
                    None
                }
            };
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    /// On every answer's head, the gateway's own included.
    pub fn header(&self, ctx: &mut RequestContext, head: &mut response::Parts) {
        for step in &*self.steps {
            match step.instance(ctx) {
                Some(Instance::Cors(plugin)) => plugin.header(ctx, head),
                Some(Instance::Opentelemetry(plugin)) => plugin.header(ctx, head),
                Some(Instance::Zipkin(plugin)) => plugin.header(ctx, head),
                _ => {}
            }
        }
    }

    /// Whether anything runs after the response's end.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.logs
    }

    /// Whether the log phase reads the response's headers.
    #[must_use]
    pub fn wants_response_headers(&self) -> bool {
        self.wants_response_headers
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

/// All chains of a configuration.
#[derive(Debug)]
pub struct Compiled {
    pub(super) routes: Vec<Chain>,
    pub(super) unmatched: Chain,
}

impl Compiled {
    /// The chain of a route, by its position in the configuration.
    #[must_use]
    pub fn chain(&self, route: usize) -> Chain {
        self.routes.get(route).cloned().unwrap_or_else(Chain::empty)
    }

    /// The global plugins, for requests no route matches.
    #[must_use]
    pub fn unmatched(&self) -> Chain {
        self.unmatched.clone()
    }
}
