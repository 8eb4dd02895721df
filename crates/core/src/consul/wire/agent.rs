use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Meta, ServiceAddress, Weights, is_false, or_default};
use crate::consul::duration;

/// Body of `agent/service/register`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentServiceRegistration {
    /// Empty: the name.
    #[serde(rename = "ID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub address: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    #[serde(deserialize_with = "or_default")]
    pub port: u16,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: Meta,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<AgentCheckDefinition>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<AgentCheckDefinition>,
}

/// A check the agent shall run, inside a service registration or (with `service_id`) on its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentCheckDefinition {
    #[serde(rename = "ID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(rename = "CheckID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub check_id: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "ServiceID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub notes: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(rename = "TTL", with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    #[serde(rename = "HTTP", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub http: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, Vec<String>>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub body: String,
    #[serde(rename = "TCP", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub tcp: String,
    #[serde(rename = "GRPC", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub grpc: String,
    #[serde(rename = "GRPCUseTLS", deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub grpc_use_tls: bool,
    #[serde(rename = "TLSSkipVerify", deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub deregister_critical_service_after: Option<Duration>,
}

/// Body of `agent/check/update/:id`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckUpdate {
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub output: String,
}

/// `agent/self`, the parts clients look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentSelf {
    /// Datacenter, NodeName, NodeID, Revision, Server, Version.
    #[serde(deserialize_with = "or_default")]
    pub config: BTreeMap<String, Value>,
    #[serde(deserialize_with = "or_default")]
    pub meta: Meta,
    /// The settings in force, by Consul's internal names.
    #[serde(deserialize_with = "or_default")]
    pub debug_config: BTreeMap<String, Value>,
}

impl AgentSelf {
    /// The server's version, for example `1.8.7`.
    pub fn version(&self) -> &str {
        self.config.get("Version").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn datacenter(&self) -> &str {
        self.config.get("Datacenter").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn node_name(&self) -> &str {
        self.config.get("NodeName").and_then(Value::as_str).unwrap_or_default()
    }
}
