//! Entities where they stand in a document, taken apart: each without the entities nested in it.

use crate::entities::{ENTITIES, Entity, entity};
use crate::node::{Map, Node};
use crate::schema::Kind;

/// One entity of a document.
#[derive(Debug)]
pub(super) struct Found<'t> {
    pub entity: &'static Entity,
    /// Its position in the list it stands in.
    pub index: usize,
    /// The one it is nested in (its position among all found) and the field that would name it.
    pub parent: Option<(usize, &'static str)>,
    pub source: Source<'t>,
}

/// An entity's own fields.
#[derive(Debug)]
pub(super) enum Source<'t> {
    Node(Node),
    /// A YAML list of one entry, in pieces.
    Text(Vec<&'t str>),
}

/// A document taken apart: what is not an entity, and the entities, parents before those nested in them.
#[derive(Debug, Default)]
pub(super) struct Document<'t> {
    pub head: Map,
    pub found: Vec<Found<'t>>,
}

impl Document<'_> {
    /// Of a whole tree.
    pub fn of(mut head: Map) -> Document<'static> {
        let mut found = Vec::new();
        for entity in ENTITIES {
            // What is no list stays, and is complained about.
            if matches!(head.get(entity.collection), Some(Node::Seq(_)))
                && let Some(Node::Seq(entries)) = head.shift_remove(entity.collection)
            {
                take_apart(&mut found, entity, entries, None);
            }
        }
        Document { head, found }
    }
}

/// Adds the entries of a list and what is nested in them.
pub(super) fn take_apart<'t>(
    found: &mut Vec<Found<'t>>,
    entity: &'static Entity,
    entries: Vec<Node>,
    parent: Option<(usize, &'static str)>,
) {
    for (index, mut node) in entries.into_iter().enumerate() {
        let mut nested = Vec::new();
        if let Node::Map(map) = &mut node {
            for (name, collection, back) in children(entity) {
                if matches!(map.get(name), Some(Node::Seq(_)))
                    && let Some(Node::Seq(list)) = map.shift_remove(name)
                {
                    nested.push((collection, back, list));
                }
            }
        }
        let position = found.len();
        found.push(Found { entity, index, parent, source: Source::Node(node) });
        for (collection, back, list) in nested {
            take_apart(found, collection, list, Some((position, back)));
        }
    }
}

/// The lists of other entities an entity may hold: field, what they are, the field that points back.
pub(super) fn children(
    parent: &'static Entity,
) -> impl Iterator<Item = (&'static str, &'static Entity, &'static str)> {
    parent.fields.iter().filter_map(|field| match field.kind {
        Kind::Children(collection, back) => Some((field.name, entity(collection)?, back)),
        _ => None,
    })
}
