//! Which selectors the listed objects have, and what can be asked of each (Consul's API reference has the tables).

use super::grammar::Operator;

/// What a selector leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Text,
    Int,
    Bool,
    /// A list of texts.
    Texts,
    /// A map; every key leads to the same.
    Map(&'static Field),
    Object(Fields),
    /// A list of objects: any of them may match.
    Objects(Fields),
}

pub type Fields = &'static [(&'static str, Field)];

impl Field {
    pub fn below(self, name: &str) -> Option<Field> {
        match self {
            Field::Map(inner) => Some(*inner),
            Field::Object(fields) | Field::Objects(fields) => find(fields, name),
            Field::Text | Field::Int | Field::Bool | Field::Texts => None,
        }
    }

    pub fn takes(self, operator: Operator) -> bool {
        use Operator::*;
        match self {
            Field::Text => matches!(operator, Equal | NotEqual | In | NotIn | Matches | NotMatches),
            Field::Int | Field::Bool => matches!(operator, Equal | NotEqual),
            Field::Texts | Field::Map(_) => matches!(operator, In | NotIn | IsEmpty | IsNotEmpty),
            Field::Objects(_) => matches!(operator, IsEmpty | IsNotEmpty),
            Field::Object(_) => false,
        }
    }
}

pub fn find(fields: Fields, name: &str) -> Option<Field> {
    fields.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
}

use Field::{Bool, Int, Map, Object, Objects, Text, Texts};

const PAIRS: Field = Map(&Text);
const ADDRESSES: Field = Map(&Object(&[("Address", Text), ("Port", Int)]));
const WEIGHTS: Field = Object(&[("Passing", Int), ("Warning", Int)]);
const MESH_GATEWAY: Field = Object(&[("Mode", Text)]);
const CONNECT: Field = Object(&[("Native", Bool)]);
const EXPOSE: Field = Object(&[
    ("Checks", Bool),
    (
        "Paths",
        Objects(&[
            ("ListenerPort", Int),
            ("Path", Text),
            ("LocalPathPort", Int),
            ("Protocol", Text),
            ("ParsedFromCheck", Bool),
        ]),
    ),
]);
const PROXY: Field = Object(&[
    ("DestinationServiceName", Text),
    ("DestinationServiceID", Text),
    ("LocalServiceAddress", Text),
    ("LocalServicePort", Int),
    (
        "Upstreams",
        Objects(&[
            ("DestinationType", Text),
            ("DestinationNamespace", Text),
            ("DestinationName", Text),
            ("Datacenter", Text),
            ("LocalBindAddress", Text),
            ("LocalBindPort", Int),
            ("MeshGateway", MESH_GATEWAY),
        ]),
    ),
    ("MeshGateway", MESH_GATEWAY),
    ("Expose", EXPOSE),
]);

pub const CHECK: Fields = &[
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("Type", Text),
];

pub const NODE: Fields = &[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", PAIRS),
    ("Meta", PAIRS),
];

pub const SERVICE: Fields = &[
    ("Kind", Text),
    ("ID", Text),
    ("Service", Text),
    ("Tags", Texts),
    ("Address", Text),
    ("TaggedAddresses", ADDRESSES),
    ("Meta", PAIRS),
    ("Port", Int),
    ("Weights", WEIGHTS),
    ("EnableTagOverride", Bool),
    ("Proxy", PROXY),
    ("Connect", CONNECT),
];

/// `health/service`: a node, a service and its checks.
pub const ENTRY: Fields = &[("Node", Object(NODE)), ("Service", Object(SERVICE)), ("Checks", Objects(CHECK))];

/// `catalog/service`: flat.
pub const CATALOG_SERVICE: Fields = &[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", PAIRS),
    ("NodeMeta", PAIRS),
    ("ServiceKind", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", ADDRESSES),
    ("ServiceWeights", WEIGHTS),
    ("ServiceMeta", PAIRS),
    ("ServicePort", Int),
    ("ServiceEnableTagOverride", Bool),
    ("ServiceProxy", PROXY),
    ("ServiceConnect", CONNECT),
];

pub const INTENTION: Fields = &[
    ("ID", Text),
    ("Description", Text),
    ("SourceNS", Text),
    ("SourceName", Text),
    ("DestinationNS", Text),
    ("DestinationName", Text),
    ("SourceType", Text),
    ("Action", Text),
    ("Meta", PAIRS),
    ("Precedence", Int),
];
