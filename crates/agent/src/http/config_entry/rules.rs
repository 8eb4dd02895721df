//! What an entry must keep to beyond its shape.

use serde_json::{Map, Value};

use crate::schema::time_text;
use crate::state::config::ConfigEntry;

pub type Verdict = Result<(), String>;

pub fn text<'a>(map: &'a Value, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub fn list<'a>(map: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Fills in what Consul fills in.
pub fn normalize(entry: &mut ConfigEntry) {
    match entry.kind.as_str() {
        "proxy-defaults" => "global".clone_into(&mut entry.name),
        "service-router" => {
            for route in entry.fields.get_mut("Routes").and_then(Value::as_array_mut).into_iter().flatten() {
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
        "service-defaults" => {
            if let Some(Value::String(protocol)) = entry.fields.get_mut("Protocol") {
                *protocol = protocol.to_lowercase();
            }
        }
        "ingress-gateway" => {
            for listener in
                entry.fields.get_mut("Listeners").and_then(Value::as_array_mut).into_iter().flatten()
            {
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
        "service-router" => router(&entry.fields),
        "service-splitter" => splitter(&entry.fields),
        "service-resolver" => resolver(&entry.fields),
        "ingress-gateway" => ingress(&entry.fields),
        "terminating-gateway" => terminating(&entry.fields),
        _ => Ok(()),
    }
}

fn router(fields: &Map<String, Value>) -> Verdict {
    for (at, route) in list(fields, "Routes").iter().enumerate() {
        let Some(http) = route.get("Match").and_then(|m| m.get("HTTP")) else { continue };
        let paths = ["PathExact", "PathPrefix", "PathRegex"];
        if paths.iter().filter(|name| !text(http, name).is_empty()).count() > 1 {
            return Err(format!(
                "Route[{at}] should only contain at most one of PathExact, PathPrefix, or PathRegex"
            ));
        }
        for name in ["PathExact", "PathPrefix"] {
            let path = text(http, name);
            if !path.is_empty() && !path.starts_with('/') {
                return Err(format!("Route[{at}] {name} doesn't start with '/': {path:?}"));
            }
        }
        let parts = [("Header", "Header"), ("QueryParam", "QueryParam")];
        for (name, shown) in parts {
            let all = http.get(name).and_then(Value::as_array).into_iter().flatten();
            for (n, part) in all.enumerate() {
                if text(part, "Name").is_empty() {
                    return Err(format!("Route[{at}] {shown}[{n}] missing required Name field"));
                }
            }
        }
    }
    Ok(())
}

fn splitter(fields: &Map<String, Value>) -> Verdict {
    let splits = list(fields, "Splits");
    if splits.is_empty() {
        return Err("no splits configured".to_owned());
    }
    let weight = |split: &Value| split.get("Weight").and_then(Value::as_f64).unwrap_or(0.0);
    let hundredths: i64 = splits.iter().map(|split| (weight(split) * 100.0).round() as i64).sum();
    let mut seen = std::collections::BTreeSet::new();
    for split in splits {
        if !seen.insert((text(split, "Service"), text(split, "ServiceSubset"), text(split, "Namespace"))) {
            return Err("split destination occurs more than once: ".to_owned()
                + &format!(
                    "service={:?}, subset={:?}",
                    text(split, "Service"),
                    text(split, "ServiceSubset")
                ));
        }
    }
    if hundredths != 10_000 {
        return Err(format!(
            "the sum of all split weights must be 100, not {:.6}",
            hundredths as f64 / 100.0
        ));
    }
    Ok(())
}

fn resolver(fields: &Map<String, Value>) -> Verdict {
    let subsets = fields.get("Subsets").and_then(Value::as_object);
    let has = |name: &str| subsets.is_some_and(|all| all.contains_key(name));
    if subsets.is_some_and(|all| all.contains_key("")) {
        return Err("Subset defined with empty name".to_owned());
    }
    let default = fields.get("DefaultSubset").and_then(Value::as_str).unwrap_or_default();
    if !default.is_empty() && !has(default) {
        return Err(format!("DefaultSubset {default:?} is not a valid subset"));
    }
    if let Some(redirect) = fields.get("Redirect") {
        if redirect.as_object().is_none_or(|map| map.values().all(|v| v.as_str() == Some(""))) {
            return Err("Redirect is empty".to_owned());
        }
        if text(redirect, "Service").is_empty() {
            if !text(redirect, "ServiceSubset").is_empty() {
                return Err("Redirect.ServiceSubset defined without Redirect.Service".to_owned());
            }
            if !text(redirect, "Namespace").is_empty() {
                return Err("Redirect.Namespace defined without Redirect.Service".to_owned());
            }
        }
        let own = text(redirect, "ServiceSubset");
        if !own.is_empty() && text(redirect, "Service").is_empty() && !has(own) {
            return Err(format!(
                "Redirect.ServiceSubset {own:?} is not a valid subset of the resolved service"
            ));
        }
    }
    for (subset, failover) in fields.get("Failover").and_then(Value::as_object).into_iter().flatten() {
        if subset != "*" && !has(subset) {
            return Err(format!("Bad Failover[{subset:?}]: not a valid subset"));
        }
        let somewhere =
            ["Service", "ServiceSubset", "Namespace"].iter().any(|n| !text(failover, n).is_empty());
        let elsewhere = failover.get("Datacenters").and_then(Value::as_array).is_some_and(|d| !d.is_empty());
        if !somewhere && !elsewhere {
            return Err(format!(
                "Bad Failover[{subset:?}] one of Service, ServiceSubset, Namespace, or Datacenters is required"
            ));
        }
    }
    match fields.get("ConnectTimeout").and_then(Value::as_i64) {
        Some(nanos) if nanos < 0 => Err(format!("Bad ConnectTimeout '{}', must be >= 0", time_text(nanos))),
        _ => Ok(()),
    }
}

fn ingress(fields: &Map<String, Value>) -> Verdict {
    let mut ports = std::collections::BTreeSet::new();
    for listener in list(fields, "Listeners") {
        let port = listener.get("Port").and_then(Value::as_i64).unwrap_or(0);
        if !ports.insert(port) {
            return Err(format!("port {port} declared on two listeners"));
        }
        let protocol = text(listener, "Protocol");
        if !matches!(protocol, "tcp" | "http" | "http2" | "grpc") {
            return Err(format!(
                "protocol must be 'tcp', 'http', 'http2', or 'grpc'. '{protocol}' is an unsupported protocol"
            ));
        }
        let services =
            listener.get("Services").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for service in services {
            let name = text(service, "Name");
            if name == "*" && protocol != "http" {
                return Err(format!(
                    "Wildcard service name is only valid for protocol = 'http' (listener on port {port})"
                ));
            }
            if name.is_empty() {
                return Err(format!("Service name cannot be blank (listener on port {port})"));
            }
            let hosts = service.get("Hosts").and_then(Value::as_array).is_some_and(|hosts| !hosts.is_empty());
            if protocol == "tcp" && hosts {
                return Err(format!(
                    "Associating hosts to a service is not supported for the tcp protocol (listener on port {port})"
                ));
            }
            if name == "*" && hosts {
                return Err("Associating hosts to a wildcard service is not supported (listener on port "
                    .to_owned()
                    + &format!("{port})"));
            }
        }
        match services.len() {
            0 => return Err(format!("No service declared for listener with port {port}")),
            1 => {}
            _ if protocol == "tcp" => {
                return Err(format!(
                    "Multiple services per listener are only supported for protocol = 'http' (listener on port {port})"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn terminating(fields: &Map<String, Value>) -> Verdict {
    let mut seen = std::collections::BTreeSet::new();
    for service in list(fields, "Services") {
        let name = text(service, "Name");
        if name.is_empty() {
            return Err("Service name cannot be blank.".to_owned());
        }
        if !seen.insert(name) {
            return Err(format!("Service {name:?} was specified more than once within a namespace"));
        }
        let [ca, certificate, key] =
            ["CAFile", "CertFile", "KeyFile"].map(|file| !text(service, file).is_empty());
        if (certificate || key) && !(ca && certificate && key) {
            return Err(format!(
                "Service {name:?} must have a CertFile, CAFile, and KeyFile specified for TLS origination"
            ));
        }
    }
    Ok(())
}
