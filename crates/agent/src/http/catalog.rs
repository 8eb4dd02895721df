//! `/v1/catalog/`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields, Malformed, Place, Times};
use super::filter::{Filter, fields};
use super::query::{Query, ReadOptions};
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::watch::Interest;
use crate::state::command::{Command, Registration, Target};
use crate::state::model::{Definition, Instance, Node, Pairs, Proxy, Service, ServiceAddress, Weights};
use crate::state::txn::ids;
use crate::state::{Group, State, Table, Topic};

const REQUEST: Place =
    Place { owner: "RegisterRequest", path: "", instead: "", whole: "value of type structs.RegisterRequest" };
const SERVICE: Place = Place {
    owner: "NodeService",
    path: "Service.",
    instead: "",
    whole: "struct field RegisterRequest.Service of type structs.NodeService",
};

const FEDERATION: &str = "consul-wan-federation";

/// A service and its node, flat.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CatalogService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: &'a Pairs,
    node_meta: &'a Pairs,
    service_kind: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tagged_addresses: &'a Option<BTreeMap<String, ServiceAddress>>,
    service_weights: &'a Weights,
    /// `{}` when there is none, unlike in the health view.
    service_meta: BTreeMap<&'a str, &'a str>,
    service_port: i64,
    service_enable_tag_override: bool,
    service_proxy: &'a Proxy,
    service_connect: &'a serde_json::Map<String, Value>,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<'a> {
    node: &'a Node,
    services: BTreeMap<&'a str, Cow<'a, Service>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServiceList<'a> {
    node: &'a Node,
    services: Vec<Cow<'a, Service>>,
}

/// Conditions of a query that choose instances.
#[derive(Debug, Default)]
pub(super) struct Choice<'a> {
    pub tags: Vec<&'a str>,
    pub node_meta: Vec<(&'a str, &'a str)>,
}

impl<'a> Choice<'a> {
    pub(super) fn of(query: &'a Query) -> Choice<'a> {
        Choice {
            tags: query.all("tag").collect(),
            node_meta: query
                .all("node-meta")
                .map(|pair| pair.split_once(':').unwrap_or((pair, "")))
                .collect(),
        }
    }

    /// What `?cached` knows a read by.
    pub(super) fn question(&self, view: &str, name: &str, connect: bool, call: &Call<'_>) -> String {
        let filter = call.query.get("filter");
        format!("{view} {name:?} {connect} {:?} {:?} {filter:?}", self.tags, self.node_meta)
    }

    pub(super) fn takes_node(&self, node: &Node) -> bool {
        self.node_meta.iter().all(|(key, value)| {
            node.meta.as_ref().and_then(|m| m.get(*key)).is_some_and(|found| found == value)
        })
    }

    pub(super) fn takes(&self, node: &Node, service: &Service) -> bool {
        let tagged =
            |tag: &&str| service.tags.iter().flatten().any(|t| t.to_lowercase() == tag.to_lowercase());
        self.tags.iter().all(tagged) && self.takes_node(node)
    }
}

/// The service with its tags as a list, as all views but transactions show it.
pub(super) fn listed(service: &Service) -> Cow<'_, Service> {
    if service.tags.is_some() {
        return Cow::Borrowed(service);
    }
    Cow::Owned(Service { tags: Some(Vec::new()), ..service.clone() })
}

pub(super) fn is_connect(instance: &Instance, name: &str) -> bool {
    let service = &instance.service;
    let destination = service.proxy.text("DestinationServiceName");
    let proxies = service.kind == "connect-proxy" && destination.eq_ignore_ascii_case(name);
    let native = service.connect.get("Native") == Some(&Value::Bool(true));
    proxies || (native && service.service.eq_ignore_ascii_case(name))
}

