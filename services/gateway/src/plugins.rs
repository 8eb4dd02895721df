//! Plugins: one chain per route, in Kong's priority order, compiled with the configuration.
//!
//! A plugin is a variant of an enum, its phases plain synchronous functions; only rate limiting against Redis waits, and only there a
//! future is boxed. What outlives a configuration (counters, Redis pools, log writers, metrics) belongs to [`Runtime`].

mod access_log;
mod acl;
mod auth;
mod basic_auth;
mod body;
mod bot_detection;
mod chain;
mod correlation;
mod cors;
mod entry;
mod export;
mod file_log;
mod hmac_auth;
mod ip_restriction;
mod jwt;
mod key_auth;
mod limits;
mod metrics;
mod opentelemetry;
mod proxy_cache;
mod rate_limiting;
mod redis;
mod remote_log;
mod request_transformer;
mod response_ratelimiting;
mod response_transformer;
mod size_limiting;
mod spans;
mod termination;
mod zipkin;

use std::path::PathBuf;
use std::sync::Arc;

use plinth_kong::{Config, Plugin, PluginConfig, Route};
use uuid::Uuid;

pub use chain::{BodySource, Chain, Compiled};
use chain::{Instance, Step};
pub use size_limiting::refusal as too_long;

/// What plugins need from the process.
#[derive(Clone, Debug)]
pub struct Env {
    /// Where the plugins' metrics go.
    pub registry: prometheus::Registry,
    /// Runs what must not run on a worker: Redis, exports.
    pub control: tokio::runtime::Handle,
    /// Settings of the gateway that plugins follow.
    pub options: Options,
    /// Takes work that would hold up a worker: bursts of signatures, large documents.
    pub offload: crate::offload::Offload,
}

/// Settings of the gateway that plugins follow.
#[derive(Clone, Debug)]
pub struct Options {
    /// This gateway's name among others, in traces.
    pub node: Uuid,
    /// The local syslog daemon's socket.
    pub syslog_socket: PathBuf,
    /// What the opentelemetry plugin makes spans of.
    pub tracing: TracingSettings,
    /// Where the access log goes, if there is one.
    pub access_log: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            node: Uuid::new_v4(),
            syslog_socket: PathBuf::from("/dev/log"),
            tracing: TracingSettings::default(),
            access_log: None,
        }
    }
}

/// Kong's `tracing_instrumentations` and `tracing_sampling_rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TracingSettings {
    /// A span for each request.
    pub request: bool,
    /// A span for each try at an upstream.
    pub balancer: bool,
    /// Share of traces begun here that are sent.
    pub sampling_rate: f64,
}

impl Default for TracingSettings {
    fn default() -> Self {
        TracingSettings { request: false, balancer: false, sampling_rate: 0.01 }
    }
}

impl TracingSettings {
    /// Whether there are spans at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.request || self.balancer
    }
}

/// This gateway among others.
#[derive(Debug)]
pub(in crate::plugins) struct Node {
    id: String,
}

/// Plugin state that survives configuration changes. One per gateway.
#[derive(Debug)]
pub struct Runtime {
    rate_limiting: rate_limiting::Shared,
    limits: Arc<limits::Limits>,
    redis: redis::Pools,
    cache: Arc<proxy_cache::Store>,
    files: file_log::Files,
    metrics: metrics::Metrics,
    correlation: Arc<correlation::Source>,
    exports: export::Exports,
    node: Arc<Node>,
    options: Options,
    /// Runs on every request when there is an access log.
    access_log: Option<Arc<Instance>>,
}

impl Runtime {
    /// Registers the plugins' metrics and starts nothing else.
    ///
    /// # Errors
    /// Metric names already taken in this registry.
    pub fn new(env: Env) -> Result<Runtime, prometheus::Error> {
        let limits: Arc<limits::Limits> = Arc::default();
        let files = file_log::Files::new(&env.registry)?;
        let access_log =
            env.options.access_log.as_ref().map(|path| {
                Arc::new(Instance::AccessLog(access_log::AccessLog::new(files.writer(path, false))))
            });
        Ok(Runtime {
            exports: export::Exports::new(env.control.clone(), &env.registry)?,
            rate_limiting: rate_limiting::Shared::new(Arc::clone(&limits), &env.registry)?,
            cache: Arc::default(),
            limits,
            redis: redis::Pools::new(env.control, &env.registry)?,
            files,
            metrics: metrics::Metrics::new(&env.registry)?,
            correlation: Arc::default(),
            node: Arc::new(Node { id: env.options.node.to_string() }),
            options: env.options,
            access_log,
        })
    }

