//! The tables of Kong's entities, one row a field.

mod core;
mod credentials;
mod rules;
mod upstream;

use crate::load::Scope;
use crate::node::Map;
use crate::schema::Field;

/// One collection of the file.
pub(crate) struct Entity {
    /// Its key at the top level.
    pub collection: &'static str,
    pub fields: &'static [Field],
    /// The field other entities refer to it by (besides the id).
    pub key: Option<&'static str>,
    /// Fields whose values may not occur twice.
    pub unique: &'static [&'static str],
    /// Fields that together give a missing id; empty = from the whole content.
    pub id_from: IdFrom,
    /// Rewrites shorthands and old forms before the table applies.
    pub prepare: Option<fn(&mut Map, &mut Scope<'_, '_>)>,
    /// Conditions between fields, on the filled-in entity.
    pub rules: Option<fn(&Map, &mut Scope<'_, '_>)>,
}

/// How Kong derives the id of an entity that has none (UUIDv5, so that it is the same at every load and on every node).
#[derive(Clone, Copy)]
pub(crate) enum IdFrom {
    /// The key field and, unless names are global, the workspace.
    Key { per_workspace: bool },
    /// Collection, workspace and these fields, joined by `:`.
    Cache(&'static [&'static str]),
    /// Kong makes a random one; here it comes from the content, so that gateways sharing counters agree.
    Content,
}

/// Every collection, vaults first (what comes after may refer to them), parents before children.
pub(crate) static ENTITIES: &[Entity] = &[
    core::VAULT,
    core::SERVICE,
    core::ROUTE,
    upstream::UPSTREAM,
    upstream::TARGET,
    core::CONSUMER,
    core::PLUGIN,
    core::CERTIFICATE,
    core::SNI,
    core::CA_CERTIFICATE,
    credentials::JWT_SECRET,
    credentials::KEYAUTH,
    credentials::BASICAUTH,
    credentials::HMACAUTH,
    credentials::ACL,
    credentials::OAUTH2,
    credentials::OAUTH2_TOKEN,
];

impl std::fmt::Debug for Entity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.collection)
    }
}

pub(crate) fn entity(collection: &str) -> Option<&'static Entity> {
    ENTITIES.iter().find(|entity| entity.collection == collection)
}
