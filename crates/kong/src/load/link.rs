//! Ids, uniqueness, references.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Item, Loader};
use crate::entities::{ENTITIES, Entity, IdFrom};
use crate::node::{Map, Node};
use crate::schema::Kind;
use crate::{Fault, Segment};

/// The namespace Kong derives ids of declarative entities in. Being the same, counters in a Redis shared with Kong gateways
/// have the same keys.
const NAMESPACE: Uuid = Uuid::from_u128(0xfd02801f_0957_4a15_a55a_c8d9606f30b5);
/// The id of the workspace "default" in DB-less mode; part of derived ids.
const WORKSPACE: &str = "0dc6f45b-8f8d-40d2-a504-473544ee190b";

/// How entities of one collection can be referred to.
#[derive(Default)]
struct Index {
    by_id: HashMap<String, usize>,
    by_key: HashMap<String, usize>,
}

impl Loader {
    pub(super) fn link(&mut self) {
        for entity in ENTITIES {
            self.assign_ids(entity);
            self.check_unique(entity);
        }
        let indexes: HashMap<&'static str, Index> =
            ENTITIES.iter().map(|entity| (entity.collection, self.index(entity))).collect();
        for entity in ENTITIES {
            self.resolve(entity, &indexes);
        }
        self.check_plugin_scopes();
    }

    fn assign_ids(&mut self, entity: &Entity) {
        let space = Uuid::new_v5(&NAMESPACE, entity.collection.as_bytes());
        let mut used = HashSet::new();
        let mut faults = Vec::new();
        for position in 0..self.count(entity) {
            let Some(item) = self.item(entity.collection, position) else { continue };
            if let Some(id) = text(&item.map, "id") {
                let id = id.to_ascii_lowercase();
                if !used.insert(id.clone()) {
                    faults.push(item.fault("id", duplicate(entity, "primary key", &id)));
                }
                self.set(entity.collection, position, "id", Node::Str(id));
                continue;
            }
            let name = self.id_name(entity, item);
            let mut id = Uuid::new_v5(&space, name.as_bytes()).to_string();
            let by_content = name.starts_with("content:");
            let mut copy = 1;
            while by_content && used.contains(&id) {
                copy += 1;
                id = Uuid::new_v5(&space, format!("{name}#{copy}").as_bytes()).to_string();
            }
            // Two entities of one derived id have the same unique field or the same scope: reported there.
            used.insert(id.clone());
            self.set(entity.collection, position, "id", Node::Str(id));
        }
        self.faults.extend(faults);
    }

    fn id_name(&self, entity: &Entity, item: &Item) -> String {
        match entity.id_from {
            IdFrom::Key { per_workspace } => match entity.key.and_then(|key| text(&item.map, key)) {
                Some(key) if per_workspace => format!("{key}:{WORKSPACE}"),
                Some(key) => key.to_owned(),
                None => self.content_name(item),
            },
            IdFrom::Cache(fields) => {
                let mut name = format!("{}:{WORKSPACE}", entity.collection);
                for field in fields {
                    name.push(':');
                    match item.parent {
                        Some((back, collection, position)) if back == *field => {
                            let parent = self.item(collection, position);
                            name.push_str(
                                parent.and_then(|parent| text(&parent.map, "id")).unwrap_or_default(),
                            );
                        }
                        _ => name.push_str(text(&item.map, field).unwrap_or_default()),
                    }
                }
                name
            }
            IdFrom::Content => self.content_name(item),
        }
    }

    fn content_name(&self, item: &Item) -> String {
        let parent = item.parent.and_then(|(_, collection, position)| self.item(collection, position));
        let parent = parent.and_then(|parent| text(&parent.map, "id")).unwrap_or_default();
        format!("content:{parent}:{}", Node::Map(item.map.clone()).into_json())
    }

    fn check_unique(&mut self, entity: &Entity) {
        let mut faults = Vec::new();
        for field in entity.unique {
            let mut seen = HashSet::new();
            for item in self.items.get(entity.collection).into_iter().flatten() {
                let Some(value) = text(&item.map, field) else { continue };
                if !seen.insert(value) {
                    let secret = entity.collection == "keyauth_credentials" && *field == "key";
                    let shown = if secret { "<hidden>" } else { value };
                    faults.push(item.fault(field, duplicate(entity, field, shown)));
                }
            }
        }
        self.faults.extend(faults);
    }

