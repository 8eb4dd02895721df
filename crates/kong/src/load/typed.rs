//! From validated maps to the model's types.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::Item;
use crate::Fault;
use crate::model::{Config, Plugin, Protocol, Target, Upstream, reference};
use crate::node::Node;
use crate::plugins::{self, Lookup};

type Items = IndexMap<&'static str, Vec<Item>>;

/// # Errors
/// A table that lets through what its type does not hold; the fault says where.
pub(super) fn build(mut items: Items, format_version: String, transform: bool) -> Result<Config, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut upstreams = collection(&mut items, "upstreams", &mut faults);
    place_targets(&mut upstreams, collection(&mut items, "targets", &mut faults));
    let config = Config {
        format_version,
        transform,
        services: collection(&mut items, "services", &mut faults),
        routes: collection(&mut items, "routes", &mut faults),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
        consumers: collection(&mut items, "consumers", &mut faults),
        plugins: plugins(&mut items, &mut faults),
        certificates: collection(&mut items, "certificates", &mut faults),
        snis: collection(&mut items, "snis", &mut faults),
        ca_certificates: collection(&mut items, "ca_certificates", &mut faults),
        jwt_secrets: collection(&mut items, "jwt_secrets", &mut faults),
        keyauth_credentials: collection(&mut items, "keyauth_credentials", &mut faults),
        basicauth_credentials: collection(&mut items, "basicauth_credentials", &mut faults),
        hmacauth_credentials: collection(&mut items, "hmacauth_credentials", &mut faults),
        acls: collection(&mut items, "acls", &mut faults),
    };
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

#[derive(Deserialize)]
struct PlacedTarget {
    #[serde(with = "reference::required")]
    upstream: Uuid,
    #[serde(flatten)]
    target: Target,
}

fn place_targets(upstreams: &mut [Upstream], targets: Vec<PlacedTarget>) {
    let mut by_id: HashMap<Uuid, &mut Vec<Target>> =
        upstreams.iter_mut().map(|upstream| (upstream.id, &mut upstream.targets)).collect();
    for placed in targets {
        // The reference was resolved, so the upstream is there.
        if let Some(list) = by_id.get_mut(&placed.upstream) {
            list.push(placed.target);
        }
    }
}

fn collection<T: DeserializeOwned>(items: &mut Items, name: &'static str, faults: &mut Vec<Fault>) -> Vec<T> {
    let mut list = Vec::new();
    for item in items.swap_remove(name).unwrap_or_default() {
        match serde_json::from_value(Node::Map(item.map).into_json()) {
            Ok(entity) => list.push(entity),
            Err(error) => faults.push(Fault { path: item.path, message: error.to_string() }),
        }
    }
    list
}

/// All of a plugin but its configuration.
#[derive(Deserialize)]
struct Head {
    id: Uuid,
    name: String,
    instance_name: Option<String>,
    #[serde(with = "reference")]
    service: Option<Uuid>,
    #[serde(with = "reference")]
    route: Option<Uuid>,
    #[serde(with = "reference")]
    consumer: Option<Uuid>,
    enabled: bool,
    protocols: Vec<Protocol>,
    tags: Option<Vec<String>>,
    config: Value,
}

fn plugins(items: &mut Items, faults: &mut Vec<Fault>) -> Vec<Plugin> {
    let mut list = Vec::new();
    for item in items.swap_remove("plugins").unwrap_or_default() {
        match plugin(Node::Map(item.map).into_json()) {
            Ok(plugin) => list.push(plugin),
            Err(message) => faults.push(Fault { path: item.path, message }),
        }
    }
    list
}

fn plugin(value: Value) -> Result<Plugin, String> {
    let head: Head = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let schema = match plugins::lookup(&head.name) {
        Lookup::Supported(schema) => schema,
        Lookup::Refused(message) => return Err(message),
    };
    let config = (schema.build)(head.config).map_err(|error| error.to_string())?;
    Ok(Plugin {
        id: head.id,
        name: head.name,
        instance_name: head.instance_name,
        service: head.service,
        route: head.route,
        consumer: head.consumer,
        enabled: head.enabled,
        protocols: head.protocols,
        tags: head.tags.unwrap_or_default(),
        config,
    })
}
