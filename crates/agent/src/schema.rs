//! What configuration entries of each kind and proxies hold: the fields in the order they are printed, how they are read,
//! and which are left out when empty.

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value};

use crate::duration;
use crate::state::config::ConfigEntry;

#[derive(Clone, Copy)]
pub enum Kind {
    Text,
    /// Text in capitals, in a list.
    Methods,
    Texts,
    Int,
    Ints,
    Float,
    Bool,
    /// Go text or nanoseconds; printed as Go text.
    Time,
    /// Any JSON object; `null` when absent.
    Any,
    Object(Fields),
    Objects(Fields),
    MapOf(Fields),
    TextMap,
}

/// A field: its name, its kind, and whether it is left out when empty.
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub optional: bool,
}

pub type Fields = &'static [Field];

const fn some(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, optional: true }
}

const fn always(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, optional: false }
}

use Kind::{Any, Bool, Float, Int, Ints, MapOf, Methods, Object, Objects, Text, TextMap, Texts, Time};

const MESH_GATEWAY: Field = always("MeshGateway", Object(&[some("Mode", Text)]));
const EXPOSE: Field = always(
    "Expose",
    Object(&[
        some("Checks", Bool),
        some(
            "Paths",
            Objects(&[
                some("ListenerPort", Int),
                some("Path", Text),
                some("LocalPathPort", Int),
                some("Protocol", Text),
                always("ParsedFromCheck", Bool),
            ]),
        ),
    ]),
);

const META: Field = some("Meta", TextMap);

const SERVICE_DEFAULTS: Fields =
    &[always("Protocol", Text), MESH_GATEWAY, EXPOSE, some("ExternalSNI", Text), META];
const PROXY_DEFAULTS: Fields = &[always("Config", Any), MESH_GATEWAY, EXPOSE, META];
const SERVICE_ROUTER: Fields = &[always("Routes", Objects(ROUTE)), META];
pub const ROUTE: Fields = &[
    some(
        "Match",
        Object(&[some(
            "HTTP",
            Object(&[
                some("PathExact", Text),
                some("PathPrefix", Text),
                some("PathRegex", Text),
                some(
                    "Header",
                    Objects(&[
                        always("Name", Text),
                        some("Present", Bool),
                        some("Exact", Text),
                        some("Prefix", Text),
                        some("Suffix", Text),
                        some("Regex", Text),
                        some("Invert", Bool),
                    ]),
                ),
                some(
                    "QueryParam",
                    Objects(&[
                        always("Name", Text),
                        some("Present", Bool),
                        some("Exact", Text),
                        some("Regex", Text),
                    ]),
                ),
                some("Methods", Methods),
            ]),
        )]),
    ),
    some(
        "Destination",
        Object(&[
            some("RequestTimeout", Time),
            some("Service", Text),
            some("ServiceSubset", Text),
            some("Namespace", Text),
            some("PrefixRewrite", Text),
            some("NumRetries", Int),
            some("RetryOnConnectFailure", Bool),
            some("RetryOnStatusCodes", Ints),
        ]),
    ),
];
const SERVICE_SPLITTER: Fields = &[
    always(
        "Splits",
        Objects(&[
            always("Weight", Float),
            some("Service", Text),
            some("ServiceSubset", Text),
            some("Namespace", Text),
        ]),
    ),
    META,
];
const SERVICE_RESOLVER: Fields = &[
    some("ConnectTimeout", Time),
    some("DefaultSubset", Text),
    some("Subsets", MapOf(SUBSET)),
    some(
        "Redirect",
        Object(&[
            some("Service", Text),
            some("ServiceSubset", Text),
            some("Namespace", Text),
            some("Datacenter", Text),
        ]),
    ),
    some(
        "Failover",
        MapOf(&[
            some("Service", Text),
            some("ServiceSubset", Text),
            some("Namespace", Text),
            some("Datacenters", Texts),
        ]),
    ),
    META,
];
pub const SUBSET: Fields = &[some("Filter", Text), some("OnlyPassing", Bool)];
const INGRESS_GATEWAY: Fields = &[
    always("TLS", Object(&[always("Enabled", Bool)])),
    always(
        "Listeners",
        Objects(&[
            always("Port", Int),
            always("Protocol", Text),
            always("Services", Objects(&[always("Name", Text), always("Hosts", Texts)])),
        ]),
    ),
    META,
];
const TERMINATING_GATEWAY: Fields = &[
    always(
        "Services",
        Objects(&[
            always("Name", Text),
            some("CAFile", Text),
            some("CertFile", Text),
            some("KeyFile", Text),
            some("SNI", Text),
        ]),
    ),
    META,
];

