//! The tables of plugin configurations, and the names Kong knows.

mod auth;
mod jwks_auth;
mod limits;
mod logs;
mod oas_validation;
mod oauth2;
mod queue;
mod session;
mod tracing;
mod traffic;
mod transform;

use serde_json::Value;

use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::Map;
use crate::schema::Field;

/// One supported plugin.
pub(crate) struct PluginSchema {
    pub name: &'static str,
    pub fields: &'static [Field],
    /// May be bound to a consumer (not so for what runs before the consumer is known).
    pub per_consumer: bool,
    pub prepare: Option<fn(&mut Map, &mut Scope<'_, '_>)>,
    pub rules: Option<fn(&Map, &mut Scope<'_, '_>)>,
    pub build: fn(Value) -> Result<PluginConfig, serde_json::Error>,
}

static PLUGINS: &[PluginSchema] = &[
    auth::JWT,
    auth::KEY_AUTH,
    auth::BASIC_AUTH,
    auth::HMAC_AUTH,
    auth::ACL,
    limits::RATE_LIMITING,
    limits::RESPONSE_RATELIMITING,
    traffic::CORS,
    traffic::REQUEST_TERMINATION,
    traffic::CORRELATION_ID,
    traffic::IP_RESTRICTION,
    traffic::BOT_DETECTION,
    traffic::REQUEST_SIZE_LIMITING,
    traffic::PROXY_CACHE,
    transform::REQUEST_TRANSFORMER,
    transform::RESPONSE_TRANSFORMER,
    logs::FILE_LOG,
    logs::PROMETHEUS,
    oauth2::OAUTH2,
    jwks_auth::JWKS_AUTH,
    session::SESSION,
    oas_validation::OAS_VALIDATION,
    logs::HTTP_LOG,
    logs::TCP_LOG,
    logs::UDP_LOG,
    logs::SYSLOG,
    tracing::OPENTELEMETRY,
    tracing::ZIPKIN,
];

/// Kong's own plugins that this gateway does not run yet.
const NOT_YET: &[&str] = &[
    "ai-prompt-decorator",
    "ai-prompt-guard",
    "ai-prompt-template",
    "ai-proxy",
    "ai-request-transformer",
    "ai-response-transformer",
    "aws-lambda",
    "azure-functions",
    "datadog",
    "grpc-gateway",
    "grpc-web",
    "ldap-auth",
    "loggly",
    "redirect",
    "standard-webhooks",
    "statsd",
];

/// Plugins whose configuration is Lua.
const LUA: &[&str] = &["pre-function", "post-function"];

/// What a plugin name means here.
pub(crate) enum Lookup {
    Supported(&'static PluginSchema),
    /// Known to Kong; the message names it.
    Refused(String),
}

pub(crate) fn lookup(name: &str) -> Lookup {
    if let Some(schema) = PLUGINS.iter().find(|schema| schema.name == name) {
        return Lookup::Supported(schema);
    }
    Lookup::Refused(if LUA.contains(&name) {
        format!(
            "plugin '{name}' runs Lua code, which this gateway cannot run; remove it or replace it by another plugin"
        )
    } else if NOT_YET.contains(&name) {
        format!("plugin '{name}' is not supported yet")
    } else {
        format!("plugin '{name}' not enabled; add it to the 'plugins' configuration property")
    })
}

/// The table of a plugin this gateway runs.
pub(crate) fn find(name: &str) -> Option<&'static PluginSchema> {
    PLUGINS.iter().find(|schema| schema.name == name)
}

/// All tables.
pub(crate) fn all() -> impl Iterator<Item = &'static PluginSchema> {
    PLUGINS.iter()
}

/// Names of the plugins this gateway runs, for the Admin API.
pub fn supported() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|schema| schema.name)
}
