//! What an entry must keep to beyond its shape.

use serde_json::{Map, Value};

use crate::state::config::ConfigEntry;

mod gateways;
mod routing;

pub type Verdict = Result<(), String>;

pub fn text<'a>(map: &'a Value, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub fn list<'a>(map: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The objects of a list that an object has.
fn items<'a>(map: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    map.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn items_mut<'a>(fields: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Value> {
    fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Fills in what Consul fills in.
pub fn normalize(entry: &mut ConfigEntry) {
    match entry.kind.as_str() {
        "proxy-defaults" => "global".clone_into(&mut entry.name),
        "service-router" => {
            for route in items_mut(&mut entry.fields, "Routes") {
                // Consul does it only for routes that name methods
                let http = route.get("Match").and_then(|matched| matched.get("HTTP"));
                let methods = http.and_then(|http| http.get("Methods")).and_then(Value::as_array);
                if methods.is_none_or(|methods| methods.is_empty()) {
                    continue;
                }
                if let Some(Value::Object(destination)) = route.get_mut("Destination") {
                    destination.entry("Namespace").or_insert_with(|| Value::from("default"));
                }
            }
        }
        "service-splitter" => {
            for split in items_mut(&mut entry.fields, "Splits").filter_map(Value::as_object_mut) {
                if let Some(weight) = split.get_mut("Weight") {
                    *weight = routing::to_hundredths(weight);
                }
            }
        }
        "service-defaults" => {
            if let Some(Value::String(protocol)) = entry.fields.get_mut("Protocol") {
                *protocol = protocol.to_lowercase();
            }
        }
        "ingress-gateway" => {
            for listener in items_mut(&mut entry.fields, "Listeners") {
                let Some(listener) = listener.as_object_mut() else { continue };
                let protocol = listener.entry("Protocol").or_insert_with(|| Value::from("tcp"));
                if let Value::String(protocol) = protocol {
                    *protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
                }
            }
        }
        _ => {}
    }
}

/// The entry by itself.
pub fn check(entry: &ConfigEntry) -> Verdict {
    if entry.name.is_empty() {
        let what = if entry.kind == "service-defaults" { "serviceName" } else { "Name" };
        return Err(format!("{what} is required"));
    }
    match entry.kind.as_str() {
        "service-router" => routing::router(&entry.fields),
        "service-splitter" => routing::splitter(entry),
        "service-resolver" => routing::resolver(entry),
        "ingress-gateway" => gateways::ingress(&entry.fields),
        "terminating-gateway" => gateways::terminating(&entry.fields),
        _ => Ok(()),
    }
}
