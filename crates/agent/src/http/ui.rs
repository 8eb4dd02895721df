//! `/v1/internal/ui/`: what Consul's web interface reads: nodes with everything on them, and services summed up.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde::Serialize;

use super::config_entry::{GatewayService, gateway_services};
use super::filter::fields;
use super::health::ServiceEntry;
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::watch::Interest;
use crate::state::model::{Check, Node, Pairs, Service, Status};
use crate::state::{State, Table, Topic};

/// The tables a node's view is made of.
const TABLES: [Table; 3] = [Table::Nodes, Table::Services, Table::Checks];
const EXTERNAL_SOURCE: &str = "external-source";

/// A node and what is on it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeView<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    tagged_addresses: &'a Pairs,
    meta: &'a Pairs,
    services: Vec<&'a Service>,
    checks: Vec<&'a Check>,
}

/// All instances of a name.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    name: String,
    tags: Option<BTreeSet<String>>,
    nodes: Option<Vec<String>>,
    instance_count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proxy_for: Vec<String>,
    checks_passing: usize,
    checks_warning: usize,
    checks_critical: usize,
    external_sources: Option<Vec<String>>,
    gateway_config: GatewayConfig,
}

/// Where a service is reached through a gateway.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GatewayConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
}

fn index_of(state: &State) -> u64 {
    TABLES.iter().map(|table| state.table_index(*table)).max().unwrap_or(1)
}

impl Server {
    async fn wait_nodes(&self, options: &ReadOptions) -> std::sync::Arc<State> {
        let interest = || Interest::Any(TABLES.map(Topic::Table).to_vec());
        self.wait(options, interest, index_of).await
    }

    pub(super) async fn ui_nodes(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let state = self.wait_nodes(&options).await;
        let filter = self.read_filter(call, fields::NODE)?;
        let all: Vec<NodeView<'_>> = state.nodes().map(|node| view(&state, node)).collect();
        Ok(self.listing(call, &filter, &all).at(index_of(&state)))
    }

    pub(super) async fn ui_node(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing node name"));
        }
        let state = self.wait_nodes(&options).await;
        let index = index_of(&state);
        match state.node(call.rest) {
            Some(node) => Ok(Reply::json(&view(&state, node), call.pretty).at(index)),
            None => Err(Reply::empty(StatusCode::NOT_FOUND)),
        }
    }

    pub(super) async fn ui_services(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let filter = self.read_filter(call, fields::ENTRY)?;
        let state = self.wait_nodes(&options).await;
        let names = state.groups().map(|group| &*group.name);
        let entries: Vec<ServiceEntry<'_>> =
            names.flat_map(|name| super::health::raw_entries(&state, name, false)).collect();
        let mut summaries: BTreeMap<&str, Summary> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| filter.accepts(*entry)) {
            summaries.entry(entry.service.service.as_str()).or_default().add(entry);
        }
        let all: Vec<Summary> = summaries.into_values().collect();
        Ok(Reply::json(&all, call.pretty).at(index_of(&state)))
    }

    /// The services behind a gateway. One that it lists twice counts twice, as in Consul.
    pub(super) async fn ui_gateway_services(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing gateway name"));
        }
        let tables = [Table::Config, Table::Nodes, Table::Services, Table::Checks];
        let index_of = |s: &State| tables.iter().map(|table| s.table_index(*table)).max().unwrap_or(1);
        let interest = || Interest::Any(tables.map(Topic::Table).to_vec());
        let state = self.wait(&options, interest, index_of).await;
        let mut summaries: BTreeMap<String, Summary> = BTreeMap::new();
        for row in gateway_services(&state, call.rest) {
            let name = &row.service.name;
            let summary = summaries.entry(name.clone()).or_default();
            summary.name.clone_from(name);
            for address in addresses(&row, self.datacenter()) {
                if !summary.gateway_config.addresses.contains(&address) {
                    summary.gateway_config.addresses.push(address);
                }
            }
            super::health::raw_entries(&state, name, false).iter().for_each(|entry| summary.add(entry));
        }
        let all: Vec<Summary> = summaries.into_values().collect();
        Ok(Reply::json(&all, call.pretty).at(index_of(&state)))
    }
}

/// What Consul's DNS calls a service behind an ingress gateway, when the gateway names no host for it.
fn addresses<'a>(row: &'a GatewayService, datacenter: &'a str) -> impl Iterator<Item = String> + 'a {
    let own = format!("{}.ingress.{datacenter}.consul.", row.service.name);
    let hosts = row.hosts.clone().unwrap_or_else(|| vec![own]);
    row.port
        .into_iter()
        .flat_map(move |port| hosts.clone().into_iter().map(move |host| format!("{host}:{port}")))
}

fn view<'a>(state: &'a State, node: &'a Node) -> NodeView<'a> {
    NodeView {
        id: &node.id,
        node: &node.node,
        address: &node.address,
        tagged_addresses: &node.tagged_addresses,
        meta: &node.meta,
        services: state.node_instances(&node.node).into_iter().map(|instance| &instance.service).collect(),
        checks: state.node_checks(&node.node).into_iter().map(|check| &**check).collect(),
    }
}

impl Summary {
    fn add(&mut self, entry: &ServiceEntry<'_>) {
        let service = &entry.service;
        self.kind.clone_from(&service.kind);
        self.name.clone_from(&service.service);
        let nodes = self.nodes.get_or_insert_default();
        let at = nodes.partition_point(|known| *known <= entry.node.node);
        nodes.insert(at, entry.node.node.clone());
        self.instance_count += 1;
        if service.tags.iter().flatten().next().is_some() {
            self.tags.get_or_insert_default().extend(service.tags.iter().flatten().cloned());
        }
        let destination = service.proxy.text("DestinationServiceName");
        if service.kind == "connect-proxy" && !self.proxy_for.iter().any(|known| known == destination) {
            self.proxy_for.push(destination.to_owned());
        }
        let source = service.meta.as_ref().and_then(|meta| meta.get(EXTERNAL_SOURCE));
        if let Some(source) = source.filter(|source| !source.is_empty()) {
            let known = self.external_sources.get_or_insert_default();
            if !known.contains(source) {
                known.push(source.clone());
            }
        }
        for check in &entry.checks {
            match Status::parse(&check.status) {
                Some(Status::Passing) => self.checks_passing += 1,
                Some(Status::Warning) => self.checks_warning += 1,
                Some(Status::Critical) => self.checks_critical += 1,
                None => {}
            }
        }
    }
}
