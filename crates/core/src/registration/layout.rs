//! Where a registration lies in Consul and what its objects look like. Pure.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CheckSpec, Document, Registration, Status};
use crate::Error;
use crate::consul::wire::{AgentService, CheckDefinition, HealthCheck, Meta, Node, Weights};

/// Documents of all instances, one per key.
pub const INSTANCE_PREFIX: &str = "plinth/instances/";
/// Leases of TTL instances: `plinth/leases/<shard 0..63>/<service_id>`, empty keys locked by a session.
pub const LEASE_PREFIX: &str = "plinth/leases/";
/// Written by every deregistration, so that its transaction has an index to wait for (deletes leave none).
pub const LAST_DEREGISTRATION: &str = "plinth/last-deregistration";
/// Node meta that marks a node as ours.
pub const NODE_MARK: (&str, &str) = ("plinth", "true");
/// Service meta that moves the service's index whenever the document's metadata changes.
pub const DOCUMENT_MARK: &str = "plinth_doc";

const SHARDS: u64 = 64;
const MAX_META_PAIRS: usize = 64;
const MAX_META_KEY: usize = 128;
const MAX_META_VALUE: usize = 512;

pub fn node_name(service_id: &str) -> String {
    format!("plinth-{service_id}")
}

pub fn instance_key(service_id: &str) -> String {
    format!("{INSTANCE_PREFIX}{service_id}")
}

/// Id of an instance's check on its node, in Consul's own spelling.
pub fn check_id(service_id: &str) -> String {
    format!("service:{service_id}")
}

pub fn lease_key(service_id: &str) -> String {
    format!("{LEASE_PREFIX}{}/{service_id}", fnv1a(service_id.as_bytes()) % SHARDS)
}

/// The service id in a lease's key.
pub fn lease_holder(key: &str) -> Option<&str> {
    key.strip_prefix(LEASE_PREFIX)?.split_once('/').map(|(_, id)| id)
}

/// Stable over builds and machines, unlike the standard hasher: the keys outlive the process.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(super) fn document_bytes(document: &Document) -> Result<Bytes, Error> {
    serde_json::to_vec(document).map(Bytes::from).map_err(|error| Error::Request(error.to_string()))
}

pub(crate) fn document_from(key: &str, bytes: &[u8]) -> Result<Document, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Document { key: key.to_owned(), source })
}

pub(super) fn node(registration: &Registration) -> Node {
    Node {
        name: node_name(&registration.service_id),
        address: registration.address.clone(),
        meta: Meta::from([(NODE_MARK.0.to_owned(), NODE_MARK.1.to_owned())]),
        ..Node::default()
    }
}

pub(super) fn service(registration: &Registration) -> AgentService {
    AgentService {
        id: registration.service_id.clone(),
        service: registration.service_name.clone(),
        tags: registration.tags.clone(),
        address: registration.address.clone(),
        port: registration.port,
        weights: Weights { passing: registration.weight, warning: registration.weight },
        meta: service_meta(&registration.metadata),
        connect: registration.connect_native.then(|| serde_json::json!({"Native": true})),
        ..AgentService::default()
    }
}

/// Scalars that fit Consul's limits, as text, plus the mark of the whole.
pub(super) fn service_meta(metadata: &Map<String, Value>) -> Meta {
    let mut meta = Meta::new();
    if !metadata.is_empty() {
        meta.insert(DOCUMENT_MARK.to_owned(), fingerprint(metadata));
    }
    for (key, value) in metadata {
        if meta.len() == MAX_META_PAIRS {
            break;
        }
        if let Some(text) = scalar(value)
            && key_fits(key)
            && text.len() <= MAX_META_VALUE
        {
            meta.insert(key.clone(), text);
        }
    }
    meta
}

/// Short hash of the metadata. Keys are sorted first, because the order of a JSON object depends on who parsed it.
pub(crate) fn fingerprint(metadata: &Map<String, Value>) -> String {
    let mut text = String::new();
    write_sorted_map(metadata, &mut text);
    let mut hex = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string();
    hex.truncate(16);
    hex
}

