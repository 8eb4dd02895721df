//! Plugins and their typed configurations.

mod auth;
mod jwks_auth;
mod limits;
mod logs;
mod oas_validation;
mod oauth2;
mod session;
mod tracing;
mod traffic;
mod transform;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Protocol, or_default, reference, unset};
pub use auth::{AclConfig, BasicAuthConfig, HmacAlgorithm, HmacAuthConfig};
pub use limits::{
    LimitBy, OnRedisFailure, Period, PeriodLimits, Policy, RateLimitingConfig, RedisConfig,
    ResponseRateLimitingConfig, WindowType,
};
pub use traffic::{
    BotDetectionConfig, CacheHeaders, CacheMemory, CacheRedis, CacheStrategy, IpRestrictionConfig,
    ProxyCacheConfig, RequestSizeLimitingConfig, SizeUnit,
};
pub use transform::{
    JsonType, RequestEdits, RequestReplacements, RequestTransformerConfig, ResponseEdits, ResponseNames,
    ResponseTransformerConfig,
};

pub use jwks_auth::{ConsumerBy, JwksAuthConfig};
pub use logs::{
    Facility, HttpLogConfig, HttpLogMethod, QueueConfig, Severity, SyslogConfig, TcpLogConfig, UdpLogConfig,
};
pub use oas_validation::OasValidationConfig;
pub use oauth2::{OAuth2Config, OAuth2Storage, Pkce};
pub use session::{SameSite, SessionConfig};
pub use tracing::{
    HeaderType, Inject, OpentelemetryConfig, PhaseFlavor, Propagate, Propagation, SpanName, StaticTag,
    TraceFormat, ZipkinConfig,
};

/// One configured plugin. The scope is global when service, route and consumer are all absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plugin {
    pub id: Uuid,
    pub name: String,
    pub instance_name: Option<String>,
    #[serde(with = "reference")]
    pub service: Option<Uuid>,
    #[serde(with = "reference")]
    pub route: Option<Uuid>,
    #[serde(with = "reference")]
    pub consumer: Option<Uuid>,
    pub enabled: bool,
    pub protocols: Vec<Protocol>,
    pub tags: Vec<String>,
    pub config: PluginConfig,
}

/// The supported plugins.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PluginConfig {
    Jwt(JwtConfig),
    KeyAuth(KeyAuthConfig),
    BasicAuth(BasicAuthConfig),
    HmacAuth(HmacAuthConfig),
    Acl(AclConfig),
    IpRestriction(IpRestrictionConfig),
    BotDetection(BotDetectionConfig),
    RequestSizeLimiting(RequestSizeLimitingConfig),
    ResponseRateLimiting(ResponseRateLimitingConfig),
    ProxyCache(ProxyCacheConfig),
    RequestTransformer(RequestTransformerConfig),
    ResponseTransformer(ResponseTransformerConfig),
    RateLimiting(RateLimitingConfig),
    Cors(CorsConfig),
    FileLog(FileLogConfig),
    Prometheus(PrometheusConfig),
    RequestTermination(RequestTerminationConfig),
    CorrelationId(CorrelationIdConfig),
    OAuth2(Box<OAuth2Config>),
    JwksAuth(Box<JwksAuthConfig>),
    Session(Box<SessionConfig>),
    OasValidation(Box<OasValidationConfig>),
    HttpLog(HttpLogConfig),
    TcpLog(TcpLogConfig),
    UdpLog(UdpLogConfig),
    Syslog(SyslogConfig),
    Opentelemetry(Box<OpentelemetryConfig>),
    Zipkin(Box<ZipkinConfig>),
}

