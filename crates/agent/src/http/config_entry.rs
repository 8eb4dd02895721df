//! `/v1/config`: configuration entries by kind and name.

use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::decode;
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::watch::Interest;
use crate::schema::{self, Shown};
use crate::state::config::ConfigEntry;
use crate::state::{Command, Outcome, State, Table, Topic};

mod decoding;
mod graph;
mod rules;

impl Server {
    pub(super) async fn config_apply(&self, call: &Call<'_>) -> Handled {
        let refused = |why: &str| Reply::bad(&format!("Bad request: Request decoding failed: {why}"));
        let value = decode::json(&call.body).map_err(|decode::Malformed(why)| refused(&why))?;
        let Value::Object(given) = value else {
            return Err(refused(
                "json: cannot unmarshal value into Go value of type map[string]interface {}",
            ));
        };
        let mut entry = decoding::decode_entry(given).map_err(|why| refused(&why))?;
        without_namespace(call)?;
        // one that is empty is none
        let cas = call.query.filled("cas").map(super::kv::number).transpose()?;
        self.same_datacenter(call)?;
        rules::normalize(&mut entry);
        rules::check(&entry)
            .and_then(|()| graph::check_among(&entry, &self.engine.state()))
            .map_err(|why| Reply::internal(&why))?;
        let written = self.engine.write(Command::ConfigSet { entry: Box::new(entry), cas }).await?;
        Ok(Reply::json(&(written.outcome == Outcome::Flag(true)), call.pretty))
    }

    pub(super) async fn config(&self, call: &Call<'_>) -> Handled {
        let (kind, name) = match call.rest.split_once('/') {
            Some((kind, name)) => (kind, Some(name)),
            None => (call.rest, None),
        };
        let unknown = || format!("invalid config entry kind: {kind}");
        let known = kind.is_empty() || schema::of(kind).is_some();
        if *call.method == Method::DELETE {
            let Some(name) = name else {
                let text = "Must provide both a kind and name to delete";
                return Err(Reply::text(StatusCode::NOT_FOUND, text));
            };
            if !known {
                return Err(Reply::bad(&unknown()));
            }
            return self.config_remove(call, kind, name).await;
        }
        let options = ReadOptions::parse(&call.query)?;
        if !known {
            return Err(Reply::internal(&unknown()));
        }
        let interest = || Interest::One(Topic::Table(Table::Config));
        let Some(name) = name else {
            let state = self.wait(&options, interest, |s| s.table_index(Table::Config)).await;
            let all: Vec<Shown<'_>> = state.config_entries(kind).into_iter().map(|e| Shown(e)).collect();
            return Ok(Reply::json(&all, call.pretty).at(state.table_index(Table::Config)));
        };
        let state = self.wait(&options, interest, |s| s.table_index(Table::Config)).await;
        let index = state.table_index(Table::Config);
        match state.config_entry(kind, name) {
            Some(entry) => Ok(Reply::json(&Shown(entry), call.pretty).at(index)),
            None => {
                let text = format!("Config entry not found for {kind:?} / {name:?}");
                Err(Reply::not_found(&text).at(index))
            }
        }
    }

    async fn config_remove(&self, call: &Call<'_>, kind: &str, name: &str) -> Handled {
        let refused = |why: String| Reply::internal(&why);
        graph::check_removal(kind, name, &self.engine.state()).map_err(refused)?;
        let command = Command::ConfigRemove { kind: kind.to_owned(), name: name.to_owned() };
        self.engine.write(command).await?;
        Ok(Reply::json(&Map::new(), call.pretty))
    }

    /// `catalog/gateway-services`: the services that a gateway's entry names.
    pub(super) async fn catalog_gateway_services(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing gateway name"));
        }
        // a wildcard takes what is registered
        let tables = [Table::Config, Table::Services];
        let index_of = |s: &State| tables.iter().map(|table| s.table_index(*table)).max().unwrap_or(1);
        let interest = || Interest::Any(tables.map(Topic::Table).to_vec());
        let state = self.wait(&options, interest, index_of).await;
        let found = gateway_services(&state, call.rest);
        let shown = (!found.is_empty()).then_some(found);
        let index = index_of(&state);
        Ok(Reply::json(&shown, call.pretty).at(index).effective(options.consistency))
    }
}

/// Here the body is looked at before it.
fn without_namespace(call: &Call<'_>) -> Result<(), Reply> {
    let given = if call.headers.get(&super::NAMESPACE).is_some_and(|name| !name.is_empty()) {
        "header: \"X-Consul-Namespace\""
    } else if call.query.filled("ns").is_some() {
        "query parameter: \"ns\""
    } else {
        return Ok(());
    };
    Err(Reply::bad(&format!("Bad request: Invalid {given} - Namespaces are a Consul Enterprise feature")))
}