    /// Compiles the chains of a configuration.
    ///
    /// # Errors
    /// Everything that cannot work, by name: keys that are not keys, Redis addresses that are none.
    pub fn compile(&self, config: &Config) -> Result<Compiled, Vec<String>> {
        let mut faults = Vec::new();
        let directory = auth::Directory::new(config, &mut faults);
        let mut built = Vec::new();
        // `protocols` only tells HTTP from streams: [https] does not stop a plugin on a plain request.
        let runs = |plugin: &&Plugin| {
            plugin.enabled && plugin.protocols.iter().any(|protocol| !protocol.is_stream())
        };
        for plugin in config.plugins.iter().filter(runs) {
            match self.instance(plugin, &directory) {
                Ok(instance) => built.push(Built { plugin, instance }),
                Err(why) => faults.push(format!("plugin '{}' ({}): {why}", plugin.name, plugin.id)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let routes = config.routes.iter().map(|route| self.chain(config, &built, Some(route))).collect();
        Ok(Compiled { routes, unmatched: self.chain(config, &built, None) })
    }

    /// Forgets what belonged to configurations before this one, which is about to run.
    pub fn settle(&self, config: &Config) {
        self.metrics.retain(config);
    }

    /// Waits (blocking: not on a worker) until what was logged so far is written.
    pub fn flush(&self) {
        self.files.flush();
        self.exports.flush();
    }

    /// Opens all log files anew, for logrotate.
    pub fn reopen(&self) {
        self.files.reopen();
    }

    fn instance(&self, plugin: &Plugin, directory: &auth::Directory) -> Result<Arc<Instance>, String> {
        Ok(Arc::new(match &plugin.config {
            PluginConfig::Jwt(config) => Instance::Jwt(jwt::Jwt::new(config, directory)?),
            PluginConfig::KeyAuth(config) => Instance::KeyAuth(key_auth::KeyAuth::new(config, directory)?),
            PluginConfig::RateLimiting(config) => {
                let scope = limits::Scope { route: plugin.route, service: plugin.service };
                Instance::RateLimiting(rate_limiting::RateLimiting::new(
                    config,
                    scope,
                    &self.rate_limiting,
                    &self.redis,
                )?)
            }
            PluginConfig::BasicAuth(config) => {
                Instance::BasicAuth(basic_auth::BasicAuth::new(config, directory)?)
            }
            PluginConfig::HmacAuth(config) => {
                Instance::HmacAuth(hmac_auth::HmacAuth::new(config, directory)?)
            }
            PluginConfig::Acl(config) => Instance::Acl(acl::Acl::new(config, directory)),
            PluginConfig::IpRestriction(config) => {
                Instance::IpRestriction(ip_restriction::IpRestriction::new(config)?)
            }
            PluginConfig::BotDetection(config) => {
                Instance::BotDetection(bot_detection::BotDetection::new(config)?)
            }
            PluginConfig::RequestSizeLimiting(config) => {
                Instance::SizeLimiting(size_limiting::SizeLimiting::new(config))
            }
            PluginConfig::ResponseRateLimiting(config) => {
                let scope = limits::Scope { route: plugin.route, service: plugin.service };
                Instance::ResponseRateLimiting(response_ratelimiting::ResponseRateLimiting::new(
                    config,
                    scope,
                    &self.limits,
                    &self.redis,
                )?)
            }
            PluginConfig::ProxyCache(config) => {
                Instance::ProxyCache(proxy_cache::ProxyCache::new(config, &self.cache, &self.redis)?)
            }
            PluginConfig::RequestTransformer(config) => {
                Instance::RequestTransformer(Box::new(request_transformer::RequestTransformer::new(config)?))
            }
            PluginConfig::ResponseTransformer(config) => {
                Instance::ResponseTransformer(response_transformer::ResponseTransformer::new(config)?)
            }
            PluginConfig::Cors(config) => Instance::Cors(cors::Cors::new(config)?),
            PluginConfig::FileLog(config) => Instance::FileLog(file_log::FileLog::new(
                self.files.writer(config.path.as_ref(), config.reopen),
            )),
            PluginConfig::HttpLog(config) => {
                Instance::RemoteLog(remote_log::RemoteLog::http(config, &self.exports)?)
            }
            PluginConfig::TcpLog(config) => {
                Instance::RemoteLog(remote_log::RemoteLog::tcp(config, &self.exports)?)
            }
            PluginConfig::UdpLog(config) => {
                Instance::RemoteLog(remote_log::RemoteLog::udp(config, &self.exports)?)
            }
            PluginConfig::Syslog(config) => {
                let socket = &self.options.syslog_socket;
                Instance::RemoteLog(remote_log::RemoteLog::syslog(config, socket, &self.exports)?)
            }
            PluginConfig::Opentelemetry(config) => Instance::Opentelemetry(
                opentelemetry::Opentelemetry::new(config, &self.exports, &self.node, self.options.tracing)?,
            ),
            PluginConfig::Zipkin(config) => {
                Instance::Zipkin(zipkin::Zipkin::new(config, &self.exports, &self.node)?)
            }
            PluginConfig::Prometheus(config) => Instance::Prometheus(self.metrics.plugin(*config)),
            PluginConfig::RequestTermination(config) => {
                Instance::RequestTermination(termination::RequestTermination::new(config)?)
            }
            PluginConfig::CorrelationId(config) => Instance::CorrelationId(correlation::CorrelationId::new(
                config,
                Arc::clone(&self.correlation),
            )?),
        }))
    }

    /// The chain of one route, or of requests without one.
    fn chain(&self, config: &Config, built: &[Built<'_>], route: Option<&Route>) -> Chain {
        let service = route.and_then(|route| route.service);
        let place = Place { route: route.map(|route| route.id), service };
        let mut names: Vec<&str> = Vec::new();
        for candidate in built.iter().filter(|candidate| place.admits(candidate.plugin)) {
            if !names.contains(&candidate.plugin.name.as_str()) {
                names.push(&candidate.plugin.name);
            }
        }
        let at = Labels::new(config, route);
        let mut steps: Vec<Step> = names.into_iter().map(|name| place.step(built, name, &at)).collect();
        steps.sort_by_key(|step| std::cmp::Reverse(step.priority));
        steps.extend(self.access_log.iter().map(|log| Step {
            priority: i32::MIN,
            default: Some(Arc::clone(log)),
            by_consumer: std::collections::HashMap::default(),
        }));
        Chain::new(steps)
    }
}

/// One configured plugin and what it was compiled to.
struct Built<'c> {
    plugin: &'c Plugin,
    instance: Arc<Instance>,
}

/// Where a chain runs, as logs and metrics name it.
pub(in crate::plugins) struct Labels<'c> {
    pub route: Option<&'c Route>,
    pub service: Option<&'c plinth_kong::Service>,
}

impl<'c> Labels<'c> {
    fn new(config: &'c Config, route: Option<&'c Route>) -> Labels<'c> {
        let service = route.and_then(|route| route.service).and_then(|id| config.service(id));
        Labels { route, service: service.map(AsRef::as_ref) }
    }
}

/// The route and service a chain belongs to.
struct Place {
    route: Option<Uuid>,
    service: Option<Uuid>,
}

impl Place {
    fn admits(&self, plugin: &Plugin) -> bool {
        let fits = |scope: Option<Uuid>, own: Option<Uuid>| scope.is_none() || scope == own;
        fits(plugin.route, self.route) && fits(plugin.service, self.service)
    }

