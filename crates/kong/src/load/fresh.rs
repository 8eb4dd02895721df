//! An entity that was not there before, or not like this: read, validated, typed.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::found::{Found, Source, children};
use super::link::{IdSource, references, text, unique};
use super::ready::{Ready, Reference, Typed, typed};
use super::reload::Failed;
use super::{At, Card, Fresh, Loader, at_place, steps};
use crate::entities::Entity;
use crate::node::{Map, Node};
use crate::read;

/// Reads (if need be) and validates an entity.
pub(super) fn fresh(
    loader: &mut Loader,
    cards: &[Card],
    one: &Found<'_>,
    (text_of, digest): (&str, u128),
    parent: Option<(&'static str, Uuid)>,
    copies: &mut HashMap<Uuid, u32, RandomState>,
) -> Result<Fresh, Failed> {
    let node = match &one.source {
        Source::Node(node) => node.clone(),
        Source::Text(_) => lone_entry(text_of, one.entity).ok_or(Failed::Odd)?,
    };
    let place = steps(cards, one.entity, one.index, one.parent);
    let label = if one.entity.collection == "plugins" {
        node.as_map().and_then(|map| text(map, "name")).unwrap_or_default().to_owned()
    } else {
        String::new()
    };
    let before = loader.faults.len();
    let outer = std::mem::take(&mut loader.warnings);
    loader.depth = place.len() * 2;
    let back = one.parent.map(|(_, back)| back);
    let mut node = Some(node);
    let map = at_place(&At::ROOT, &place, &label, &mut |at| {
        node.take().map(|node| loader.entity(one.entity, node, at, back)).unwrap_or_default()
    });
    let mut warnings = std::mem::replace(&mut loader.warnings, outer);
    for warning in &mut warnings {
        warning.path.drain(..loader.depth.min(warning.path.len()));
    }
    if one.entity.collection == "vaults"
        && let Some(prefix) = text(&map, "prefix")
    {
        let of = map.get("config").and_then(Node::as_map).and_then(|config| text(config, "prefix"));
        loader.vaults.insert(prefix.to_owned(), of.unwrap_or_default().to_owned());
    }
    let source = IdSource::of(one.entity, &map, parent);
    let by_content = matches!(source, IdSource::Content(_));
    let first_id = source.id(one.entity, 0);
    let mut copy = 0;
    if by_content {
        let before = copies.entry(first_id).or_default();
        copy = *before;
        *before += 1;
    }
    Ok(Fresh {
        digest,
        id: source.id(one.entity, copy),
        first_id,
        given_id: matches!(source, IdSource::Given(_)),
        by_content,
        copy,
        parent: parent.map(|(_, id)| id),
        key: one.entity.key.and_then(|key| text(&map, key)).map(Into::into),
        unique: unique(one.entity, &map),
        warnings,
        secrets: std::mem::take(&mut loader.references),
        sound: loader.faults.len() == before,
        map,
        references: Vec::new(),
        typed: None,
    })
}

/// What stands before an entity by name, on a first load. An entity whose references are all there gets its type at once: its tree
/// need not wait in memory for the rest of a large document.
#[derive(Debug, Default)]
pub(super) struct Early(HashMap<(&'static str, Box<str>), Uuid, RandomState>);

impl Early {
    /// Gives the entity its type if that can be done already. A name that comes twice is a fault, whichever was meant.
    ///
    /// # Errors
    /// As [`Fresh::finish`].
    pub fn finish(&mut self, fresh: &mut Fresh, one: &Found<'_>) -> Result<(), String> {
        if let Some(key) = &fresh.key {
            self.0.insert((one.entity.collection, key.clone()), fresh.id);
        }
        let known: Option<Vec<Reference>> = references(one.entity, &fresh.map)
            .map(|(field, to, text)| {
                let id = *self.0.get(&(to, Box::from(text)))?;
                Some(Reference { field, to, text: text.into(), id })
            })
            .collect();
        let Some(known) = known else { return Ok(()) };
        fresh.references = known;
        fresh.finish(one.entity, one.parent)
    }
}

/// The one entry of a YAML list, without lists of entities in it (they were cut out).
fn lone_entry(text: &str, entity: &'static Entity) -> Option<Node> {
    let Node::Seq(mut entries) = read::block(text)? else { return None };
    let node = entries.pop().filter(|_| entries.is_empty())?;
    let whole = node
        .as_map()
        .is_some_and(|map| children(entity).any(|(name, ..)| matches!(map.get(name), Some(Node::Seq(_)))));
    (!whole).then_some(node)
}

impl Fresh {
    /// Writes ids where references stood, and gives the entity its type.
    pub fn finish(&mut self, entity: &Entity, parent: Option<(usize, &'static str)>) -> Result<(), String> {
        if !self.sound {
            return Ok(());
        }
        let mut map: Map = std::mem::take(&mut self.map);
        let id = |id: Uuid| Node::Str(id.to_string());
        let reference = |to: Uuid| Node::Map(Map::from_iter([("id".to_owned(), id(to))]));
        map.insert("id".to_owned(), id(self.id));
        for found in &self.references {
            map.insert(found.field.to_owned(), reference(found.id));
        }
        if let (Some((_, back)), Some(parent)) = (parent, self.parent) {
            map.insert(back.to_owned(), reference(parent));
        }
        let dangling = references(entity, &map).next().is_some();
        if !dangling {
            self.typed = Some(typed(entity, map)?);
        }
        Ok(())
    }

    pub fn into_ready(self) -> Ready {
        Ready {
            digest: self.digest,
            copy: self.copy,
            id: self.id,
            first_id: self.first_id,
            given_id: self.given_id,
            by_content: self.by_content,
            key: self.key,
            unique: self.unique,
            references: self.references,
            typed: self.typed.unwrap_or(Typed::Nothing),
            warnings: self.warnings,
            secrets: self.secrets,
        }
    }
}
