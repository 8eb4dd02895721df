use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{AgentService, HealthCheck, KvPair, Node, base64_bytes, is_zero, or_default};
use crate::error::TxnFailure;

/// One operation of a transaction; at most 64 of them go together.
#[allow(clippy::large_enum_variant, reason = "at most 64 live together, and only for one request")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnOp {
    KV(KvOp),
    Node(NodeOp),
    Service(ServiceOp),
    Check(CheckOp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvVerb {
    Set,
    Cas,
    Lock,
    Unlock,
    Get,
    GetTree,
    CheckIndex,
    CheckSession,
    CheckNotExists,
    Delete,
    DeleteTree,
    DeleteCas,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KvOp {
    pub verb: KvVerb,
    pub key: String,
    #[serde(default, with = "base64_bytes", skip_serializing_if = "Bytes::is_empty")]
    pub value: Bytes,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub flags: u64,
    /// For `cas` (0: only if missing), `check-index` and `delete-cas`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub index: u64,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub session: String,
}

impl KvOp {
    pub fn new(verb: KvVerb, key: impl Into<String>) -> Self {
        Self { verb, key: key.into(), value: Bytes::new(), flags: 0, index: 0, session: String::new() }
    }
}

/// Verbs of node operations; `*-cas` compare the `modify_index` inside the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeVerb {
    Get,
    Set,
    Cas,
    Delete,
    DeleteCas,
}

pub type ServiceVerb = NodeVerb;
pub type CheckVerb = NodeVerb;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeOp {
    pub verb: NodeVerb,
    pub node: Node,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceOp {
    pub verb: ServiceVerb,
    /// Name of the node the service is on.
    pub node: String,
    pub service: AgentService,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckOp {
    pub verb: CheckVerb,
    /// Names its node itself.
    pub check: HealthCheck,
}

impl TxnOp {
    pub fn kv_get(key: impl Into<String>) -> Self {
        Self::KV(KvOp::new(KvVerb::Get, key))
    }

    /// Writes only if the key's modify index is `index` (0: only if the key is missing).
    pub fn kv_cas(key: impl Into<String>, value: Bytes, index: u64) -> Self {
        Self::KV(KvOp { value, index, ..KvOp::new(KvVerb::Cas, key) })
    }

    pub fn kv_set(key: impl Into<String>, value: Bytes) -> Self {
        Self::KV(KvOp { value, ..KvOp::new(KvVerb::Set, key) })
    }

    pub fn kv_delete_cas(key: impl Into<String>, index: u64) -> Self {
        Self::KV(KvOp { index, ..KvOp::new(KvVerb::DeleteCas, key) })
    }

    pub fn node(verb: NodeVerb, node: Node) -> Self {
        Self::Node(NodeOp { verb, node })
    }

    pub fn service(verb: ServiceVerb, node: impl Into<String>, service: AgentService) -> Self {
        Self::Service(ServiceOp { verb, node: node.into(), service })
    }

    pub fn check(verb: CheckVerb, check: HealthCheck) -> Self {
        Self::Check(CheckOp { verb, check })
    }
}

/// What one operation left behind; deletes leave nothing, so results need not line up with operations.
#[allow(clippy::large_enum_variant, reason = "at most 64 live together, and only for one request")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnResult {
    KV(KvPair),
    Node(Node),
    Service(AgentService),
    Check(HealthCheck),
}

impl TxnResult {
    pub fn modify_index(&self) -> u64 {
        match self {
            Self::KV(pair) => pair.modify_index,
            Self::Node(node) => node.modify_index,
            Self::Service(service) => service.modify_index,
            Self::Check(check) => check.modify_index,
        }
    }
}

/// The whole answer, of a committed (200) and a rolled back (409) transaction alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TxnAnswer {
    #[serde(deserialize_with = "or_default")]
    pub results: Vec<TxnResult>,
    #[serde(deserialize_with = "or_default")]
    pub errors: Vec<TxnFailure>,
}