    fn index(&self, entity: &Entity) -> Index {
        let mut index = Index::default();
        for (position, item) in self.items.get(entity.collection).into_iter().flatten().enumerate() {
            if let Some(id) = text(&item.map, "id") {
                index.by_id.insert(id.to_owned(), position);
            }
            if let Some(key) = entity.key.and_then(|key| text(&item.map, key)) {
                index.by_key.insert(key.to_owned(), position);
            }
        }
        index
    }

    fn resolve(&mut self, entity: &Entity, indexes: &HashMap<&'static str, Index>) {
        for position in 0..self.count(entity) {
            for field in entity.fields {
                let Kind::Foreign(target) = field.kind else { continue };
                self.resolve_field(entity.collection, position, field.name, target, indexes);
            }
        }
    }

    fn resolve_field(
        &mut self,
        collection: &'static str,
        position: usize,
        field: &'static str,
        target: &'static str,
        indexes: &HashMap<&'static str, Index>,
    ) {
        let Some(item) = self.item(collection, position) else { return };
        let found = match item.parent {
            Some((back, _, parent)) if back == field => Some(parent),
            _ => {
                let Some(key) = text(&item.map, field) else { return };
                let index = indexes.get(target);
                let found = index.and_then(|index| {
                    index.by_key.get(key).or_else(|| index.by_id.get(&key.to_ascii_lowercase())).copied()
                });
                if found.is_none() {
                    let message = format!("invalid reference '{field}: {key}' (no such entry in '{target}')");
                    let fault = item.fault(field, message);
                    self.faults.push(fault);
                }
                found
            }
        };
        let id =
            found.and_then(|found| self.item(target, found)).and_then(|item| item.map.get("id").cloned());
        let value = id.map_or(Node::Null, |id| Node::Map(Map::from_iter([("id".to_owned(), id)])));
        self.set(collection, position, field, value);
    }

    /// One plugin of a name for each scope; Kong would find two equal ids.
    fn check_plugin_scopes(&mut self) {
        let mut seen = HashSet::new();
        let mut faults = Vec::new();
        for item in self.items.get("plugins").into_iter().flatten() {
            let Some(name) = text(&item.map, "name") else { continue };
            let scope = ["route", "service", "consumer"].map(|field| reference_id(&item.map, field));
            if !seen.insert((name, scope)) {
                let words: Vec<String> = ["route", "service", "consumer"]
                    .iter()
                    .zip(scope)
                    .filter_map(|(field, id)| id.map(|id| format!("{field} {id}")))
                    .collect();
                let scope = if words.is_empty() { "global".to_owned() } else { words.join(", ") };
                faults.push(Fault {
                    path: item.path.clone(),
                    message: format!("uniqueness violation: 'plugins' entity with name set to '{name}' already declared (scope: {scope})"),
                });
            }
        }
        self.faults.extend(faults);
    }

    fn count(&self, entity: &Entity) -> usize {
        self.items.get(entity.collection).map_or(0, Vec::len)
    }

    fn item(&self, collection: &str, position: usize) -> Option<&Item> {
        self.items.get(collection)?.get(position)
    }

    fn set(&mut self, collection: &str, position: usize, field: &str, value: Node) {
        if let Some(item) = self.items.get_mut(collection).and_then(|items| items.get_mut(position)) {
            item.map.insert(field.to_owned(), value);
        }
    }
}

impl Item {
    fn fault(&self, field: &'static str, message: String) -> Fault {
        let mut path = self.path.clone();
        path.push(Segment::from(field));
        Fault { path, message }
    }
}

fn text<'m>(map: &'m Map, field: &str) -> Option<&'m str> {
    map.get(field).and_then(Node::as_str)
}

fn reference_id<'m>(map: &'m Map, field: &str) -> Option<&'m str> {
    map.get(field)?.as_map()?.get("id")?.as_str()
}

fn duplicate(entity: &Entity, field: &str, value: &str) -> String {
    format!(
        "uniqueness violation: '{}' entity with {field} set to '{value}' already declared",
        entity.collection
    )
}