/// The proxy part of a service, as the catalog prints it.
pub const PROXY: Fields = &[
    some("DestinationServiceName", Text),
    some("DestinationServiceID", Text),
    some("LocalServiceAddress", Text),
    some("LocalServicePort", Int),
    some("Config", Any),
    some("Upstreams", Objects(UPSTREAM)),
    MESH_GATEWAY,
    EXPOSE,
];
const UPSTREAM: Fields = &[
    always("DestinationType", Text),
    some("DestinationNamespace", Text),
    some("DestinationName", Text),
    always("Datacenter", Text),
    some("LocalBindAddress", Text),
    some("LocalBindPort", Int),
    always("Config", Any),
    MESH_GATEWAY,
];
/// The same as an agent prints it.
pub const AGENT_PROXY: Fields = &[
    some("DestinationServiceName", Text),
    some("DestinationServiceID", Text),
    some("LocalServiceAddress", Text),
    some("LocalServicePort", Int),
    some("Config", Any),
    some("Upstreams", Objects(AGENT_UPSTREAM)),
    MESH_GATEWAY,
    EXPOSE,
];
const AGENT_UPSTREAM: Fields = &[
    some("DestinationType", Text),
    some("DestinationNamespace", Text),
    some("DestinationName", Text),
    some("Datacenter", Text),
    some("LocalBindAddress", Text),
    some("LocalBindPort", Int),
    some("Config", Any),
    MESH_GATEWAY,
];

/// What a request for a discovery chain may ask to be otherwise.
pub const CHAIN_OVERRIDES: Fields = &[
    some("OverrideMeshGateway", Object(&[some("Mode", Text)])),
    some("OverrideProtocol", Text),
    some("OverrideConnectTimeout", Time),
];

pub fn of(kind: &str) -> Option<Fields> {
    Some(match kind {
        "service-defaults" => SERVICE_DEFAULTS,
        "proxy-defaults" => PROXY_DEFAULTS,
        "service-router" => SERVICE_ROUTER,
        "service-splitter" => SERVICE_SPLITTER,
        "service-resolver" => SERVICE_RESOLVER,
        "ingress-gateway" => INGRESS_GATEWAY,
        "terminating-gateway" => TERMINATING_GATEWAY,
        _ => return None,
    })
}

/// Names compare without case and without the underscores of the snake-case spelling.
fn same_name(key: &str, name: &str) -> bool {
    let plain =
        |text: &str| text.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect::<String>();
    plain(key) == plain(name)
}

/// What is wrong with a body: values that do not fit, and keys that are not known.
#[derive(Default)]
pub struct Faults {
    pub values: Vec<String>,
    pub keys: Vec<String>,
}

/// Reads an object by its fields; `path` names it in faults.
pub fn read(
    given: Map<String, Value>,
    fields: Fields,
    path: &str,
    faults: &mut Faults,
) -> Map<String, Value> {
    let mut read_so_far = Map::new();
    for (key, value) in given {
        let Some(field) = fields.iter().find(|field| same_name(&key, field.name)) else {
            faults.keys.push(format!("{path}{key}"));
            continue;
        };
        if value.is_null() {
            continue;
        }
        let at = format!("{path}{}", field.name);
        if let Some(value) = read_value(value, field.kind, &at, faults) {
            read_so_far.insert(field.name.to_owned(), value);
        }
    }
    read_so_far
}

