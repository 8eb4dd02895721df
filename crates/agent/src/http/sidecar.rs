//! Proxies of the mesh: what a service of such a kind must have, and the sidecar that a registration may bring along.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Server;
use super::agent::{check_service, finish_service};
use super::decode::{self, AgentCheck, Fields, Form, Malformed};
use super::reply::Reply;
use crate::state::local::LocalCheck;
use crate::state::model::{Definition, Service};

/// Ports for sidecars that name none.
const PORTS: std::ops::RangeInclusive<i64> = 21_000..=21_255;
const CHECK_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What a proxy or gateway must have; the text lists all that is missing.
pub fn check_kind(service: &Service) -> Result<(), String> {
    let mut faults = Vec::new();
    let destination = service.proxy.text("DestinationServiceName");
    match service.kind.as_str() {
        "connect-proxy" => {
            if destination.is_empty() {
                faults.push(
                    "Proxy.DestinationServiceName must be non-empty for Connect proxy services".to_owned(),
                );
            }
            if destination == "*" {
                faults.push(
                    "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services"
                        .to_owned(),
                );
            }
            if service.port == 0 {
                faults.push("Port must be set for a Connect proxy".to_owned());
            }
            if service.connect.contains_key("Native") {
                faults.push("A Proxy cannot also be Connect Native, only typical services".to_owned());
            }
            check_upstreams(service, &mut faults);
        }
        kind @ ("mesh-gateway" | "terminating-gateway" | "ingress-gateway") => {
            if kind != "ingress-gateway" && service.port == 0 {
                faults.push(format!("Port must be non-zero for a {kind}"));
            }
            for name in ["DestinationServiceName", "DestinationServiceID", "LocalServiceAddress"] {
                if !service.proxy.text(name).is_empty() {
                    faults.push(format!("The Proxy.{name} configuration is invalid for a {kind}"));
                }
            }
            if service.proxy.fields.get("LocalServicePort").is_some_and(|port| port.as_i64() != Some(0)) {
                faults.push(format!("The Proxy.LocalServicePort configuration is invalid for a {kind}"));
            }
            if service.proxy.fields.get("Upstreams").and_then(Value::as_array).is_some_and(|u| !u.is_empty())
            {
                faults.push(format!("The Proxy.Upstreams configuration is invalid for a {kind}"));
            }
        }
        _ => {}
    }
    if faults.is_empty() { Ok(()) } else { Err(super::several(&faults)) }
}

fn check_upstreams(service: &Service, faults: &mut Vec<String>) {
    let (mut places, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for upstream in service.proxy.fields.get("Upstreams").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| upstream.get(name).and_then(Value::as_str).unwrap_or_default();
        let port = upstream.get("LocalBindPort").and_then(Value::as_i64).unwrap_or(0);
        if !matches!(text("DestinationType"), "" | "service" | "prepared_query") {
            faults.push(format!("unknown upstream destination type: {:?}", text("DestinationType")));
        } else if text("DestinationName").is_empty() {
            faults.push("upstream destination name cannot be empty".to_owned());
        } else if port == 0 {
            faults.push("upstream local bind port cannot be zero".to_owned());
        } else {
            let kind = Some(text("DestinationType")).filter(|kind| !kind.is_empty()).unwrap_or("service");
            let place = (kind, text("DestinationName"), text("Datacenter"), text("DestinationNamespace"));
            if !places.insert(place) {
                let datacenter = if place.2.is_empty() { String::new() } else { format!("?dc={}", place.2) };
                let kind = if place.0 == "service" { String::new() } else { format!("{}:", place.0) };
                faults.push(format!("upstreams cannot contain duplicates of {kind}{}{datacenter}", place.1));
            } else {
                let address = Some(text("LocalBindAddress")).filter(|a| !a.is_empty()).unwrap_or("127.0.0.1");
                let socket = format!("{address}:{port}");
                if sockets.contains(&socket) {
                    faults.push(format!(
                        "upstreams cannot contain duplicates by local bind address and port; {socket:?} is specified twice"
                    ));
                }
                sockets.insert(socket);
            }
        }
    }
}

/// The sidecar's definition inside a registration.
pub struct Nested {
    service: Service,
    named: bool,
    checks: Vec<AgentCheck>,
}

