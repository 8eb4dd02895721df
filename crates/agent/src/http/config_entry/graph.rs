//! An entry together with those of other kinds: every chain that it is part of must compile, with it and without it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::rules::{Verdict, list, text};
use crate::http::chain::compile::{Overrides, Wanted, compile};
use crate::state::State;
use crate::state::config::ConfigEntry;

/// The entry among the others: whatever it touches must still compile, and the listeners of ingress gateways must speak the
/// protocol of their services.
pub fn check_among(entry: &ConfigEntry, state: &State) -> Verdict {
    let gateways = [("ingress-gateway", "terminating-gateway"), ("terminating-gateway", "ingress-gateway")];
    for (own, other) in gateways {
        if entry.kind == own && state.config_entry(other, &entry.name).is_some() {
            return Err(format!(
                "cannot create a {own:?} config entry with name {:?}, a {other:?} config entry with that name already exists",
                entry.name
            ));
        }
    }
    let mut with = state.clone();
    with.suppose_config(entry);
    check_graph(&entry.kind, &entry.name, &with)
}

/// Everything that an entry of this kind and name is part of.
fn check_graph(kind: &str, name: &str, state: &State) -> Verdict {
    let kinds = ["service-router", "service-splitter", "service-resolver"];
    let chains = || kinds.iter().flat_map(|kind| state.config_entries(kind));
    let ingresses = state.config_entries("ingress-gateway");
    let (mut services, mut gateways) = (BTreeSet::new(), Vec::new());
    match kind {
        "terminating-gateway" => return Ok(()),
        "ingress-gateway" => gateways.extend(state.config_entry(kind, name)),
        "proxy-defaults" => {
            services.extend(chains().map(|entry| entry.name.clone()));
            gateways.extend(ingresses);
        }
        _ => {
            services.insert(name.to_owned());
            services.extend(chains().filter(|e| related(e).contains(name)).map(|e| e.name.clone()));
            gateways.extend(ingresses.into_iter().filter(|e| related(e).contains(name)));
        }
    }
    services.extend(gateways.iter().flat_map(|gateway| related(gateway)));
    let mut protocols = BTreeMap::new();
    for service in services {
        // what counts here is whether it compiles, and the protocol it then has
        let wanted = Wanted {
            service: &service,
            evaluate_in: "dc1",
            used_in: "dc1",
            trust_domain: "b6fc9da3-03d4-4b5a-9134-c045e9b20152.consul",
            overrides: Overrides::default(),
        };
        let chain = compile(state, wanted)?;
        let resolves = chain.start_node.starts_with("resolver:");
        protocols.insert(service, (chain.protocol, resolves));
    }
    gateways
        .into_iter()
        .try_for_each(|gateway| check_listeners(gateway, &protocols, kind == "ingress-gateway"))
}

/// `asked`: the gateway's own entry is being written. An existing one of TCP may lead to a service that has got another
/// protocol since, as long as it is not routed or split.
fn check_listeners(
    gateway: &ConfigEntry,
    protocols: &BTreeMap<String, (String, bool)>,
    asked: bool,
) -> Verdict {
    for listener in list(&gateway.fields, "Listeners") {
        let expected = text(listener, "Protocol");
        for service in listener.get("Services").and_then(Value::as_array).into_iter().flatten() {
            let name = text(service, "Name");
            let Some((protocol, resolves)) = protocols.get(name).filter(|(protocol, _)| protocol != expected)
            else {
                continue;
            };
            if asked || expected != "tcp" || !resolves {
                return Err(format!(
                    "service {name:?} has protocol {protocol:?}, which does not match defined listener protocol {expected:?}"
                ));
            }
        }
    }
    Ok(())
}

/// The services that an entry leads to.
fn related(entry: &ConfigEntry) -> BTreeSet<String> {
    let or_own = |value: &Value| {
        let name = text(value, "Service");
        if name.is_empty() { entry.name.clone() } else { name.to_owned() }
    };
    let fields = &entry.fields;
    match entry.kind.as_str() {
        "service-router" => {
            list(fields, "Routes").iter().filter_map(|route| route.get("Destination")).map(or_own).collect()
        }
        "service-splitter" => list(fields, "Splits").iter().map(or_own).collect(),
        "service-resolver" => {
            let failover = fields.get("Failover").and_then(Value::as_object).into_iter().flatten();
            fields.get("Redirect").into_iter().chain(failover.map(|(_, to)| to)).map(or_own).collect()
        }
        "ingress-gateway" => {
            let services = |listener: &Value| listener.get("Services").and_then(Value::as_array).cloned();
            let all = list(fields, "Listeners").iter().filter_map(services).flatten();
            all.map(|service| text(&service, "Name").to_owned()).filter(|name| name != "*").collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Whether an entry may go: what it was part of must still compile.
pub fn check_removal(kind: &str, name: &str, state: &State) -> Verdict {
    let mut without = state.clone();
    without.forget_config(kind, name);
    check_graph(kind, name, &without)
}
