//! `flatten_errors=1`: faults listed by the entity they are of, wherever it is nested.

use indexmap::IndexMap;
use plinth_kong::{Faults, Format, Segment};
use serde_json::{Value, json};

/// Collections by what one of their entities is called.
fn singular(collection: &str) -> &str {
    collection.strip_suffix('s').unwrap_or(collection)
}

/// Kong's `flattened_errors`.
pub fn flattened(text: &str, format: Format, faults: &Faults) -> Value {
    let Some(document) = plinth_kong::parse(text, format) else { return json!([]) };
    let mut entities: IndexMap<Vec<Segment>, Vec<Value>> = IndexMap::new();
    for fault in faults.list() {
        let Some(length) = entity_length(&fault.path) else { continue };
        let (entity, field) = fault.path.split_at(length);
        let error = match field.first() {
            None => json!({"type": "entity", "message": fault.message}),
            Some(Segment::Key(key)) if key == "@entity" => {
                json!({"type": "entity", "message": fault.message})
            }
            Some(_) => json!({"type": "field", "field": dotted(field), "message": fault.message}),
        };
        entities.entry(entity.to_vec()).or_default().push(error);
    }
    entities.into_iter().filter_map(|(path, errors)| entry(&document, &path, errors)).collect()
}

/// How much of a fault's path leads to its entity: pairs of a collection and a position.
fn entity_length(path: &[Segment]) -> Option<usize> {
    const PLURAL: &[&str] = &[
        "services",
        "routes",
        "upstreams",
        "targets",
        "plugins",
        "consumers",
        "certificates",
        "snis",
        "ca_certificates",
        "vaults",
        "acls",
        "jwt_secrets",
        "keyauth_credentials",
        "basicauth_credentials",
        "hmacauth_credentials",
        "oauth2_credentials",
        "oauth2_tokens",
    ];
    let pairs = path.chunks_exact(2).take_while(
        |pair| matches!(pair, [Segment::Key(key), Segment::Index(_)] if PLURAL.contains(&key.as_ref())),
    );
    // fields of certificates are called `snis` and `ca_certificates` too: those hold texts, and a text has no fields
    let count = pairs.count();
    (count > 0).then_some(count * 2)
}

fn dotted(path: &[Segment]) -> String {
    let words: Vec<String> = path
        .iter()
        .map(|segment| match segment {
            Segment::Key(key) => key.to_string(),
            Segment::Index(index) => (index + 1).to_string(),
        })
        .collect();
    words.join(".")
}

fn entry(document: &Value, path: &[Segment], errors: Vec<Value>) -> Option<Value> {
    let mut entity = document;
    for segment in path {
        entity = match segment {
            Segment::Key(key) => entity.get(key.as_ref())?,
            Segment::Index(index) => entity.get(*index)?,
        };
    }
    let Some(Segment::Key(collection)) = path.len().checked_sub(2).and_then(|at| path.get(at)) else {
        return None;
    };
    let mut own = entity.clone();
    if let Some(own) = own.as_object_mut() {
        own.retain(|_, value| !value.as_array().is_some_and(|list| list.iter().any(Value::is_object)));
    }
    let mut flat = json!({"entity_type": singular(collection), "entity": own, "errors": errors});
    for (name, field) in [("entity_name", "name"), ("entity_id", "id")] {
        if let Some(text) = entity[field].as_str().filter(|text| !text.is_empty()) {
            flat[name] = text.into();
        }
    }
    if entity["tags"].is_array() {
        flat["entity_tags"] = entity["tags"].clone();
    }
    Some(flat)
}
