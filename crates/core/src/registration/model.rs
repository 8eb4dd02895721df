//! What is registered: the instance, its check, and the document that keeps both.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::consul::duration;

/// One instance of a service, as its owner describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    pub service_name: String,
    /// Unique over the whole catalog; 1 to 200 bytes.
    pub service_id: String,
    /// IPv4, IPv6 (no brackets) or host name.
    pub address: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Any JSON; scalars that fit are visible to other Consul clients as service meta.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub check: CheckSpec,
    /// Lease: 10 s to 24 h; the owner must send heartbeats.
    #[serde(default, with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Share of traffic relative to the other instances, 1 to 65535. Default 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Takes the service mesh's connections itself: with a certificate of Consul's authority and Consul's intentions. Proxies
    /// of the mesh find it by that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub connect_native: bool,
}

impl Registration {
    /// An instance with defaults: no tags, no metadata, no check, no TTL, weight 1.
    pub fn new(
        service_name: impl Into<String>,
        service_id: impl Into<String>,
        address: impl Into<String>,
        port: u16,
    ) -> Self {
        Self {
            service_name: service_name.into(),
            service_id: service_id.into(),
            address: address.into(),
            port,
            tags: Vec::new(),
            metadata: Map::new(),
            check: CheckSpec::None,
            ttl: None,
            weight: 1,
            connect_native: false,
        }
    }

    /// The lease's TTL: `ttl`, else that of a TTL check.
    pub fn lease_ttl(&self) -> Option<Duration> {
        match (&self.ttl, &self.check) {
            (Some(ttl), _) | (None, CheckSpec::Ttl { ttl }) => Some(*ttl),
            _ => None,
        }
    }
}

fn one() -> u32 {
    1
}

fn default_interval() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_deregister_after() -> Option<Duration> {
    Some(Duration::from_secs(30))
}

/// When a check runs. Defaults: every 10 s, 5 s timeout, removal after 30 s critical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    #[serde(default = "default_interval", with = "duration::text")]
    pub interval: Duration,
    #[serde(default = "default_timeout", with = "duration::text")]
    pub timeout: Duration,
    /// `None` (written `""`): never removed.
    #[serde(default = "default_deregister_after", with = "duration::optional")]
    pub deregister_after: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: default_interval(),
            timeout: default_timeout(),
            deregister_after: default_deregister_after(),
        }
    }
}

/// How the health of an instance is found out. In JSON `{"type": "http", "path": "/health", "interval": "10s", ...}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum CheckSpec {
    /// Not checked: passing while registered.
    #[default]
    None,
    /// Alive while heartbeats come.
    Ttl {
        #[serde(with = "duration::text")]
        ttl: Duration,
    },
    Http {
        /// A whole URL, or a path that begins with `/` on the instance's own address and port.
        path: String,
        /// Default GET.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<String>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, Vec<String>>,
        #[serde(default)]
        tls_skip_verify: bool,
        #[serde(flatten)]
        timing: Timing,
    },
    Tcp {
        /// `host:port`; none: the instance's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        #[serde(flatten)]
        timing: Timing,
    },
    Grpc {
        /// `host:port`; none: the instance's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Name asked for in `grpc.health.v1`; empty: the whole server.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
        #[serde(default)]
        tls: bool,
        #[serde(default)]
        tls_skip_verify: bool,
        #[serde(flatten)]
        timing: Timing,
    },
}

impl CheckSpec {
    /// An HTTP check of a path on the instance with default times.
    pub fn http(path: impl Into<String>) -> Self {
        Self::Http {
            path: path.into(),
            method: None,
            headers: BTreeMap::new(),
            tls_skip_verify: false,
            timing: Timing::default(),
        }
    }

    /// `none`, `ttl`, `http`, `tcp` or `grpc`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ttl { .. } => "ttl",
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Grpc { .. } => "grpc",
        }
    }

    /// The times of a check that is probed; TTL and none are not.
    pub fn timing(&self) -> Option<&Timing> {
        match self {
            Self::None | Self::Ttl { .. } => None,
            Self::Http { timing, .. } | Self::Tcp { timing, .. } | Self::Grpc { timing, .. } => Some(timing),
        }
    }

    /// True when somebody must probe the instance to know its state.
    pub fn is_probed(&self) -> bool {
        self.timing().is_some()
    }

    /// What a probe talks to: the URL of an HTTP check, `host:port` of TCP and gRPC, with IPv6 in brackets.
    pub fn target(&self, address: &str, port: u16) -> Option<String> {
        let own = || host_port(address, port);
        match self {
            Self::None | Self::Ttl { .. } => None,
            Self::Http { path, .. } if path.starts_with('/') => Some(format!("http://{}{path}", own())),
            Self::Http { path, .. } => Some(path.clone()),
            Self::Tcp { target, .. } | Self::Grpc { target, .. } => Some(target.clone().unwrap_or_else(own)),
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub fn host_port(address: &str, port: u16) -> String {
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// Who registers: `subject` from the token; `incarnation` is new for each start of a self-registering process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub subject: String,
    pub incarnation: Option<String>,
}

impl Owner {
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), incarnation: None }
    }

    /// An owner with a fresh random incarnation: this run of this process.
    pub fn process(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), incarnation: Some(uuid::Uuid::new_v4().to_string()) }
    }
}

/// The JSON at `plinth/instances/<service_id>`: the whole truth about a registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub registration: Registration,
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// First registration of this id by this owner.
    pub registered_at: Timestamp,
    /// Last registration that changed anything.
    pub updated_at: Timestamp,
}

/// One reason why input is refused, with the field's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldFault {
    pub field: String,
    pub message: String,
}

impl FieldFault {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}
