//! What readers get.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::health::Status;

/// All service names of the catalog with the tags of their instances.
#[derive(Debug, Clone)]
pub struct ServiceList {
    pub names: BTreeMap<String, Vec<String>>,
    pub index: u64,
    /// When Consul last confirmed this.
    pub fetched: Instant,
}

impl ServiceList {
    pub fn age(&self) -> Duration {
        self.fetched.elapsed()
    }
}

/// All instances of one service at one index, whatever their health.
#[derive(Debug, Clone)]
pub struct ServiceSnapshot {
    pub name: String,
    pub index: u64,
    /// Ordered by service id.
    pub instances: Vec<Instance>,
    /// When Consul last confirmed this.
    pub fetched: Instant,
}

impl ServiceSnapshot {
    /// A watched service is confirmed at least every 35 s; more means that Consul cannot be reached.
    pub fn age(&self) -> Duration {
        self.fetched.elapsed()
    }

    pub fn passing(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.status == Status::Passing)
    }
}

/// One instance, from the catalog and (for Plinth's own registrations) its document.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub service_id: String,
    pub service_name: String,
    pub node: String,
    /// The service's address, else its node's.
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    /// The document's metadata; of other registrations the service meta as strings.
    pub metadata: Map<String, Value>,
    pub weight: u32,
    /// The worst of all checks; none at all is passing.
    pub status: Status,
    pub checks: Vec<CheckView>,
    /// Registered by Plinth, whose aggregator owns its health.
    pub plinth: bool,
    /// Modify index of the service in the catalog.
    pub modify_index: u64,
    /// Last transition of the check.
    pub last_check: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckView {
    pub id: String,
    pub name: String,
    pub status: Status,
    pub output: String,
}