fn read_value(value: Value, kind: Kind, at: &str, faults: &mut Faults) -> Option<Value> {
    let misfit = |value: &Value, kind: &str, faults: &mut Faults| {
        let found = match value {
            Value::Object(_) => "map[string]interface {}",
            Value::Array(_) => "[]interface {}",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            _ => "float64",
        };
        faults.values.push(format!("'{at}' expected type '{kind}', got unconvertible type '{found}'"));
        None
    };
    match (kind, unlisted(value, kind)) {
        (Kind::Text, Value::String(text)) => Some(Value::String(text)),
        (Kind::Text, Value::Number(number)) => Some(Value::String(number.to_string())),
        (Kind::Text, Value::Bool(flag)) => Some(Value::String(if flag { "1" } else { "0" }.to_owned())),
        (Kind::Text, value) => misfit(&value, "string", faults),
        (Kind::Int, Value::Number(number)) if number.is_i64() || number.is_u64() => {
            Some(Value::Number(number))
        }
        (Kind::Int, Value::Number(number)) => Some(Value::from(number.as_f64().unwrap_or(0.0) as i64)),
        (Kind::Int, Value::String(text)) => match text.parse::<i64>() {
            Ok(number) => Some(Value::from(number)),
            Err(_) => {
                faults.values.push(format!(
                    "cannot parse '{at}' as int: strconv.ParseInt: parsing {text:?}: invalid syntax"
                ));
                None
            }
        },
        (Kind::Int, value) => misfit(&value, "int", faults),
        (Kind::Float, Value::Number(number)) => Some(Value::Number(number)),
        (Kind::Float, value) => misfit(&value, "float32", faults),
        (Kind::Bool, Value::Bool(flag)) => Some(Value::Bool(flag)),
        (Kind::Bool, Value::String(text)) if matches!(text.as_str(), "true" | "false" | "1" | "0" | "") => {
            Some(Value::Bool(matches!(text.as_str(), "true" | "1")))
        }
        (Kind::Bool, value) => misfit(&value, "bool", faults),
        (Kind::Time, value) => read_time(value, at, faults),
        (Kind::Any, value @ Value::Object(_)) => Some(value),
        (Kind::Any, value) => {
            faults.values.push(format!("'{at}' expected a map, got '{}'", name_of(&value)));
            None
        }
        (Kind::Texts, value) => read_list(value, Kind::Text, at, faults),
        (Kind::Ints, value) => read_list(value, Kind::Int, at, faults),
        (Kind::Methods, value) => {
            let Value::Array(mut list) = read_list(value, Kind::Text, at, faults)? else { return None };
            for method in &mut list {
                if let Value::String(text) = method {
                    *text = text.to_uppercase();
                }
            }
            Some(Value::Array(list))
        }
        (Kind::Object(fields), Value::Object(map)) => {
            Some(Value::Object(read(map, fields, &format!("{at}."), faults)))
        }
        (Kind::Object(_), value) => {
            faults.values.push(format!("'{at}' expected a map, got '{}'", name_of(&value)));
            None
        }
        (Kind::Objects(fields), value) => read_list(value, Kind::Object(fields), at, faults),
        (Kind::MapOf(fields), Value::Object(map)) => {
            let read_one = |(key, value): (String, Value)| {
                let here = format!("{at}[{key}]");
                Some((key, read_value(value, Kind::Object(fields), &here, faults)?))
            };
            Some(Value::Object(map.into_iter().filter_map(read_one).collect()))
        }
        (Kind::TextMap, Value::Object(map)) => {
            let read_one = |(key, value): (String, Value)| {
                let value = if value.is_null() { Value::String(String::new()) } else { value };
                let read = read_value(value, Kind::Text, &format!("{at}[{key}]"), faults)?;
                Some((key, read))
            };
            Some(Value::Object(map.into_iter().filter_map(read_one).collect()))
        }
        (Kind::MapOf(_) | Kind::TextMap, value) => {
            faults.values.push(format!("'{at}' expected a map, got '{}'", name_of(&value)));
            None
        }
    }
}

/// A list of one where no list is expected counts as what is in it, a list of objects where a map is as all of them.
fn unlisted(value: Value, kind: Kind) -> Value {
    let Value::Array(mut items) = value else { return value };
    match kind {
        Kind::Texts | Kind::Ints | Kind::Methods | Kind::Objects(_) => Value::Array(items),
        Kind::Any | Kind::MapOf(_) | Kind::TextMap if items.iter().all(Value::is_object) => {
            let maps = items.into_iter().filter_map(|item| match item {
                Value::Object(map) => Some(map),
                _ => None,
            });
            Value::Object(maps.flatten().collect())
        }
        _ if items.len() == 1 => items.remove(0),
        _ => Value::Array(items),
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "map",
        Value::Array(_) => "slice",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        _ => "float64",
    }
}

/// A single value where a list is expected counts as a list of one.
fn read_list(value: Value, kind: Kind, at: &str, faults: &mut Faults) -> Option<Value> {
    let items = if let Value::Array(items) = value { items } else { vec![value] };
    let read = items
        .into_iter()
        .enumerate()
        .filter_map(|(n, item)| read_value(item, kind, &format!("{at}[{n}]"), faults));
    Some(Value::Array(read.collect()))
}