impl Server {
    pub(super) async fn catalog_nodes(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        let filter = self.read_filter(call, fields::NODE)?;
        let state = self.wait_table(&options, Table::Nodes).await;
        let index = state.table_index(Table::Nodes);
        let reply = self.shared(call, index, || {
            let nodes = state.nodes().map(|n| &**n);
            let mut nodes: Vec<&Node> = nodes.filter(|n| choice.takes_node(n)).collect();
            self.nearest_first(call, &mut nodes, |n| &n.node);
            Ok(self.listing(call, &filter, &nodes))
        })?;
        Ok(reply.at(index).effective(options.consistency))
    }

    pub(super) async fn catalog_services(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        // the metadata of nodes changes without a service
        let (state, index) = if choice.node_meta.is_empty() {
            let state = self.wait_table(&options, Table::Services).await;
            let index = state.table_index(Table::Services);
            (state, index)
        } else {
            self.wait_nodes_and_services(&options).await
        };
        let reply = self.shared(call, index, || {
            Ok(if choice.node_meta.is_empty() {
                Reply::json(&all_names(&state), call.pretty)
            } else {
                Reply::json(&chosen_names(&state, &choice), call.pretty)
            })
        })?;
        let reply = reply.at(index).effective(options.consistency);
        self.cached(call, || format!("services {:?}", choice.node_meta), reply)
    }

    pub(super) async fn catalog_service(&self, call: &Call<'_>, connect: bool) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        let name = call.rest;
        if name.is_empty() {
            return Err(Reply::bad("Missing service name"));
        }
        let filter = self.read_filter(call, fields::CATALOG_SERVICE)?;
        let (state, index) = self.wait_service(&options, name, connect).await;
        let reply = self.shared(call, index, || {
            let found = instances(&state, name, connect);
            let mut found: Vec<(&Arc<Node>, &Arc<Instance>)> =
                found.into_iter().filter(|(node, i)| choice.takes(node, &i.service)).collect();
            self.nearest_first(call, &mut found, |(node, _)| &node.node);
            let flat: Vec<CatalogService<'_>> =
                found.iter().map(|(node, i)| flat(node, &i.service)).collect();
            Ok(self.listing(call, &filter, &flat))
        })?;
        let reply = reply.at(index).effective(options.consistency);
        self.cached(call, || choice.question("service", name, connect, call), reply)
    }

