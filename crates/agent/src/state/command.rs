//! Everything that can change the state, as values: what is written to the log is what is applied, so a
//! replay of the log gives the same state.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ca::{Root, Settings};
use super::config::ConfigEntry;
use super::coordinates::Coordinate;
use super::image::Record;
use super::intentions::Intention;
use super::local::{LocalCheck, LocalService};
use super::model::{Check, Node, Service, Session, base64_bytes};
use super::queries::PreparedQuery;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    KvSet {
        key: String,
        #[serde(with = "base64_bytes")]
        value: Bytes,
        flags: u64,
        mode: SetMode,
    },
    KvDelete {
        key: String,
        mode: DeleteMode,
    },
    Register(Box<Registration>),
    Deregister {
        node: String,
        target: Target,
    },
    SessionCreate(Box<Session>),
    /// `expired` is true when the agent ended it because its time ran out.
    SessionDestroy {
        id: String,
        expired: bool,
    },
    Txn(Vec<TxnOp>),
    /// Registration with this agent: the agent's own table and the catalog change together.
    AgentService {
        node: String,
        service: Box<LocalService>,
        checks: Vec<LocalCheck>,
        replace_checks: bool,
    },
    AgentServiceRemove {
        node: String,
        id: String,
    },
    AgentCheck {
        node: String,
        check: Box<LocalCheck>,
    },
    AgentCheckRemove {
        node: String,
        id: String,
    },
    AgentCheckStatus {
        node: String,
        id: String,
        status: String,
        output: String,
    },
    /// Brings outputs that changed without a change of status into the catalog.
    AgentOutputs {
        node: String,
    },
    QuerySet(Box<PreparedQuery>),
    QueryRemove {
        id: String,
    },
    ConfigSet {
        entry: Box<ConfigEntry>,
        /// Only when the entry has this index; 0: when there is none.
        cas: Option<u64>,
    },
    ConfigRemove {
        kind: String,
        name: String,
    },
    IntentionSet(Box<Intention>),
    IntentionRemove {
        id: String,
    },
    /// Sets up or configures the certificate authority; a root becomes the active one.
    CaSet {
        cluster: String,
        settings: Box<Settings>,
        root: Option<Box<Root>>,
    },
    /// Takes a serial number.
    CaSerial,
    CaForgetRoot {
        id: String,
    },
    CoordinateSet(Box<Coordinate>),
    /// Another state in the place of this one: what a snapshot holds.
    Restore(Vec<Record>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetMode {
    Plain,
    Cas(u64),
    Acquire(String),
    Release(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeleteMode {
    One,
    Cas(u64),
    Prefix,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    pub node: Node,
    pub skip_node_update: bool,
    pub service: Option<Service>,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Node,
    Service(String),
    Check(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TxnOp {
    Kv {
        verb: String,
        key: String,
        #[serde(with = "base64_bytes")]
        value: Bytes,
        flags: u64,
        index: u64,
        session: String,
    },
    Node {
        verb: String,
        node: Box<Node>,
    },
    Service {
        verb: String,
        node: String,
        service: Box<Service>,
    },
    Check {
        verb: String,
        check: Box<Check>,
    },
}

impl TxnOp {
    /// Whether a transaction of such operations only needs a snapshot.
    pub fn reads_only(&self) -> bool {
        match self {
            TxnOp::Kv { verb, .. } => !matches!(
                verb.as_str(),
                "set" | "cas" | "lock" | "unlock" | "delete" | "delete-cas" | "delete-tree"
            ),
            TxnOp::Node { verb, .. } | TxnOp::Service { verb, .. } | TxnOp::Check { verb, .. } => {
                verb == "get"
            }
        }
    }
}
