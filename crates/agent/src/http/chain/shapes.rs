//! What a chain looks like, in the order of Consul's fields.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::duration;
use crate::schema::{self, Ordered};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Answer {
    pub chain: Chain,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Chain {
    pub service_name: String,
    pub namespace: &'static str,
    pub datacenter: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub customization_hash: String,
    pub protocol: String,
    pub start_node: String,
    pub nodes: BTreeMap<String, Node>,
    pub targets: BTreeMap<String, Target>,
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub step: Step,
}

#[derive(Debug)]
pub enum Step {
    Router(Vec<Route>),
    Splitter(Vec<Split>),
    Resolver(Resolver),
}

#[derive(Debug)]
pub struct Route {
    pub definition: Map<String, Value>,
    pub next: String,
}

#[derive(Clone, Debug)]
pub struct Split {
    pub weight: f32,
    pub next: String,
}

#[derive(Debug)]
pub struct Resolver {
    pub connect_timeout: Duration,
    pub default: bool,
    pub target: String,
    pub failover: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub id: String,
    pub service: String,
    pub subset: String,
    pub datacenter: String,
    pub mesh_gateway: String,
    /// The subset's definition.
    pub definition: Map<String, Value>,
    pub external: bool,
    pub sni: String,
    pub name: String,
}

impl Step {
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Router(_) => "router",
            Step::Splitter(_) => "splitter",
            Step::Resolver(_) => "resolver",
        }
    }

    /// The nodes that this one leads to.
    pub fn leads_to(&self) -> Vec<&str> {
        match self {
            Step::Router(routes) => routes.iter().map(|route| route.next.as_str()).collect(),
            Step::Splitter(splits) => splits.iter().map(|split| split.next.as_str()).collect(),
            Step::Resolver(_) => Vec::new(),
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut node = to.serialize_struct("Node", 3)?;
        node.serialize_field("Type", self.step.kind())?;
        node.serialize_field("Name", &self.name)?;
        match &self.step {
            Step::Router(routes) => node.serialize_field("Routes", routes)?,
            Step::Splitter(splits) => node.serialize_field("Splits", splits)?,
            Step::Resolver(resolver) => node.serialize_field("Resolver", resolver)?,
        }
        node.end()
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut route = to.serialize_struct("Route", 2)?;
        route.serialize_field("Definition", &Ordered(schema::ROUTE, &self.definition))?;
        route.serialize_field("NextNode", &self.next)?;
        route.end()
    }
}

impl Serialize for Split {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut split = to.serialize_struct("Split", 2)?;
        if self.weight != 0.0 {
            split.serialize_field("Weight", &self.weight)?;
        }
        split.serialize_field("NextNode", &self.next)?;
        split.end()
    }
}

impl Serialize for Resolver {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Failover<'a> {
            targets: &'a [String],
        }
        let mut resolver = to.serialize_struct("Resolver", 4)?;
        resolver.serialize_field("ConnectTimeout", &duration::format(self.connect_timeout))?;
        if self.default {
            resolver.serialize_field("Default", &true)?;
        }
        resolver.serialize_field("Target", &self.target)?;
        if !self.failover.is_empty() {
            resolver.serialize_field("Failover", &Failover { targets: &self.failover })?;
        }
        resolver.end()
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mesh = BTreeMap::from([("Mode", &self.mesh_gateway)]);
        let mesh: BTreeMap<_, _> = mesh.into_iter().filter(|(_, mode)| !mode.is_empty()).collect();
        let mut target = to.serialize_struct("Target", 10)?;
        target.serialize_field("ID", &self.id)?;
        target.serialize_field("Service", &self.service)?;
        if !self.subset.is_empty() {
            target.serialize_field("ServiceSubset", &self.subset)?;
        }
        target.serialize_field("Namespace", super::compile::NAMESPACE)?;
        target.serialize_field("Datacenter", &self.datacenter)?;
        target.serialize_field("MeshGateway", &mesh)?;
        target.serialize_field("Subset", &Ordered(schema::SUBSET, &self.definition))?;
        if self.external {
            target.serialize_field("External", &true)?;
        }
        target.serialize_field("SNI", &self.sni)?;
        target.serialize_field("Name", &self.name)?;
        target.end()
    }
}
