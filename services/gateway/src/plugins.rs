//! Plugins: one chain per route, in Kong's priority order, compiled with the configuration.
//!
//! A plugin is a variant of an enum, its phases plain synchronous functions; only rate limiting against Redis waits, and only there a
//! future is boxed. What outlives a configuration (counters, Redis pools, log writers, metrics) belongs to [`Runtime`].

mod access_log;
mod acl;
mod assemble;
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
mod jwks_auth;
mod jwt;
mod key_auth;
mod limits;
mod metrics;
mod oas_validation;
mod oauth2;
mod opentelemetry;
mod proxy_cache;
mod rate_limiting;
mod redis;
mod remote_log;
mod request_transformer;
mod response_ratelimiting;
mod response_transformer;
mod session;
mod size_limiting;
mod spans;
mod termination;
mod zipkin;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plinth_kong::{Config, Plugin, PluginConfig, Route};
use uuid::Uuid;

pub use assemble::Compiled;
pub(crate) use assemble::specificity;
pub use chain::{BodySource, Chain};
pub use proxy_cache::{Away, Caches};
pub use size_limiting::refusal as too_long;

use crate::compile::changes::{same, unchanged};
use chain::Instance;

/// What plugins need from the process.
#[derive(Clone, Debug)]
pub struct Env {
    /// Where the plugins' metrics go.
    pub registry: prometheus::Registry,
    /// Runs what must not run on a worker: Redis, exports.
    pub control: tokio::runtime::Handle,
    /// Settings of the gateway that plugins follow.
    pub options: Options,
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
    /// What a request waits for Redis at most where it can do without: limits and caches.
    pub redis_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            node: Uuid::new_v4(),
            syslog_socket: PathBuf::from("/dev/log"),
            tracing: TracingSettings::default(),
            access_log: None,
            redis_deadline: Duration::from_millis(50),
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
    tokens: Arc<oauth2::Memory>,
    issuers: jwks_auth::Issuers,
    /// The key of sessions without a secret of their own.
    session_key: [u8; 32],
    control: tokio::runtime::Handle,
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
        let mut session_key = [0; 32];
        aws_lc_rs::rand::fill(&mut session_key)
            .map_err(|_| prometheus::Error::Msg("the system gives no random numbers".to_owned()))?;
        Ok(Runtime {
            tokens: Arc::default(),
            issuers: jwks_auth::Issuers::default(),
            session_key,
            control: env.control.clone(),
            exports: export::Exports::new(env.control.clone(), &env.registry)?,
            rate_limiting: rate_limiting::Shared::new(Arc::clone(&limits), &env.registry)?,
            cache: Arc::default(),
            limits,
            redis: redis::Pools::new(env.control, env.options.redis_deadline, &env.registry)?,
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
        self.recompile(&Arc::new(config.clone()), None)
    }

    /// Compiles the chains of a configuration; plugins and chains that are as they were in `before` are taken from there.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn recompile(
        &self,
        config: &Arc<Config>,
        before: Option<&Compiled>,
    ) -> Result<Compiled, Vec<String>> {
        // Plugins hold what they know of consumers: with other consumers all are made anew.
        let before = before.filter(|before| same_people(&before.config, config));
        let kept = before.map_or_else(
            || vec![None; config.plugins.len()],
            |before| unchanged(&before.config.plugins, &config.plugins),
        );
        let mut faults = Vec::new();
        let directory = (before.is_none() || kept.iter().any(Option::is_none))
            .then(|| auth::Directory::new(config, &mut faults));
        // `protocols` only tells HTTP from streams: [https] does not stop a plugin on a plain request.
        let runs =
            |plugin: &Plugin| plugin.enabled && plugin.protocols.iter().any(|protocol| !protocol.is_stream());
        let mut built = Vec::with_capacity(config.plugins.len());
        for (plugin, kept) in config.plugins.iter().zip(&kept) {
            let instance = match (kept.zip(before), &directory) {
                (Some((at, before)), _) => before.built.get(at).and_then(|built| built.instance.clone()),
                (None, Some(directory)) if runs(plugin) => match self.instance(plugin, directory) {
                    Ok(instance) => Some(instance),
                    Err(why) => {
                        faults.push(format!("plugin '{}' ({}): {why}", plugin.name, plugin.id));
                        None
                    }
                },
                (None, _) => None,
            };
            built.push(Built { plugin: Arc::clone(plugin), instance });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let before = before.map(|before| (before, kept.as_slice()));
        Ok(assemble::assemble(config, built, before, self.access_log.as_ref()))
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

    /// The caches of a configuration's proxy-cache plugins, for the Admin API.
    #[must_use]
    pub fn caches(&self, config: &Config) -> Caches {
        Caches::of(config, &self.cache, &self.redis)
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
            PluginConfig::OAuth2(config) => Instance::OAuth2(Box::new(oauth2::OAuth2::new(
                plugin.id,
                config,
                directory,
                &self.tokens,
                &self.redis,
            )?)),
            PluginConfig::JwksAuth(config) => Instance::JwksAuth(Box::new(jwks_auth::JwksAuth::new(
                config,
                directory,
                &self.issuers,
                &self.control,
            )?)),
            PluginConfig::Session(config) => {
                Instance::Session(Box::new(session::Session::new(config, directory, &self.session_key)?))
            }
            PluginConfig::OasValidation(config) => {
                Instance::OasValidation(Box::new(oas_validation::OasValidation::new(config)?))
            }
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
}

/// Credentials that authentication plugins could not use.
#[must_use]
pub fn credential_faults(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    auth::Directory::new(config, &mut faults);
    faults
}

/// One configured plugin and what it was compiled to; nothing when it does not run.
#[derive(Clone, Debug)]
pub(in crate::plugins) struct Built {
    plugin: Arc<Plugin>,
    instance: Option<Arc<Instance>>,
}

/// The same consumers and credentials.
fn same_people(before: &Config, now: &Config) -> bool {
    before.transform == now.transform
        && same(&before.consumers, &now.consumers)
        && same(&before.jwt_secrets, &now.jwt_secrets)
        && same(&before.keyauth_credentials, &now.keyauth_credentials)
        && same(&before.basicauth_credentials, &now.basicauth_credentials)
        && same(&before.hmacauth_credentials, &now.hmacauth_credentials)
        && same(&before.acls, &now.acls)
        && same(&before.oauth2_credentials, &now.oauth2_credentials)
}

/// Where a chain runs, as logs and metrics name it.
pub(in crate::plugins) struct Labels<'c> {
    pub route: Option<&'c Route>,
    pub service: Option<&'c plinth_kong::Service>,
}

#[cfg(test)]
mod tests;
