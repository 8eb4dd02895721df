use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Meta, is_false, is_zero, or_default};
use crate::consul::duration;

/// A catalog node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    #[serde(rename = "ID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The node's name.
    #[serde(rename = "Node", deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: Meta,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: Meta,
    #[serde(skip_serializing_if = "is_zero")]
    pub create_index: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub modify_index: u64,
}

/// Weights that DNS and our balancer use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    pub passing: u32,
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceAddress {
    pub address: String,
    pub port: u16,
}

/// A service instance, as in `agent/services`, `health/service` and transactions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentService {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    /// The service's name.
    #[serde(rename = "Service", deserialize_with = "or_default")]
    pub service: String,
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    #[serde(deserialize_with = "or_default")]
    pub meta: Meta,
    #[serde(deserialize_with = "or_default")]
    pub port: u16,
    #[serde(deserialize_with = "or_default")]
    pub weights: Weights,
    #[serde(deserialize_with = "or_default")]
    pub enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Value>,
    #[serde(skip_serializing_if = "is_zero")]
    pub create_index: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub modify_index: u64,
}

impl AgentService {
    /// Takes the service mesh's connections itself.
    pub fn is_connect_native(&self) -> bool {
        self.connect.as_ref().and_then(|connect| connect.get("Native")) == Some(&Value::Bool(true))
    }
}

/// How a check is run. Consul 1.8 keeps HTTP, TCP and times and silently drops gRPC and TTL fields of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckDefinition {
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub deregister_critical_service_after: Option<Duration>,
    #[serde(rename = "HTTP", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub http: String,
    #[serde(
        rename = "TLSServerName",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub tls_server_name: String,
    #[serde(rename = "TLSSkipVerify", deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, Vec<String>>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub body: String,
    #[serde(rename = "TCP", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub tcp: String,
    #[serde(rename = "GRPC", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub grpc: String,
    #[serde(rename = "GRPCUseTLS", deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub grpc_use_tls: bool,
    #[serde(rename = "TTL", with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// A check and its state (`passing`, `warning`, `critical`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    #[serde(deserialize_with = "or_default")]
    pub node: String,
    #[serde(rename = "CheckID", deserialize_with = "or_default")]
    pub check_id: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub notes: String,
    #[serde(deserialize_with = "or_default")]
    pub output: String,
    #[serde(rename = "ServiceID", deserialize_with = "or_default")]
    pub service_id: String,
    #[serde(deserialize_with = "or_default")]
    pub service_name: String,
    #[serde(deserialize_with = "or_default")]
    pub service_tags: Vec<String>,
    #[serde(rename = "Type", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub definition: CheckDefinition,
    #[serde(skip_serializing_if = "is_zero")]
    pub create_index: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub modify_index: u64,
}

/// One instance with its node and checks (`health/service/:name`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceEntry {
    pub node: Node,
    pub service: AgentService,
    #[serde(deserialize_with = "or_default")]
    pub checks: Vec<HealthCheck>,
}

/// One instance, flat (`catalog/service/:name`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogService {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub node_id: String,
    #[serde(deserialize_with = "or_default")]
    pub node: String,
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    #[serde(deserialize_with = "or_default")]
    pub datacenter: String,
    #[serde(deserialize_with = "or_default")]
    pub tagged_addresses: Meta,
    #[serde(deserialize_with = "or_default")]
    pub node_meta: Meta,
    #[serde(deserialize_with = "or_default")]
    pub service_kind: String,
    #[serde(rename = "ServiceID", deserialize_with = "or_default")]
    pub service_id: String,
    #[serde(deserialize_with = "or_default")]
    pub service_name: String,
    #[serde(deserialize_with = "or_default")]
    pub service_tags: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub service_address: String,
    #[serde(deserialize_with = "or_default")]
    pub service_meta: Meta,
    #[serde(deserialize_with = "or_default")]
    pub service_port: u16,
    #[serde(deserialize_with = "or_default")]
    pub service_weights: Weights,
    pub create_index: u64,
    pub modify_index: u64,
}

/// A node with its services (`catalog/node/:name`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogNode {
    pub node: Node,
    #[serde(deserialize_with = "or_default")]
    pub services: BTreeMap<String, AgentService>,
}

/// Body of `catalog/register`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogRegistration {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    #[serde(rename = "ID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(deserialize_with = "or_default")]
    pub node: String,
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: Meta,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub node_meta: Meta,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<AgentService>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<HealthCheck>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub skip_node_update: bool,
}

/// Body of `catalog/deregister`: a whole node, one of its services, or one check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogDeregistration {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    #[serde(deserialize_with = "or_default")]
    pub node: String,
    #[serde(rename = "ServiceID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    #[serde(rename = "CheckID", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub check_id: String,
}