/// Gateways of a kind whose entry names a service.
pub(super) fn ingress_gateways_of(state: &State, service: &str) -> Vec<String> {
    let exposes = |entry: &ConfigEntry| {
        listed_services(entry, "Listeners")
            .iter()
            .any(|name| name == "*" || name.eq_ignore_ascii_case(service))
    };
    let all = state.config_entries("ingress-gateway").into_iter();
    all.filter(|entry| exposes(entry)).map(|entry| entry.name.clone()).collect()
}

fn listed_services(entry: &ConfigEntry, lists: &str) -> Vec<String> {
    let name = |service: &Value| service.get("Name").and_then(Value::as_str).map(str::to_owned);
    let items = entry.fields.get(lists).and_then(Value::as_array).into_iter().flatten();
    if lists == "Services" {
        return items.filter_map(name).collect();
    }
    let services = |listener: &Value| listener.get("Services").and_then(Value::as_array).cloned();
    items.filter_map(services).flatten().filter_map(|service| name(&service)).collect()
}

const WILDCARD: &str = "*";

/// One service behind a gateway.
#[derive(Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GatewayService {
    gateway: NameOnly,
    pub service: NameOnly,
    gateway_kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    #[serde(rename = "CAFile", skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
    #[serde(rename = "SNI", skip_serializing_if = "Option::is_none")]
    sni: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    from_wildcard: bool,
    create_index: u64,
    modify_index: u64,
}

#[derive(Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NameOnly {
    pub name: String,
}

pub(super) fn gateway_services(state: &State, gateway: &str) -> Vec<GatewayService> {
    let mut found = Vec::new();
    let text = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
    };
    let entry_of = |entry: &ConfigEntry, service: &Value, kind| GatewayService {
        gateway: NameOnly { name: entry.name.clone() },
        service: NameOnly { name: text(service, "Name").unwrap_or_default() },
        gateway_kind: kind,
        port: None,
        protocol: None,
        hosts: None,
        ca_file: text(service, "CAFile"),
        cert_file: text(service, "CertFile"),
        key_file: text(service, "KeyFile"),
        sni: text(service, "SNI"),
        from_wildcard: false,
        create_index: entry.create_index,
        modify_index: entry.modify_index,
    };
    if let Some(entry) = state.config_entry("ingress-gateway", gateway) {
        let listeners = entry.fields.get("Listeners").and_then(Value::as_array).into_iter().flatten();
        for listener in listeners {
            let services = listener.get("Services").and_then(Value::as_array).into_iter().flatten();
            for service in services {
                let hosts = service.get("Hosts").and_then(Value::as_array).map(|hosts| {
                    hosts.iter().filter_map(|h| h.as_str().map(str::to_owned)).collect::<Vec<_>>()
                });
                found.push(GatewayService {
                    port: listener.get("Port").and_then(Value::as_i64),
                    protocol: text(listener, "Protocol"),
                    hosts: hosts.filter(|h| !h.is_empty()),
                    ..entry_of(entry, service, "ingress-gateway")
                });
            }
        }
    }
    if let Some(entry) = state.config_entry("terminating-gateway", gateway) {
        let services = entry.fields.get("Services").and_then(Value::as_array).into_iter().flatten();
        found.extend(services.map(|service| entry_of(entry, service, "terminating-gateway")));
    }
    for wildcard in found.extract_if(.., |service| service.service.name == WILDCARD).collect::<Vec<_>>() {
        let covered =
            |name: &str| found.iter().any(|service| service.service.name.eq_ignore_ascii_case(name));
        let names: Vec<String> =
            plain_services(state).filter(|name| !covered(name)).map(str::to_owned).collect();
        found.extend(names.into_iter().map(|name| wildcard.of(name)));
    }
    // of what there is, an ingress gateway's wildcard lets in what speaks its listener's protocol
    let speaks = |service: &GatewayService| {
        let own = super::chain::compile::protocol_of(state, &service.service.name);
        !service.from_wildcard || service.protocol.as_ref().is_none_or(|wanted| *wanted == own)
    };
    found.retain(speaks);
    found.sort_by(|a, b| (&a.service.name, a.port).cmp(&(&b.service.name, b.port)));
    found
}

impl GatewayService {
    /// A service that a wildcard takes.
    fn of(&self, name: String) -> GatewayService {
        GatewayService { service: NameOnly { name }, from_wildcard: true, ..self.clone() }
    }
}

/// Registered services that are neither proxies nor gateways, nor Consul itself.
fn plain_services(state: &State) -> impl Iterator<Item = &str> {
    let plain = |group: &&std::sync::Arc<crate::state::Group>| {
        &*group.name != "consul" && group.instances.values().any(|instance| instance.service.kind.is_empty())
    };
    state.groups().filter(plain).map(|group| &*group.name)
}
