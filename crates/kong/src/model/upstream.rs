//! Upstreams, their targets and health checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{or_default, reference, unset};

/// A named, balanced group of targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    pub id: Uuid,
    pub name: String,
    pub algorithm: Algorithm,
    /// Accepted and unused: the wheels here are exact without a slot table.
    pub slots: u32,
    pub hash_on: HashInput,
    pub hash_fallback: HashInput,
    pub hash_on_header: Option<String>,
    pub hash_fallback_header: Option<String>,
    pub hash_on_cookie: Option<String>,
    pub hash_on_cookie_path: Option<String>,
    pub hash_on_query_arg: Option<String>,
    pub hash_fallback_query_arg: Option<String>,
    pub hash_on_uri_capture: Option<String>,
    pub hash_fallback_uri_capture: Option<String>,
    pub host_header: Option<String>,
    pub use_srv_name: Option<bool>,
    #[serde(with = "reference")]
    pub client_certificate: Option<Uuid>,
    pub healthchecks: Healthchecks,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// One address (or name) behind an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub id: Uuid,
    /// `host:port`, the port filled in.
    pub target: String,
    pub weight: u32,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

impl Target {
    /// Host (IPv6 without brackets) and port.
    pub fn address(&self) -> (&str, u16) {
        let (host, port) = self.target.rsplit_once(':').unwrap_or((&self.target, "8000"));
        (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(8000))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    RoundRobin,
    ConsistentHashing,
    LeastConnections,
    Latency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashInput {
    None,
    Consumer,
    Ip,
    Header,
    Cookie,
    Path,
    QueryArg,
    UriCapture,
}

/// Percent of available weight above which the upstream counts as healthy, and the two kinds of checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Healthchecks {
    pub threshold: f64,
    pub active: ActiveCheck,
    pub passive: PassiveCheck,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    #[default]
    Http,
    Https,
    Tcp,
    Grpc,
    Grpcs,
}

/// Probes. Times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveCheck {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: CheckKind,
    pub timeout: f64,
    pub concurrency: u32,
    pub http_path: String,
    pub https_sni: Option<String>,
    pub https_verify_certificate: bool,
    #[serde(with = "unset")]
    pub headers: BTreeMap<String, Vec<String>>,
    pub healthy: ActiveHealthy,
    pub unhealthy: ActiveUnhealthy,
}

/// Intervals in seconds; 0 switches off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveHealthy {
    pub interval: f64,
    pub successes: u32,
    pub http_statuses: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveUnhealthy {
    pub interval: f64,
    pub http_statuses: Vec<u16>,
    pub tcp_failures: u32,
    pub timeouts: u32,
    pub http_failures: u32,
}

/// Judged by proxied answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassiveCheck {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: CheckKind,
    pub healthy: PassiveHealthy,
    pub unhealthy: PassiveUnhealthy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassiveHealthy {
    pub successes: u32,
    pub http_statuses: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassiveUnhealthy {
    pub http_statuses: Vec<u16>,
    pub tcp_failures: u32,
    pub timeouts: u32,
    pub http_failures: u32,
}