    pub(super) async fn catalog_node(&self, call: &Call<'_>, list: bool) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing node name"));
        }
        let filter = self.read_filter(call, fields::SERVICE)?;
        let (state, index) = self.wait_nodes_and_services(&options).await;
        let reply = self.shared(call, index, || self.node_view(&state, call, &filter, list))?;
        Ok(reply.at(index).effective(options.consistency))
    }

    /// For answers made of both.
    async fn wait_nodes_and_services(&self, options: &ReadOptions) -> (Arc<State>, u64) {
        let index_of = |s: &State| s.table_index(Table::Nodes).max(s.table_index(Table::Services));
        let interest = || Interest::Any(vec![Topic::Table(Table::Nodes), Topic::Table(Table::Services)]);
        let state = self.wait(options, interest, index_of).await;
        let index = index_of(&state);
        (state, index)
    }

    fn node_view(&self, state: &State, call: &Call<'_>, filter: &Filter, list: bool) -> Handled {
        let Some(node) = state.node(call.rest) else {
            if list {
                let nothing = serde_json::json!({"Node": null, "Services": null});
                return Ok(Reply::json(&nothing, call.pretty));
            }
            return Ok(Reply::json(&Value::Null, call.pretty));
        };
        let services = state.node_instances(call.rest);
        let services = services.into_iter().map(|i| &i.service);
        let services = services.map(|s| (s.id.as_str(), listed(s))).filter(|(_, s)| filter.accepts(s));
        if list {
            let services = services.map(|(_, service)| service).collect();
            return Ok(Reply::json(&NodeServiceList { node, services }, call.pretty));
        }
        Ok(Reply::json(&NodeServices { node, services: services.collect() }, call.pretty))
    }

    pub(super) async fn catalog_register(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let (registration, datacenter) = self.decode_registration(&call.body).map_err(failed)?;
        self.same_datacenter(call)?;
        self.own_datacenter(&datacenter)?;
        if let Some(why) = fault_of(&registration) {
            return Err(Reply::internal(&why));
        }
        self.engine.write(Command::Register(Box::new(registration))).await?;
        Ok(Reply::json(&true, call.pretty))
    }

    fn decode_registration(&self, body: &[u8]) -> Result<(Registration, String), Malformed> {
        let mut fields = Fields::at(decode::json(body)?, REQUEST)?;
        let name = fields.name(&["Node"])?;
        let datacenter = fields.text(&["Datacenter"])?;
        let node = Node {
            id: fields.name(&["ID"])?,
            node: name.clone(),
            address: fields.text(&["Address"])?,
            datacenter: self.datacenter().to_owned(),
            tagged_addresses: fields.pairs(&["TaggedAddresses"])?,
            meta: fields.pairs(&["NodeMeta"])?,
            create_index: 0,
            modify_index: 0,
        };
        let skip_node_update = fields.flag(&["SkipNodeUpdate"])?;
        let service = fields.take(&["Service"]).map(|value| decode::service(value, SERVICE)).transpose()?;
        let one = fields.take(&["Check"]);
        let more = fields.list(&["Checks"])?.unwrap_or_default();
        let check = |value| decode::check(value, Times::Short);
        let mut checks = more.into_iter().chain(one).map(check).collect::<Result<Vec<_>, _>>()?;
        for check in &mut checks {
            if check.kind.is_empty() {
                kind_of(&check.definition).clone_into(&mut check.kind);
            }
            if check.node.is_empty() {
                check.node.clone_from(&name);
            }
        }
        fields.ignore(&["Token", "Namespace", "Partition", "WriteRequest", "PeerName"]);
        fields.finish()?;
        Ok((Registration { node, skip_node_update, service, checks }, datacenter))
    }

    pub(super) async fn catalog_deregister(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let mut fields = decode::json(&call.body).and_then(Fields::new).map_err(failed)?;
        let node = fields.name(&["Node"]).map_err(failed)?;
        let service = fields.name(&["ServiceID"]).map_err(failed)?;
        let check = fields.name(&["CheckID"]).map_err(failed)?;
        let datacenter = fields.text(&["Datacenter"]).map_err(failed)?;
        fields.ignore(&["Address", "Namespace", "Partition", "Token", "WriteRequest", "PeerName"]);
        fields.finish().map_err(failed)?;
        self.same_datacenter(call)?;
        self.own_datacenter(&datacenter)?;
        if node.is_empty() {
            return Err(Reply::internal("Must provide node"));
        }
        let target = if !service.is_empty() {
            Target::Service(service)
        } else if !check.is_empty() {
            Target::Check(check)
        } else {
            Target::Node
        };
        self.engine.write(Command::Deregister { node, target }).await?;
        Ok(Reply::json(&true, call.pretty))
    }
}

/// Why Consul refuses a registration.
fn fault_of(registration: &Registration) -> Option<String> {
    let Registration { node, skip_node_update, service, checks } = registration;
    if node.node.is_empty() {
        return Some("Must provide node".to_owned());
    }
    if !node.id.is_empty()
        && let Err(why) = ids::node_id(&node.id)
    {
        return Some(format!("Bad node ID: {why}"));
    }
    if node.address.is_empty() && !skip_node_update {
        return Some("Must provide address if SkipNodeUpdate is not set".to_owned());
    }
    if let Some(service) = service {
        let fault = fault_of_form(service).or_else(|| {
            let why = if service.service.is_empty() {
                "failed inserting service: object missing primary index".to_owned()
            } else {
                fault_of_meta(&node.node, service)?
            };
            Some(format!("failed inserting service: {why}"))
        });
        if fault.is_some() {
            return fault;
        }
    }
    let stray = checks.iter().find(|check| check.node != node.node)?;
    Some(format!("check node {:?} does not match node {:?}", stray.node, node.node))
}

