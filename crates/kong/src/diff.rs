//! What changes from one configuration to another, by entity and field.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::model::Config;

/// Fields whose values are not shown.
const SECRET: &[&str] = &["key", "key_alt", "secret", "client_secret", "password"];

/// One entity that is not in both configurations as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `services`, `routes`, …
    pub collection: String,
    pub id: String,
    /// What people call it: its name, or what comes closest.
    pub name: String,
    #[serde(flatten)]
    pub kind: DifferenceKind,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", content = "fields", rename_all = "lowercase")]
pub enum DifferenceKind {
    Added,
    Removed,
    Changed(Vec<FieldDifference>),
}

/// One field, by its path within the entity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldDifference {
    pub field: String,
    pub before: Value,
    pub after: Value,
}

type Entities = BTreeMap<(String, String), Value>;

/// Entities added, removed and changed, in the order of collections and ids.
///
/// # Errors
/// None in practice: every entity has a JSON form.
pub fn diff(before: &Config, after: &Config) -> Result<Vec<Difference>, serde_json::Error> {
    let (old, new) = (entities(before)?, entities(after)?);
    let mut differences = Vec::new();
    for ((collection, id), entity) in &old {
        let kind = match new.get(&(collection.clone(), id.clone())) {
            None => DifferenceKind::Removed,
            Some(now) => {
                let mut fields = Vec::new();
                compare("", entity, now, &mut fields);
                if fields.is_empty() {
                    continue;
                }
                DifferenceKind::Changed(fields)
            }
        };
        differences.push(named(collection, id, entity, kind));
    }
    for ((collection, id), entity) in &new {
        if !old.contains_key(&(collection.clone(), id.clone())) {
            differences.push(named(collection, id, entity, DifferenceKind::Added));
        }
    }
    differences.sort_by(|a, b| (&a.collection, &a.name).cmp(&(&b.collection, &b.name)));
    Ok(differences)
}

fn named(collection: &str, id: &str, entity: &Value, kind: DifferenceKind) -> Difference {
    let name = ["name", "username", "custom_id", "target", "group", "prefix", "client_id"]
        .iter()
        .find_map(|field| entity[*field].as_str())
        .unwrap_or(id);
    Difference { collection: collection.to_owned(), id: id.to_owned(), name: name.to_owned(), kind }
}

fn entities(config: &Config) -> Result<Entities, serde_json::Error> {
    let document = config.to_document()?;
    let mut entities = Entities::new();
    for (collection, list) in document.as_object().into_iter().flatten() {
        for entity in list.as_array().into_iter().flatten() {
            let mut entity = entity.clone();
            let targets = entity.as_object_mut().and_then(|entity| entity.remove("targets"));
            let id = |entity: &Value| entity["id"].as_str().unwrap_or_default().to_owned();
            for target in targets.iter().filter_map(Value::as_array).flatten() {
                entities.insert(("targets".to_owned(), id(target)), target.clone());
            }
            entities.insert((collection.clone(), id(&entity)), entity);
        }
    }
    Ok(entities)
}

fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<FieldDifference>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&path, &value(old), &value(new), fields);
            }
        }
        _ if before == after => {}
        _ => {
            let hidden = SECRET.contains(&path.rsplit('.').next().unwrap_or(path));
            let shown = |value: &Value| match value {
                Value::Null => Value::Null,
                _ if hidden => "<hidden>".into(),
                value => value.clone(),
            };
            fields.push(FieldDifference {
                field: path.to_owned(),
                before: shown(before),
                after: shown(after),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, load};

    fn config(body: &str) -> Config {
        load(&format!("_format_version: \"3.0\"\n{body}"), Format::Yaml).unwrap().config
    }

    #[test]
    fn says_what_by_entity_and_field() {
        let before = config(
            "services: [{name: a, host: h, routes: [{name: r, paths: [/a]}]}]\nconsumers: [{username: u, jwt_secrets: [{key: k, secret: one}]}]",
        );
        let after = config(
            "services: [{name: a, host: h, retries: 1}, {name: b, host: h}]\nconsumers: [{username: u, jwt_secrets: [{key: k, secret: two}]}]",
        );
        let found: Vec<String> = diff(&before, &after)
            .unwrap()
            .iter()
            .map(|one| match &one.kind {
                DifferenceKind::Added => format!("+{} {}", one.collection, one.name),
                DifferenceKind::Removed => format!("-{} {}", one.collection, one.name),
                DifferenceKind::Changed(fields) => {
                    let fields: Vec<String> = fields
                        .iter()
                        .map(|one| format!("{}: {} -> {}", one.field, one.before, one.after))
                        .collect();
                    format!("{} {} {}", one.collection, one.name, fields.join(", "))
                }
            })
            .collect();
        let jwt = format!("jwt_secrets {} secret: \"<hidden>\" -> \"<hidden>\"", before.jwt_secrets[0].id);
        assert_eq!(found, [jwt.as_str(), "-routes r", "services a retries: 5 -> 1", "+services b"]);
        assert!(diff(&before, &before).unwrap().is_empty());
    }
}
