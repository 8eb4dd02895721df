//! What holds between entities: ids, uniqueness, references. Runs over all of them at every load, on what [`Ready`](super::ready::Ready) keeps.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::ready::{Reference, Typed};
use super::{Card, Loader, State};
use crate::entities::{Entity, IdFrom};
use crate::node::{Map, Node};
use crate::schema::Kind;

/// The namespace Kong derives ids of declarative entities in. Being the same, counters in a Redis shared with Kong gateways
/// have the same keys.
const NAMESPACE: Uuid = Uuid::from_u128(0xfd02801f_0957_4a15_a55a_c8d9606f30b5);
/// The id of the workspace "default" in DB-less mode; part of derived ids.
const WORKSPACE: &str = "0dc6f45b-8f8d-40d2-a504-473544ee190b";

/// What an entity's id is made from.
pub(super) enum IdSource {
    /// The file gives it.
    Given(Uuid),
    /// A UUIDv5 of this text.
    Named(String),
    /// A UUIDv5 of the content; further copies of the same content count.
    Content(String),
}

impl IdSource {
    pub fn of(entity: &Entity, map: &Map, parent: Option<(&'static str, Uuid)>) -> IdSource {
        if let Some(id) = text(map, "id").and_then(|id| Uuid::try_parse(id).ok()) {
            return IdSource::Given(id);
        }
        match entity.id_from {
            IdFrom::Key { per_workspace } => match entity.key.and_then(|key| text(map, key)) {
                Some(key) if per_workspace => IdSource::Named(format!("{key}:{WORKSPACE}")),
                Some(key) => IdSource::Named(key.to_owned()),
                None => content(map, parent),
            },
            IdFrom::Cache(fields) => {
                let mut name = format!("{}:{WORKSPACE}", entity.collection);
                for field in fields {
                    name.push(':');
                    match parent {
                        Some((back, id)) if back == *field => name.push_str(&id.to_string()),
                        _ => name.push_str(text(map, field).unwrap_or_default()),
                    }
                }
                IdSource::Named(name)
            }
            IdFrom::Content => content(map, parent),
        }
    }

    /// The id of the `copy`th entity (from 0) of this source.
    pub fn id(&self, entity: &Entity, copy: u32) -> Uuid {
        let space = || Uuid::new_v5(&NAMESPACE, entity.collection.as_bytes());
        match self {
            IdSource::Given(id) => *id,
            IdSource::Named(name) => Uuid::new_v5(&space(), name.as_bytes()),
            IdSource::Content(name) if copy == 0 => Uuid::new_v5(&space(), name.as_bytes()),
            IdSource::Content(name) => Uuid::new_v5(&space(), format!("{name}#{}", copy + 1).as_bytes()),
        }
    }
}

fn content(map: &Map, parent: Option<(&'static str, Uuid)>) -> IdSource {
    let parent = parent.map(|(_, id)| id.to_string()).unwrap_or_default();
    IdSource::Content(format!("content:{parent}:{}", Node::Map(map.clone()).into_json()))
}

/// What references are looked up in.
#[derive(Default)]
pub(super) struct Names<'c> {
    ids: HashSet<(&'static str, Uuid), RandomState>,
    keys: HashMap<(&'static str, &'c str), Uuid, RandomState>,
}

impl<'c> Names<'c> {
    pub fn of(cards: &'c [Card]) -> Names<'c> {
        let mut names = Names::default();
        names.ids.reserve(cards.len());
        for card in cards {
            names.ids.insert((card.entity.collection, card.id()));
            if let Some(key) = card.key() {
                names.keys.insert((card.entity.collection, key), card.id());
            }
        }
        names
    }

    pub fn find(&self, collection: &'static str, text: &str) -> Option<Uuid> {
        if let Some(id) = self.keys.get(&(collection, text)) {
            return Some(*id);
        }
        Uuid::try_parse(text).ok().filter(|id| self.ids.contains(&(collection, *id)))
    }
}

/// Uniqueness, references, types.
pub(super) fn link(loader: &mut Loader, cards: &mut [Card]) {
    loader.check_unique(cards);
    let resolved: Vec<(usize, Vec<Reference>)> = {
        let names = Names::of(cards);
        let mut resolved = Vec::new();
        for at in 0..cards.len() {
            let Some(card) = cards.get(at) else { continue };
            match &card.state {
                State::Stale => {}
                State::Kept(ready) => {
                    let holds = |reference: &Reference| {
                        names.find(reference.to, &reference.text) == Some(reference.id)
                    };
                    if !ready.references.iter().all(holds) {
                        resolved.push((at, Vec::new()));
                    }
                }
                State::Fresh(fresh) if fresh.typed.is_some() => {}
                State::Fresh(fresh) => {
                    let mut found = Vec::new();
                    for (field, to, text) in references(card.entity, &fresh.map) {
                        match names.find(to, text) {
                            Some(id) => found.push(Reference { field, to, text: text.into(), id }),
                            None => {
                                let message =
                                    format!("invalid reference '{field}: {text}' (no such entry in '{to}')");
                                loader.fault_of(cards, at, field, message);
                            }
                        }
                    }
                    resolved.push((at, found));
                }
            }
        }
        resolved
    };
    for (at, found) in resolved {
        let Some(card) = cards.get_mut(at) else { continue };
        match &mut card.state {
            State::Kept(_) => card.state = State::Stale,
            State::Fresh(fresh) => {
                fresh.references = found;
                if let Err(message) = fresh.finish(card.entity, card.parent) {
                    loader.fault_of(cards, at, "", message);
                }
            }
            State::Stale => {}
        }
    }
    loader.check_plugin_scopes(cards);
}

/// References of an entity as written: field, collection, text.
pub(super) fn references<'m>(
    entity: &Entity,
    map: &'m Map,
) -> impl Iterator<Item = (&'static str, &'static str, &'m str)> {
    entity.fields.iter().filter_map(|field| match field.kind {
        Kind::Foreign(to) => text(map, field.name).map(|text| (field.name, to, text)),
        _ => None,
    })
}

/// Every field's value that may not occur twice.
pub(super) fn unique(entity: &Entity, map: &Map) -> Vec<(&'static str, Box<str>)> {
    entity.unique.iter().filter_map(|field| Some((*field, text(map, field)?.into()))).collect()
}

/// Values whose text stays out of messages.
const SECRET: &[(&str, &str)] =
    &[("keyauth_credentials", "key"), ("oauth2_tokens", "access_token"), ("oauth2_tokens", "refresh_token")];

impl Loader {
    /// Ids the file gives twice, and other values that may not be.
    pub(super) fn check_unique(&mut self, cards: &[Card]) {
        let mut values: HashSet<(&str, &str, &str), RandomState> = HashSet::default();
        let mut ids: HashSet<(&str, Uuid), RandomState> = HashSet::default();
        values.reserve(cards.len());
        ids.reserve(cards.len());
        for (at, card) in cards.iter().enumerate() {
            let collection = card.entity.collection;
            let fresh = ids.insert((collection, card.id()));
            let mut clash = false;
            for (field, value) in card.unique() {
                if !values.insert((collection, field, value)) {
                    clash = true;
                    let shown = if SECRET.contains(&(collection, *field)) { "<hidden>" } else { value };
                    self.fault_of(cards, at, field, duplicate(card.entity, field, shown));
                }
            }
            // Two entities of one derived id have the same unique value or scope, which is reported as such.
            if !fresh && !clash && card.given_id() {
                self.fault_of(cards, at, "id", duplicate(card.entity, "primary key", &card.id().to_string()));
            }
        }
    }

    /// One plugin of a name for each scope; Kong would find two equal ids.
    pub(super) fn check_plugin_scopes(&mut self, cards: &[Card]) {
        let mut seen = HashSet::new();
        for (at, card) in cards.iter().enumerate() {
            let Some(Typed::Plugin(plugin)) = card.typed() else { continue };
            let scope = [("route", plugin.route), ("service", plugin.service), ("consumer", plugin.consumer)];
            if !seen.insert((plugin.name.as_str(), scope)) {
                let words: Vec<String> =
                    scope.iter().filter_map(|(field, id)| id.map(|id| format!("{field} {id}"))).collect();
                let scope = if words.is_empty() { "global".to_owned() } else { words.join(", ") };
                let message = format!(
                    "uniqueness violation: 'plugins' entity with name set to '{}' already declared (scope: {scope})",
                    plugin.name
                );
                self.fault_of(cards, at, "", message);
            }
        }
    }
}

pub(super) fn text<'m>(map: &'m Map, field: &str) -> Option<&'m str> {
    map.get(field).and_then(Node::as_str)
}

fn duplicate(entity: &Entity, field: &str, value: &str) -> String {
    format!(
        "uniqueness violation: '{}' entity with {field} set to '{value}' already declared",
        entity.collection
    )
}
