//! Compiles `service-router`, `-splitter`, `-resolver` and `-defaults` entries into the graph for one service: a router's
//! routes lead to splitters or resolvers, a splitter's splits to resolvers, and a resolver to the targets whose instances
//! take the connection. Refused as Consul 1.8 refuses: cycles, subsets that do not exist, protocols that differ along the
//! way or cannot be routed, and services of the outside that are redirected, split into subsets or failed over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

pub use super::shapes::Chain;
use super::shapes::{Node, Route, Split, Step, Target};
use super::{digest, graph};
use crate::state::State;
use crate::state::config::ConfigEntry;

mod resolve;

use resolve::Place;

pub const NAMESPACE: &str = "default";
/// Splitters that lead to splitters are followed one below the other.
const MOST_NODES: usize = 500;

type Compiled<T> = Result<T, String>;

/// What is asked for beside what the entries say.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Mode; empty: none.
    pub mesh_gateway: String,
    pub protocol: String,
    /// Zero: none.
    pub connect_timeout: Duration,
}

#[derive(Debug)]
pub struct Wanted<'a> {
    pub service: &'a str,
    /// The datacenter that targets are in which name none.
    pub evaluate_in: &'a str,
    /// Where the answer is used: targets of others go through mesh gateways.
    pub used_in: &'a str,
    pub trust_domain: &'a str,
    pub overrides: Overrides,
}

fn text<'a>(map: Option<&'a Value>, name: &str) -> &'a str {
    map.and_then(|map| map.get(name)).and_then(Value::as_str).unwrap_or_default()
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

pub fn routable(protocol: &str) -> bool {
    matches!(protocol, "http" | "http2" | "grpc")
}

/// The protocol of a service by its own defaults, else by those of all proxies.
pub fn protocol_of(state: &State, service: &str) -> String {
    let own = state.config_entry("service-defaults", service);
    let of_all = || {
        let defaults = state.config_entry("proxy-defaults", "global")?;
        Some(text(defaults.fields.get("Config"), "protocol").to_lowercase())
    };
    let found = match own {
        Some(own) => {
            Some(own.fields.get("Protocol").and_then(Value::as_str).unwrap_or_default().to_lowercase())
        }
        None => of_all(),
    };
    found.filter(|protocol| !protocol.is_empty()).unwrap_or_else(|| "tcp".to_owned())
}

struct Compiler<'a> {
    state: &'a State,
    wanted: Wanted<'a>,
    protocol: Option<String>,
    /// There is a router or a splitter.
    routes: bool,
    /// By `<kind>:<name>`.
    nodes: BTreeMap<String, Node>,
    targets: BTreeMap<String, Target>,
    /// What an override changed, for the hash that tells such chains apart.
    customized: BTreeSet<&'static str>,
}

pub fn compile(state: &State, wanted: Wanted<'_>) -> Compiled<Chain> {
    let mut compiler = Compiler {
        state,
        wanted,
        protocol: None,
        routes: false,
        nodes: BTreeMap::new(),
        targets: BTreeMap::new(),
        customized: BTreeSet::new(),
    };
    let start = compiler.start()?;
    graph::refuse_cycles(&compiler.nodes, &start)?;
    graph::flatten_splitters(&mut compiler.nodes)?;
    graph::forget_unused(&mut compiler.nodes, &start);
    compiler.finish(start)
}

