//! Tables as Kong's Admin API describes them (`/schemas/…`).

use serde_json::{Map, Value, json};

use super::{Check, Field, Kind, Literal};
use crate::entities::{self, ENTITIES};
use crate::plugins;

/// The fields of a collection, in the shape of Kong's `/schemas/routes`; `None` for an unknown one.
pub fn schema_of(collection: &str) -> Option<Value> {
    let entity = entities::entity(collection)?;
    let mut schema = json!({ "fields": fields(entity.fields), "primary_key": ["id"] });
    if let Some(key) = entity.key {
        schema["endpoint_key"] = key.into();
    }
    Some(schema)
}

/// The fields of a plugin, `config` among them, in the shape of Kong's `/schemas/plugins/jwt`; `None` for an unknown one.
pub fn plugin_schema_of(name: &str) -> Option<Value> {
    let plugin = plugins::find(name)?;
    let config = json!({ "config": { "type": "record", "required": true, "fields": fields(plugin.fields) } });
    let mut members = vec![json!({ "protocols": { "type": "set", "required": true,
        "default": ["grpc", "grpcs", "http", "https"], "elements": { "type": "string" } } })];
    if !plugin.per_consumer {
        members.push(json!({ "consumer": { "type": "foreign", "reference": "consumers", "eq": null } }));
    }
    members.push(config);
    Some(json!({ "fields": members }))
}

/// Every field of every collection and plugin, as `services[].host` and `plugins[jwt].config.realm`, with whether anything is
/// made of it: what a check that no field is forgotten walks over.
pub fn all_fields() -> Vec<(String, bool)> {
    fn walk(prefix: &str, fields: &'static [Field], out: &mut Vec<(String, bool)>) {
        for field in fields {
            let path = format!("{prefix}.{}", field.name);
            if let Kind::Record(inner) = field.kind {
                walk(&path, inner, out);
            } else if !matches!(field.kind, Kind::Children(..) | Kind::PluginConfig) {
                out.push((path, field.used == super::Use::Supported));
            }
        }
    }
    let mut out = Vec::new();
    for entity in ENTITIES {
        walk(&format!("{}[]", entity.collection), entity.fields, &mut out);
    }
    for plugin in plugins::all() {
        walk(&format!("plugins[{}].config", plugin.name), plugin.fields, &mut out);
    }
    out
}

fn fields(fields: &'static [Field]) -> Vec<Value> {
    fields
        .iter()
        .filter(|field| !matches!(field.kind, Kind::Children(..)))
        .map(|field| json!({ field.name: described(field) }))
        .collect()
}

fn described(field: &'static Field) -> Value {
    let mut about = Map::new();
    let kind = match field.kind {
        Kind::String => "string",
        Kind::Number => "number",
        Kind::Integer => "integer",
        Kind::Boolean => "boolean",
        Kind::Array(element) => {
            about.insert("elements".to_owned(), described(element));
            "array"
        }
        Kind::Set(element) => {
            about.insert("elements".to_owned(), described(element));
            "set"
        }
        Kind::Map(value) => {
            about.insert("keys".to_owned(), json!({ "type": "string" }));
            about.insert("values".to_owned(), described(value));
            "map"
        }
        Kind::Record(inner) => {
            about.insert("fields".to_owned(), fields(inner).into());
            "record"
        }
        Kind::Foreign(to) => {
            about.insert("reference".to_owned(), to.into());
            "foreign"
        }
        Kind::PluginConfig => {
            about.insert("abstract".to_owned(), true.into());
            "record"
        }
        Kind::Children(..) | Kind::Any => "any",
    };
    about.insert("type".to_owned(), kind.into());
    if field.required {
        about.insert("required".to_owned(), true.into());
    }
    if field.referenceable {
        about.insert("referenceable".to_owned(), true.into());
    }
    if let Some(default) = field.default {
        about.insert("default".to_owned(), literal(default));
    }
    for check in field.checks {
        match check {
            Check::Between(low, high) => about.insert("between".to_owned(), json!([low, high])),
            Check::Greater(limit) => about.insert("gt".to_owned(), json!(limit)),
            Check::OneOf(words) => about.insert("one_of".to_owned(), json!(words)),
            Check::OneOfInts(numbers) => about.insert("one_of".to_owned(), json!(numbers)),
            Check::MinLen(least) => about.insert("len_min".to_owned(), json!(least)),
            _ => None,
        };
    }
    Value::Object(about)
}

fn literal(default: Literal) -> Value {
    crate::load::literal(default).into_json()
}
