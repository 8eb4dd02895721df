//! What readers see of an instance, and the encoding of a whole answer.

use bytes::Bytes;
use jiff::Timestamp;
use plinth_core::discovery::{Instance, ServiceSnapshot};
use plinth_core::registration::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::probed::Probed;
use super::selection::Filter;

/// The standing of an instance as callers are told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Every check passes.
    Healthy,
    /// At least one check warns, none is critical.
    Unhealthy,
    /// A check is critical, or the instance is in maintenance.
    Critical,
}

impl Standing {
    pub fn of(status: Status) -> Self {
        match status {
            Status::Passing => Self::Healthy,
            Status::Warning => Self::Unhealthy,
            Status::Critical => Self::Critical,
        }
    }
}

/// One instance in the answer of discover.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundInstance<'a> {
    #[schema(example = "user-service-1")]
    pub service_id: &'a str,
    /// IPv4 or IPv6 address (without brackets) or host name.
    #[schema(example = "10.0.3.17")]
    pub address: &'a str,
    #[schema(example = 8001, minimum = 1)]
    pub port: u16,
    pub status: Standing,
    /// When it was last probed, else when its status last changed; null when neither is known (an instance that
    /// another Consul agent checks).
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_check: Option<Timestamp>,
    /// The metadata object exactly as registered.
    #[schema(value_type = Object)]
    pub metadata: &'a Map<String, Value>,
    pub tags: &'a [String],
    /// Share of the traffic relative to the other instances.
    #[schema(example = 1)]
    pub weight: u32,
}

/// The answer of discover.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundService<'a> {
    #[schema(example = "user-service")]
    pub service_name: &'a str,
    pub services: Vec<FoundInstance<'a>>,
}

/// Encodes what `filter` admits of `snapshot`. An empty list is an answer: instances exist, none is wanted.
///
/// # Errors
/// None in practice: every part is plain text, numbers and JSON values. The signature is the encoder's.
pub fn encode(
    snapshot: &ServiceSnapshot,
    filter: &Filter,
    probed: &Probed,
) -> Result<Bytes, serde_json::Error> {
    let services = snapshot.instances.iter().filter(|instance| filter.admits(instance));
    let found = FoundService {
        service_name: &snapshot.name,
        services: services.map(|instance| found_instance(instance, probed)).collect(),
    };
    serde_json::to_vec(&found).map(Bytes::from)
}

fn found_instance<'a>(instance: &'a Instance, probed: &Probed) -> FoundInstance<'a> {
    FoundInstance {
        service_id: &instance.service_id,
        address: &instance.address,
        port: instance.port,
        status: Standing::of(instance.status),
        last_check: probed.last_check(&instance.service_id).max(instance.last_check),
        metadata: &instance.metadata,
        tags: &instance.tags,
        weight: instance.weight,
    }
}