impl PluginConfig {
    /// Higher runs earlier. Kong's numbers.
    pub fn priority(&self) -> i32 {
        match self {
            PluginConfig::CorrelationId(_) => 100_001,
            PluginConfig::BotDetection(_) => 2500,
            PluginConfig::Cors(_) => 2000,
            PluginConfig::Jwt(_) => 1450,
            PluginConfig::KeyAuth(_) => 1250,
            PluginConfig::BasicAuth(_) => 1100,
            PluginConfig::HmacAuth(_) => 1030,
            PluginConfig::IpRestriction(_) => 990,
            PluginConfig::RequestSizeLimiting(_) => 951,
            PluginConfig::Acl(_) => 950,
            PluginConfig::RateLimiting(_) => 910,
            PluginConfig::OasValidation(_) => 850,
            PluginConfig::Zipkin(_) => 100_000,
            PluginConfig::Session(_) => 1900,
            // just after jwt, whose work it does
            PluginConfig::JwksAuth(_) => 1440,
            PluginConfig::OAuth2(_) => 1400,
            PluginConfig::Opentelemetry(_) => 14,
            PluginConfig::ResponseRateLimiting(_) => 900,
            PluginConfig::RequestTransformer(_) => 801,
            PluginConfig::ResponseTransformer(_) => 800,
            PluginConfig::ProxyCache(_) => 100,
            PluginConfig::Prometheus(_) => 13,
            PluginConfig::HttpLog(_) => 12,
            PluginConfig::UdpLog(_) => 8,
            PluginConfig::TcpLog(_) => 7,
            PluginConfig::Syslog(_) => 4,
            PluginConfig::FileLog(_) => 9,
            PluginConfig::RequestTermination(_) => 2,
        }
    }
}

/// Registered claims the jwt plugin can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    Exp,
    Nbf,
    /// Not in Kong, which refuses the file: a number that does not lie in the future.
    Iat,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JwtConfig {
    #[serde(deserialize_with = "or_default")]
    pub uri_param_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cookie_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub header_names: Vec<String>,
    pub key_claim_name: String,
    #[serde(deserialize_with = "or_default")]
    pub secret_is_base64: bool,
    #[serde(with = "unset")]
    pub claims_to_verify: BTreeSet<Claim>,
    /// Seconds; 0 = any.
    #[serde(deserialize_with = "or_default")]
    pub maximum_expiration: u64,
    #[serde(deserialize_with = "or_default")]
    pub run_on_preflight: bool,
    /// Consumer id or username.
    pub anonymous: Option<String>,
    pub realm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyAuthConfig {
    pub key_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub key_in_header: bool,
    #[serde(deserialize_with = "or_default")]
    pub key_in_query: bool,
    #[serde(deserialize_with = "or_default")]
    pub key_in_body: bool,
    #[serde(deserialize_with = "or_default")]
    pub hide_credentials: bool,
    #[serde(deserialize_with = "or_default")]
    pub run_on_preflight: bool,
    pub anonymous: Option<String>,
    pub realm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorsConfig {
    #[serde(with = "unset")]
    pub origins: Vec<String>,
    #[serde(with = "unset")]
    pub methods: Vec<String>,
    #[serde(with = "unset")]
    pub headers: Vec<String>,
    #[serde(with = "unset")]
    pub exposed_headers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub credentials: bool,
    /// Seconds.
    pub max_age: Option<f64>,
    #[serde(deserialize_with = "or_default")]
    pub preflight_continue: bool,
    #[serde(deserialize_with = "or_default")]
    pub private_network: bool,
    /// Not in Kong: a preflight is answered though no route has the method OPTIONS, when one has the method it asks for.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub preflight_any_method: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileLogConfig {
    pub path: String,
    /// Opened anew for each batch of entries, for logrotate.
    #[serde(deserialize_with = "or_default")]
    pub reopen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrometheusConfig {
    #[serde(deserialize_with = "or_default")]
    pub per_consumer: bool,
    #[serde(deserialize_with = "or_default")]
    pub status_code_metrics: bool,
    #[serde(deserialize_with = "or_default")]
    pub latency_metrics: bool,
    #[serde(deserialize_with = "or_default")]
    pub bandwidth_metrics: bool,
    #[serde(deserialize_with = "or_default")]
    pub upstream_health_metrics: bool,
    #[serde(deserialize_with = "or_default")]
    pub ai_metrics: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestTerminationConfig {
    pub status_code: u16,
    pub message: Option<String>,
    pub content_type: Option<String>,
    pub body: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub echo: bool,
    pub trigger: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generator {
    #[serde(rename = "uuid")]
    Uuid,
    #[serde(rename = "uuid#counter")]
    UuidCounter,
    #[serde(rename = "tracker")]
    Tracker,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorrelationIdConfig {
    pub header_name: String,
    pub generator: Generator,
    #[serde(deserialize_with = "or_default")]
    pub echo_downstream: bool,
}