/// What is wrong with a service before it is put anywhere.
pub(super) fn fault_of_form(service: &Service) -> Option<String> {
    if let Err(why) = super::sidecar::check_kind(service) {
        return Some(why);
    }
    if service.service.is_empty() && !service.id.is_empty() {
        return Some("Must provide service name with ID".to_owned());
    }
    let any = matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]");
    any.then(|| "Invalid service address".to_owned())
}

/// What is wrong with a service's metadata.
pub(super) fn fault_of_meta(node: &str, service: &Service) -> Option<String> {
    let mut meta = Cow::Borrowed(service.meta.as_ref()?);
    // the one reserved key that may be set, and only there
    if service.kind == "mesh-gateway" && meta.contains_key(FEDERATION) {
        meta.to_mut().remove(FEDERATION);
    }
    let why = super::agent::check_pairs(&meta).err()?;
    Some(format!("Invalid Service Meta for node {node} and serviceID {}: {why}", service.id))
}

/// The type of a check that names none: what its definition would be probed by.
fn kind_of(definition: &Definition) -> &'static str {
    let probed = !definition.interval.is_empty();
    if !definition.ttl.is_empty() {
        "ttl"
    } else if !definition.http.is_empty() && probed {
        "http"
    } else if !definition.tcp.is_empty() && probed {
        "tcp"
    } else if !definition.grpc.is_empty() && probed {
        "grpc"
    } else if !(definition.alias_service.is_empty() && definition.alias_node.is_empty()) {
        "alias"
    } else {
        ""
    }
}

/// Instances of a name with their nodes, or with `connect` what proxies it.
pub(super) fn instances<'a>(
    state: &'a State,
    name: &str,
    connect: bool,
) -> Vec<(&'a Arc<Node>, &'a Arc<Instance>)> {
    let with_node = |i: &'a Arc<Instance>| state.node(&i.node).map(|node| (node, i));
    if connect {
        let all = state.groups().flat_map(|g| g.instances.values());
        return all.filter(|i| is_connect(i, name)).filter_map(with_node).collect();
    }
    state.group(name).into_iter().flat_map(|g| g.instances.values()).filter_map(with_node).collect()
}

fn flat<'a>(node: &'a Node, service: &'a Service) -> CatalogService<'a> {
    CatalogService {
        id: &node.id,
        node: &node.node,
        address: &node.address,
        datacenter: &node.datacenter,
        tagged_addresses: &node.tagged_addresses,
        node_meta: &node.meta,
        service_kind: &service.kind,
        service_id: &service.id,
        service_name: &service.service,
        service_tags: service.tags.as_deref().unwrap_or_default(),
        service_address: &service.address,
        service_tagged_addresses: &service.tagged_addresses,
        service_weights: &service.weights,
        service_meta: service.meta.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        service_port: service.port,
        service_enable_tag_override: service.enable_tag_override,
        service_proxy: &service.proxy,
        service_connect: &service.connect,
        create_index: service.create_index,
        modify_index: service.modify_index,
    }
}

fn tags_of(group: &Group) -> Vec<&str> {
    group.tags.keys().map(|t| &**t).collect()
}

fn all_names(state: &State) -> BTreeMap<&str, Vec<&str>> {
    state.groups().map(|g| (&*g.name, tags_of(g))).collect()
}

fn chosen_names<'a>(state: &'a State, choice: &Choice<'_>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut names = BTreeMap::new();
    for group in state.groups() {
        let chosen: Vec<_> = group
            .instances
            .values()
            .filter(|i| state.node(&i.node).is_some_and(|node| choice.takes_node(node)))
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let mut tags: Vec<&str> =
            chosen.iter().flat_map(|i| i.service.tags.iter().flatten()).map(String::as_str).collect();
        tags.sort_unstable();
        tags.dedup();
        names.insert(&*group.name, tags);
    }
    names
}