/// Looks for `Connect.SidecarService`; the rest of `Connect` stays.
pub fn nested(fields: &mut Fields) -> Result<Option<Nested>, Malformed> {
    let Some(mut connect) = fields.object(&["Connect"])? else { return Ok(None) };
    let key = connect.keys().find(|key| {
        key.eq_ignore_ascii_case("SidecarService") || key.eq_ignore_ascii_case("sidecar_service")
    });
    let given = key.cloned().and_then(|key| connect.remove(&key)).filter(|given| !given.is_null());
    fields.put_back("Connect", Value::Object(connect));
    let Some(given) = given else { return Ok(None) };
    let mut inner = Fields::new(given)?;
    let one = inner.take(&["Check"]);
    let more = inner.list(&["Checks"])?.unwrap_or_default();
    let service = decode::service_fields(&mut inner, "Name")?;
    inner.ignore(&["Token", "Namespace", "Partition", "Locality"]);
    inner.finish()?;
    let checks = one
        .into_iter()
        .chain(more)
        .map(|v| decode::agent_check(v, Form::Inside))
        .collect::<Result<Vec<_>, _>>()?;
    let checks = checks.into_iter().filter(|check| !check.is_empty()).collect();
    Ok(Some(Nested { named: !service.service.is_empty(), service, checks }))
}

impl Server {
    /// The sidecar of a service with everything it leaves to its agent.
    pub(super) fn sidecar(&self, of: &Service, nested: Nested) -> Result<(Service, Vec<LocalCheck>), Reply> {
        let Nested { mut service, named, mut checks } = nested;
        let id = format!("{}-sidecar-proxy", of.id);
        if !named {
            service.service = format!("{}-sidecar-proxy", of.service);
        }
        id.clone_into(&mut service.id);
        if service.kind.is_empty() {
            "connect-proxy".clone_into(&mut service.kind);
        }
        if service.tags.is_none() {
            service.tags.clone_from(&of.tags);
        }
        if service.meta.is_none() {
            service.meta.clone_from(&of.meta);
        }
        let proxy = &mut service.proxy.fields;
        let mut default = |name: &str, value: Value| {
            proxy.entry(name).or_insert(value);
        };
        default("DestinationServiceName", Value::from(of.service.as_str()));
        default("DestinationServiceID", Value::from(of.id.as_str()));
        if of.port != 0 {
            default("LocalServiceAddress", Value::from("127.0.0.1"));
            default("LocalServicePort", Value::from(of.port));
        }
        if service.port == 0 {
            service.port = self.free_port(&id)?;
        }
        check_service(&service)?;
        check_kind(&service).map_err(|why| Reply::bad(&why))?;
        finish_service(&mut service);
        if checks.is_empty() {
            checks = default_checks(&service, of);
        }
        let total = checks.len();
        let checks = checks
            .into_iter()
            .enumerate()
            .map(|(at, check)| self.service_check(&service, check, at, total))
            .collect::<Result<Vec<_>, _>>()?;
        Ok((service, checks))
    }

    fn free_port(&self, id: &str) -> Result<i64, Reply> {
        let state = self.engine.state();
        if let Some(known) = state.local_service(id) {
            return Ok(known.service.port);
        }
        let taken: std::collections::BTreeSet<i64> = state.local_services().map(|s| s.service.port).collect();
        PORTS.into_iter().find(|port| !taken.contains(port)).ok_or_else(|| {
            Reply::internal(&format!(
                "none left for sidecar proxy: tried ports {} to {}",
                PORTS.start(),
                PORTS.end()
            ))
        })
    }

    /// The sidecar that came with a service and goes with it.
    pub(super) fn sidecar_of(&self, id: &str) -> Option<String> {
        let sidecar = format!("{id}-sidecar-proxy");
        let state = self.engine.state();
        let known = state.local_service(&sidecar)?;
        (known.service.proxy.text("DestinationServiceID") == id).then_some(sidecar)
    }
}

fn default_checks(sidecar: &Service, of: &Service) -> Vec<AgentCheck> {
    let address = if sidecar.address.is_empty() { "127.0.0.1" } else { &sidecar.address };
    let listening = AgentCheck {
        name: "Connect Sidecar Listening".to_owned(),
        interval: Some(CHECK_EVERY),
        target: Definition { tcp: format!("{address}:{}", sidecar.port), ..Definition::default() },
        ..AgentCheck::default()
    };
    let alias = AgentCheck {
        name: format!("Connect Sidecar Aliasing {}", of.id),
        target: Definition { alias_service: of.id.clone(), ..Definition::default() },
        ..AgentCheck::default()
    };
    vec![listening, alias]
}