/// Kept as nanoseconds with their sign: a negative time is refused by the kind, not here.
fn read_time(value: Value, at: &str, faults: &mut Faults) -> Option<Value> {
    match value {
        Value::Number(number) => Some(Value::from(number.as_i64().unwrap_or(0))),
        Value::String(text) => {
            let (negative, positive) = match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text.as_str()),
            };
            match duration::parse(positive) {
                Ok(time) => {
                    let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
                    Some(Value::from(if negative { -nanos } else { nanos }))
                }
                Err(_) => {
                    faults.values.push(format!("error decoding '{at}': time: invalid duration {text:?}"));
                    None
                }
            }
        }
        other => {
            faults
                .values
                .push(format!("'{at}' expected type 'int64', got unconvertible type '{}'", name_of(&other)));
            None
        }
    }
}

/// A time as it is printed.
pub fn time_text(nanos: i64) -> String {
    let text = duration::format(Duration::from_nanos(nanos.unsigned_abs()));
    if nanos < 0 { format!("-{text}") } else { text }
}

/// An entry as it is printed. The times of some kinds come before everything else.
pub struct Shown<'a>(pub &'a ConfigEntry);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let entry = self.0;
        let fields = of(&entry.kind).unwrap_or_default();
        let (first, later): (Vec<_>, Vec<_>) =
            fields.iter().partition(|field| matches!(field.kind, Kind::Time));
        let mut map = to.serialize_map(None)?;
        put_all(&mut map, &first, &entry.fields)?;
        map.serialize_entry("Kind", &entry.kind)?;
        map.serialize_entry("Name", &entry.name)?;
        put_all(&mut map, &later, &entry.fields)?;
        map.serialize_entry("CreateIndex", &entry.create_index)?;
        map.serialize_entry("ModifyIndex", &entry.modify_index)?;
        map.end()
    }
}

fn put_all<M: SerializeMap>(
    map: &mut M,
    fields: &[&'static Field],
    values: &Map<String, Value>,
) -> Result<(), M::Error> {
    for field in fields {
        let value = values.get(field.name);
        let no_pairs = |value: &Value| {
            matches!(field.kind, Kind::MapOf(_) | Kind::TextMap)
                && value.as_object().is_some_and(Map::is_empty)
        };
        if field.optional && value.is_none_or(|value| is_empty(value) || no_pairs(value)) {
            continue;
        }
        map.serialize_entry(field.name, &Printed { kind: field.kind, value })?;
    }
    Ok(())
}

/// What `omitempty` leaves out. Objects behind a pointer stay, so an object that was given is printed.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

/// Takes out what is printed whether it is there or not, so that what is read back is what was stored.
pub fn strip(fields: Fields, values: &mut Map<String, Value>) {
    for field in fields {
        let Some(value) = values.get_mut(field.name) else { continue };
        let says_nothing = match (field.kind, value) {
            (_, Value::Null) => true,
            (Kind::Any, _) => false,
            (Kind::Object(inner), Value::Object(map)) => {
                strip(inner, map);
                map.is_empty()
            }
            (Kind::Objects(inner), Value::Array(list)) => {
                list.iter_mut().filter_map(Value::as_object_mut).for_each(|map| strip(inner, map));
                list.is_empty()
            }
            (_, value) => is_empty(value),
        };
        if says_nothing {
            values.remove(field.name);
        }
    }
}

/// An object printed by its fields.
pub struct Ordered<'a>(pub Fields, pub &'a Map<String, Value>);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        put_all(&mut map, &self.0.iter().collect::<Vec<_>>(), self.1)?;
        map.end()
    }
}

struct Printed<'a> {
    kind: Kind,
    value: Option<&'a Value>,
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let nothing = Map::new();
        match (self.kind, self.value) {
            (Kind::Object(fields), value) => {
                Ordered(fields, value.and_then(Value::as_object).unwrap_or(&nothing)).serialize(to)
            }
            (Kind::Objects(fields), Some(Value::Array(list))) => {
                let mut all = to.serialize_seq(Some(list.len()))?;
                for item in list {
                    all.serialize_element(&Printed { kind: Kind::Object(fields), value: Some(item) })?;
                }
                all.end()
            }
            (Kind::MapOf(fields), Some(Value::Object(items))) => {
                let mut map = to.serialize_map(Some(items.len()))?;
                for (key, item) in items {
                    map.serialize_entry(key, &Printed { kind: Kind::Object(fields), value: Some(item) })?;
                }
                map.end()
            }
            (Kind::Time, Some(value)) => to.serialize_str(&time_text(value.as_i64().unwrap_or(0))),
            (_, Some(value)) => value.serialize(to),
            (Kind::Text, None) => to.serialize_str(""),
            (Kind::Int, None) => to.serialize_i64(0),
            (Kind::Float, None) => to.serialize_i64(0),
            (Kind::Bool, None) => to.serialize_bool(false),
            (_, None) => to.serialize_none(),
        }
    }
}