fn write_sorted_map(map: &Map<String, Value>, out: &mut String) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    out.push('{');
    for key in keys {
        out.push_str(&Value::from(key.as_str()).to_string());
        out.push(':');
        if let Some(value) = map.get(key) {
            write_sorted(value, out);
        }
        out.push(',');
    }
    out.push('}');
}

fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => write_sorted_map(map, out),
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn key_fits(key: &str) -> bool {
    (1..=MAX_META_KEY).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !key.starts_with("consul-")
        && key != DOCUMENT_MARK
}

/// The check with its full definition. `notes` is the time of the last transition.
pub(super) fn check(registration: &Registration, state: CheckState) -> HealthCheck {
    HealthCheck {
        node: node_name(&registration.service_id),
        check_id: check_id(&registration.service_id),
        name: format!("{} health ({})", registration.service_name, registration.check.kind()),
        status: state.status.as_str().to_owned(),
        output: state.output,
        notes: state.notes,
        service_id: registration.service_id.clone(),
        service_name: registration.service_name.clone(),
        service_tags: registration.tags.clone(),
        kind: registration.check.kind().to_owned(),
        definition: definition(registration),
        ..HealthCheck::default()
    }
}

/// The part of a check that changes while it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckState {
    pub status: Status,
    pub output: String,
    pub notes: String,
}

/// Consul 1.8 keeps no gRPC and TTL fields here; whoever probes takes the document's check.
fn definition(registration: &Registration) -> CheckDefinition {
    let mut definition = CheckDefinition::default();
    if let Some(timing) = registration.check.timing() {
        definition.interval = Some(timing.interval);
        definition.timeout = Some(timing.timeout);
        definition.deregister_critical_service_after = timing.deregister_after;
    }
    let target = registration.check.target(&registration.address, registration.port).unwrap_or_default();
    match &registration.check {
        CheckSpec::None => {}
        CheckSpec::Ttl { ttl } => definition.ttl = Some(*ttl).filter(|ttl| *ttl > Duration::ZERO),
        CheckSpec::Http { method, headers, tls_skip_verify, .. } => {
            definition.http = target;
            definition.method = method.clone().unwrap_or_default();
            definition.header = headers.clone();
            definition.tls_skip_verify = *tls_skip_verify;
        }
        CheckSpec::Tcp { .. } => definition.tcp = target,
        CheckSpec::Grpc { service, tls, tls_skip_verify, .. } => {
            definition.grpc = if service.is_empty() { target } else { format!("{target}/{service}") };
            definition.grpc_use_tls = *tls;
            definition.tls_skip_verify = *tls_skip_verify;
        }
    }
    definition
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::{DOCUMENT_MARK, lease_holder, lease_key, service_meta};

    fn metadata(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn only_scalars_that_fit_become_meta() {
        let meta = service_meta(&metadata(json!({
            "version": "1.2", "zone": 3, "canary": true, "none": null, "list": [1], "map": {},
            "bad key": "x", "consul-x": "x", "long": "v".repeat(513), DOCUMENT_MARK: "forged",
        })));
        assert_eq!(meta.len(), 4, "{meta:?}");
        assert_eq!(
            (meta["version"].as_str(), meta["zone"].as_str(), meta["canary"].as_str()),
            ("1.2", "3", "true")
        );
        assert_eq!(meta[DOCUMENT_MARK].len(), 16);
        assert!(service_meta(&Map::new()).is_empty());
    }

    #[test]
    fn any_change_of_metadata_shows_in_the_mark() {
        let mark = |value| service_meta(&metadata(value))[DOCUMENT_MARK].clone();
        assert_eq!(mark(json!({"a": [1, 2]})), mark(json!({"a": [1, 2]})));
        assert_ne!(mark(json!({"a": [1, 2]})), mark(json!({"a": [2, 1]})));
    }

    #[test]
    fn never_more_pairs_than_consul_takes() {
        let many: Map<String, Value> = (0..100).map(|n| (format!("k{n}"), json!(n))).collect();
        assert_eq!(service_meta(&many).len(), 64);
    }

    proptest! {
        #[test]
        fn a_lease_key_gives_its_holder_back(id in "[a-z/:.]{1,30}") {
            let key = lease_key(&id);
            prop_assert_eq!(lease_holder(&key), Some(id.as_str()));
        }
    }
}
