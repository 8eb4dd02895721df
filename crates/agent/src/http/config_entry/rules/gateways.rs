//! Entries of gateways. What is wrong is said in Consul's order.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Verdict, items, list, text};

/// The longest name in DNS with the lengths of its labels, and the longest label.
const LONGEST_HOST: usize = 255;
const LONGEST_LABEL: usize = 63;

pub(super) fn ingress(fields: &Map<String, Value>) -> Verdict {
    let tls = fields.get("TLS").and_then(|tls| tls.get("Enabled")).and_then(Value::as_bool);
    let mut ports = BTreeSet::new();
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
        match items(listener, "Services").count() {
            0 => return Err(format!("No service declared for listener with port {port}")),
            2.. if protocol != "http" => {
                return Err(format!(
                    "Multiple services per listener are only supported for protocol = 'http' (listener on port {port})"
                ));
            }
            _ => {}
        }
        let mut hosts = BTreeSet::new();
        for service in items(listener, "Services") {
            exposed(port, protocol, service)?;
            for given in items(service, "Hosts").filter_map(Value::as_str) {
                if !hosts.insert(given) {
                    return Err(format!(
                        "Hosts must be unique within a specific listener (listener on port {port})"
                    ));
                }
                host(given, tls.unwrap_or(false))?;
            }
        }
    }
    Ok(())
}

fn exposed(port: i64, protocol: &str, service: &Value) -> Verdict {
    let name = text(service, "Name");
    let hosts = items(service, "Hosts").next().is_some();
    if protocol == "tcp" && name == "*" {
        return Err(format!(
            "Wildcard service name is only valid for protocol = 'http' (listener on port {port})"
        ));
    }
    if protocol == "tcp" && hosts {
        return Err(format!(
            "Associating hosts to a service is not supported for the tcp protocol (listener on port {port})"
        ));
    }
    if name.is_empty() {
        return Err(format!("Service name cannot be blank (listener on port {port})"));
    }
    if name == "*" && hosts {
        return Err(format!(
            "Associating hosts to a wildcard service is not supported (listener on port {port})"
        ));
    }
    Ok(())
}

fn host(given: &str, tls: bool) -> Verdict {
    if given == "*" {
        return if tls {
            Err("Host '*' is not allowed when TLS is enabled, all hosts must be valid DNS records to add as a DNSSAN".to_owned())
        } else {
            Ok(())
        };
    }
    if !is_domain_name(given) {
        return Err(format!("Host {given:?} must be a valid DNS hostname"));
    }
    if given.strip_prefix("*.").unwrap_or(given).contains('*') {
        return Err(format!(
            "Host {given:?} is not valid, a wildcard specifier is only allowed as the leftmost label"
        ));
    }
    Ok(())
}

/// Only what no packet could hold is none.
fn is_domain_name(name: &str) -> bool {
    let plain = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| (1..=LONGEST_LABEL).contains(&label.len());
    name == "." || (plain.len() + 2 <= LONGEST_HOST && plain.split('.').all(fits))
}

pub(super) fn terminating(fields: &Map<String, Value>) -> Verdict {
    let mut seen = BTreeSet::new();
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