impl Compiler<'_> {
    fn entry(&self, kind: &str, service: &str) -> Option<&ConfigEntry> {
        self.state.config_entry(kind, service).map(|entry| &**entry)
    }

    /// An override by a protocol that cannot be routed leaves routers and splitters out.
    fn routing(&mut self, kind: &str, service: &str) -> Option<ConfigEntry> {
        let entry = self.entry(kind, service)?.clone();
        let protocol = &self.wanted.overrides.protocol;
        if protocol.is_empty() || routable(protocol) {
            return Some(entry);
        }
        self.customized.insert("protocol");
        None
    }

    fn place(&self, service: &str, subset: &str) -> Place {
        Place {
            service: service.to_owned(),
            subset: subset.to_owned(),
            datacenter: self.wanted.evaluate_in.to_owned(),
        }
    }

    fn record(&mut self, name: String, step: Step) -> String {
        let key = format!("{}:{name}", step.kind());
        self.nodes.insert(key.clone(), Node { name, step });
        key
    }

    fn start(&mut self) -> Compiled<String> {
        let service = self.wanted.service.to_owned();
        let Some(router) = self.routing("service-router", &service) else {
            return self.splitter_or_resolver(&service);
        };
        self.routes = true;
        self.agree_on_protocol(&service)?;
        let mut routes = Vec::new();
        for route in router.fields.get("Routes").and_then(Value::as_array).into_iter().flatten() {
            let destination = route.get("Destination");
            let to = or(text(destination, "Service"), &service).to_owned();
            let next = match text(destination, "ServiceSubset") {
                "" => self.splitter_or_resolver(&to)?,
                subset => self.resolver(self.place(&to, subset))?,
            };
            routes.push(Route { definition: route.as_object().cloned().unwrap_or_default(), next });
        }
        let otherwise = json!({
            "Match": {"HTTP": {"PathPrefix": "/"}},
            "Destination": {"Service": service, "Namespace": NAMESPACE},
        });
        let next = self.splitter_or_resolver(&service)?;
        routes.push(Route { definition: otherwise.as_object().cloned().unwrap_or_default(), next });
        Ok(self.record(format!("{service}.{NAMESPACE}"), Step::Router(routes)))
    }

    fn splitter_or_resolver(&mut self, service: &str) -> Compiled<String> {
        match self.splitter(service)? {
            Some(splitter) => Ok(splitter),
            None => self.resolver(self.place(service, "")),
        }
    }

    fn splitter(&mut self, service: &str) -> Compiled<Option<String>> {
        let name = format!("{service}.{NAMESPACE}");
        let key = format!("splitter:{name}");
        if self.nodes.contains_key(&key) {
            return Ok(Some(key));
        }
        let Some(splitter) = self.routing("service-splitter", service) else { return Ok(None) };
        if self.nodes.len() >= MOST_NODES {
            let service = self.wanted.service;
            return Err(format!("discovery chain {service:?} has more than {MOST_NODES} nodes"));
        }
        // known before its splits are: they may lead back here
        self.record(name.clone(), Step::Splitter(Vec::new()));
        let mut splits = Vec::new();
        for split in splitter.fields.get("Splits").and_then(Value::as_array).into_iter().flatten() {
            let to = or(text(Some(split), "Service"), service);
            let subset = text(Some(split), "ServiceSubset");
            let inner = if to != service && subset.is_empty() { self.splitter(to)? } else { None };
            let next = match inner {
                Some(inner) => inner,
                None => self.resolver(self.place(to, subset))?,
            };
            let weight = split.get("Weight").and_then(Value::as_f64).unwrap_or(0.0) as f32;
            splits.push(Split { weight, next });
        }
        self.routes = true;
        Ok(Some(self.record(name, Step::Splitter(splits))))
    }

    fn agree_on_protocol(&mut self, service: &str) -> Compiled<()> {
        let protocol = protocol_of(self.state, service);
        match &self.protocol {
            Some(known) if *known != protocol => Err(format!(
                "discovery chain {:?} uses inconsistent protocols; service {service:?} has {protocol:?} which is not {known:?}",
                self.wanted.service
            )),
            Some(_) => Ok(()),
            None => {
                self.protocol = Some(protocol);
                Ok(())
            }
        }
    }

    fn finish(mut self, start_node: String) -> Compiled<Chain> {
        let Wanted { service, evaluate_in, ref overrides, .. } = self.wanted;
        let mut protocol = self.protocol.take().unwrap_or_else(|| "tcp".to_owned());
        if self.routes && !routable(&protocol) {
            return Err(format!(
                "discovery chain {service:?} uses a protocol {protocol:?} that does not permit advanced routing or splitting behavior"
            ));
        }
        if !overrides.protocol.is_empty() && overrides.protocol != protocol {
            protocol.clone_from(&overrides.protocol);
            self.customized.insert("protocol");
        }
        let customization_hash =
            if self.customized.is_empty() { String::new() } else { digest::of(&self.customized, overrides) };
        Ok(Chain {
            service_name: service.to_owned(),
            namespace: NAMESPACE,
            datacenter: evaluate_in.to_owned(),
            customization_hash,
            protocol,
            start_node,
            nodes: self.nodes,
            targets: self.targets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;

    fn compiled(entries: &[(&str, &str, Value)], service: &str) -> Compiled<Chain> {
        let mut state = State::default();
        for (kind, name, fields) in entries {
            let entry = ConfigEntry {
                kind: (*kind).to_owned(),
                name: (*name).to_owned(),
                fields: fields.as_object().unwrap().clone(),
                ..ConfigEntry::default()
            };
            state.apply(&Command::ConfigSet { entry: Box::new(entry), cas: None }, 0).outcome.unwrap();
        }
        let (trust_domain, overrides) = ("x.consul", Overrides::default());
        compile(&state, Wanted { service, evaluate_in: "dc1", used_in: "dc1", trust_domain, overrides })
    }

    /// Which of the chains of a cycle Consul looks at first is up to chance, so scripts cannot compare the texts.
    #[test]
    fn cycles_are_told() {
        let to = |service: &str| json!({"Redirect": {"Service": service}});
        let redirects = [("service-resolver", "a", to("b")), ("service-resolver", "b", to("a"))];
        assert_eq!(
            compiled(&redirects, "a").unwrap_err(),
            "detected circular resolver redirect: [a.default.dc1 -> b.default.dc1 -> a.default.dc1]"
        );
        let http = || json!({"Protocol": "http"});
        // ways that double at every step end too
        let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
        let mut doubling = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let to = |n: usize| names.get(n).map_or("end", String::as_str);
            let splits = json!({"Splits": [{"Weight": 50, "Service": to(at + 1)}, {"Weight": 50, "Service": to(at + 2)}]});
            doubling.push(("service-defaults", name.as_str(), http()));
            doubling.push(("service-splitter", name.as_str(), splits));
        }
        doubling.push(("service-defaults", "end", http()));
        assert!(compiled(&doubling, "s0").unwrap_err().contains("more than 1000 splits"));
        assert_eq!(compiled(&doubling, "s30").unwrap().nodes.len(), 2);
        let all = |service: &str| json!({"Splits": [{"Weight": 100, "Service": service}]});
        let splits = [
            ("service-defaults", "a", http()),
            ("service-defaults", "b", http()),
            ("service-splitter", "a", all("b")),
            ("service-splitter", "b", all("a")),
        ];
        assert_eq!(
            compiled(&splits, "a").unwrap_err(),
            "detected circular reference: [splitter:a.default -> splitter:b.default -> splitter:a.default]"
        );
    }
}
