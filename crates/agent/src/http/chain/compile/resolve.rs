//! Resolvers: where a connection to a place goes in the end, and where it goes when nobody is there.

use std::time::Duration;

use serde_json::{Map, Value};

use super::super::shapes::{Node, Resolver, Step, Target};
use super::{Compiled, Compiler, NAMESPACE, or, text};
use crate::state::config::ConfigEntry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A service's place: name, subset (may be empty), datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub service: String,
    pub subset: String,
    pub datacenter: String,
}

impl Place {
    fn id(&self) -> String {
        let Place { service, subset, datacenter } = self;
        let dot = if subset.is_empty() { "" } else { "." };
        format!("{subset}{dot}{service}.{NAMESPACE}.{datacenter}")
    }

    /// The same with what is named changed; another service has other subsets.
    fn changed(&self, service: &str, subset: &str, datacenter: &str) -> Place {
        let mut place = self.clone();
        if !service.is_empty() && service != place.service {
            service.clone_into(&mut place.service);
            place.subset.clear();
        }
        if !subset.is_empty() {
            subset.clone_into(&mut place.subset);
        }
        if !datacenter.is_empty() {
            datacenter.clone_into(&mut place.datacenter);
        }
        place
    }
}

impl Compiler<'_> {
    pub(super) fn resolver(&mut self, place: Place) -> Compiled<String> {
        let place = self.settle(place)?;
        let key = format!("resolver:{}", place.id());
        if self.nodes.contains_key(&key) {
            return Ok(key);
        }
        let resolver = self.resolved(&place)?;
        self.record(place.id(), Step::Resolver(resolver));
        let targets = self.failover_of(&place)?;
        if let Some(Node { step: Step::Resolver(resolver), .. }) = self.nodes.get_mut(&key) {
            resolver.failover = targets;
        }
        Ok(key)
    }

    /// Follows redirects and default subsets to where the connection goes in the end.
    fn settle(&mut self, mut place: Place) -> Compiled<Place> {
        let mut seen: Vec<String> = Vec::new();
        loop {
            if self.nodes.contains_key(&format!("resolver:{}", place.id())) {
                return Ok(place);
            }
            self.agree_on_protocol(&place.service)?;
            let again = seen.contains(&place.id());
            seen.push(place.id());
            if again {
                return Err(format!("detected circular resolver redirect: [{}]", seen.join(" -> ")));
            }
            let Some(entry) = self.entry("service-resolver", &place.service) else {
                return self.has_subset(place);
            };
            if let Some(redirect) = entry.fields.get("Redirect") {
                let [service, subset, datacenter] =
                    ["Service", "ServiceSubset", "Datacenter"].map(|name| text(Some(redirect), name));
                let redirected = place.changed(service, subset, datacenter);
                if redirected != place {
                    place = redirected;
                    continue;
                }
            }
            let default = entry.fields.get("DefaultSubset").and_then(Value::as_str).unwrap_or_default();
            if place.subset.is_empty() && !default.is_empty() {
                place = place.changed("", default, "");
                continue;
            }
            return self.has_subset(place);
        }
    }

    fn subset(&self, place: &Place) -> Option<&Map<String, Value>> {
        let entry = self.entry("service-resolver", &place.service)?;
        entry.fields.get("Subsets")?.get(&place.subset)?.as_object()
    }

    fn has_subset(&self, place: Place) -> Compiled<Place> {
        if !place.subset.is_empty() && self.subset(&place).is_none() {
            let Place { service, subset, .. } = place;
            return Err(format!("service {service:?} does not have a subset named {subset:?}"));
        }
        Ok(place)
    }

    /// The resolver of a settled place, without its failover; keeps its target.
    fn resolved(&mut self, place: &Place) -> Compiled<Resolver> {
        let entry = self.entry("service-resolver", &place.service);
        let given = |name: &str| entry.and_then(|entry| entry.fields.get(name));
        let nanos = given("ConnectTimeout").and_then(Value::as_u64).unwrap_or(0);
        let says = |name: &str| match given(name) {
            Some(Value::Object(map)) => name == "Redirect" || !map.is_empty(),
            Some(Value::String(text)) => !text.is_empty(),
            _ => false,
        };
        let default =
            nanos == 0 && !["DefaultSubset", "Subsets", "Redirect", "Failover"].iter().any(|n| says(n));
        let mut connect_timeout = if nanos == 0 { CONNECT_TIMEOUT } else { Duration::from_nanos(nanos) };
        let sni = self.entry("service-defaults", &place.service).map(|entry| &entry.fields);
        let sni =
            sni.and_then(|fields| fields.get("ExternalSNI")).and_then(Value::as_str).unwrap_or_default();
        if !sni.is_empty() {
            for (name, what) in [("Redirect", "redirects"), ("Subsets", "subsets"), ("Failover", "failover")]
            {
                if says(name) {
                    return Err(format!(
                        "service {:?} has an external SNI set; cannot define {what} for external services",
                        place.service
                    ));
                }
            }
        }
        let name = format!("{}.internal.{}", place.id(), self.wanted.trust_domain);
        let mut target = Target {
            id: place.id(),
            service: place.service.clone(),
            subset: place.subset.clone(),
            datacenter: place.datacenter.clone(),
            mesh_gateway: String::new(),
            definition: self.subset(place).cloned().unwrap_or_default(),
            external: !sni.is_empty(),
            sni: or(sni, &name).to_owned(),
            name,
        };
        let asked = self.wanted.overrides.connect_timeout;
        if !asked.is_zero() && asked != connect_timeout {
            connect_timeout = asked;
            self.customized.insert("timeout");
        }
        if place.datacenter != self.wanted.used_in && !target.external {
            target.mesh_gateway = self.mesh_gateway(&place.service);
        }
        self.targets.insert(target.id.clone(), target);
        Ok(Resolver { connect_timeout, default, target: place.id(), failover: Vec::new() })
    }

    fn mesh_gateway(&mut self, service: &str) -> String {
        let mode = |entry: Option<&ConfigEntry>| {
            entry.map(|entry| text(entry.fields.get("MeshGateway"), "Mode")).unwrap_or_default().to_owned()
        };
        let own = mode(self.entry("service-defaults", service));
        let found = if own.is_empty() { mode(self.entry("proxy-defaults", "global")) } else { own };
        let asked = &self.wanted.overrides.mesh_gateway;
        if asked.is_empty() || *asked == found {
            return found;
        }
        self.customized.insert("mesh gateway");
        asked.clone()
    }

    fn failover_of(&mut self, place: &Place) -> Compiled<Vec<String>> {
        let failover = self.entry("service-resolver", &place.service).and_then(|e| e.fields.get("Failover"));
        let Some(failover) =
            failover.and_then(|all| all.get(&place.subset).or_else(|| all.get("*"))).cloned()
        else {
            return Ok(Vec::new());
        };
        let [service, subset] = ["Service", "ServiceSubset"].map(|name| text(Some(&failover), name));
        let datacenters = failover.get("Datacenters").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut datacenters: Vec<&str> = datacenters.iter().filter_map(Value::as_str).collect();
        if datacenters.is_empty() {
            datacenters.push("");
        }
        let mut targets = Vec::new();
        for datacenter in datacenters {
            let other = place.changed(service, subset, datacenter);
            if other == *place {
                continue;
            }
            let other = self.settle(other)?;
            if !self.nodes.contains_key(&format!("resolver:{}", other.id())) {
                self.resolved(&other)?;
            }
            targets.push(other.id());
        }
        Ok(targets)
    }
}