    /// Kong's precedence: route+service+consumer, route+consumer, service+consumer, route+service, consumer, route, service, global.
    fn specificity(plugin: &Plugin) -> u8 {
        match (plugin.route.is_some(), plugin.service.is_some(), plugin.consumer.is_some()) {
            (true, true, true) => 7,
            (true, false, true) => 6,
            (false, true, true) => 5,
            (true, true, false) => 4,
            (false, false, true) => 3,
            (true, false, false) => 2,
            (false, true, false) => 1,
            (false, false, false) => 0,
        }
    }

    /// The one configuration of a plugin that runs here, for each consumer that has one of its own and for all others.
    fn step(&self, built: &[Built<'_>], name: &str, at: &Labels<'_>) -> Step {
        let here = || built.iter().filter(|one| one.plugin.name == name && self.admits(one.plugin));
        let best = |consumer: Option<Uuid>| {
            here()
                .filter(|one| one.plugin.consumer.is_none() || one.plugin.consumer == consumer)
                .max_by_key(|one| Place::specificity(one.plugin))
        };
        let bind = |one: &Built<'_>| one.instance.bind(at);
        let consumers: std::collections::HashSet<Uuid> =
            here().filter_map(|one| one.plugin.consumer).collect();
        let by_consumer = consumers.into_iter().filter_map(|id| Some((id, bind(best(Some(id))?)))).collect();
        Step {
            priority: here().map(|one| one.plugin.config.priority()).max().unwrap_or_default(),
            default: best(None).map(bind),
            by_consumer,
        }
    }
}

#[cfg(test)]
mod tests;
