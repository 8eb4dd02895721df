//! Statements and row shapes that both databases share.

use jiff::Timestamp;
use plinth_events::{CloudEvent, NewMessage};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{EVENT_LANE, Head, KV_LANE};
use crate::Error;
use crate::domain::{ItemId, JsonText, Key, Kind, Revision, Scope};

pub const RESERVE_ITEM: &str = "INSERT INTO config_item (namespace, environment, key, revision, created_at) \
    VALUES ($1, $2, $3, 0, $4) ON CONFLICT DO NOTHING";
pub const SET_HEAD: &str =
    "UPDATE config_item SET revision = $4 WHERE namespace = $1 AND environment = $2 AND key = $3";
pub const INSERT_REVISION: &str = "INSERT INTO config_revision \
    (namespace, environment, key, revision, kind, value, description, author, item_created_at, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
pub const HEAD: &str = "SELECT r.revision, r.kind, r.value, r.description, r.author, r.item_created_at, \
    r.created_at, r.published_index FROM config_item i JOIN config_revision r ON r.namespace = i.namespace \
    AND r.environment = i.environment AND r.key = i.key AND r.revision = i.revision \
    WHERE i.namespace = $1 AND i.environment = $2 AND i.key = $3";
pub const REVISION: &str = "SELECT revision, kind, value, description, author, item_created_at, created_at, \
    published_index FROM config_revision WHERE namespace = $1 AND environment = $2 AND key = $3 AND revision = $4";
pub const HISTORY: &str = "SELECT revision, kind, value, description, author, item_created_at, created_at, \
    published_index FROM config_revision WHERE namespace = $1 AND environment = $2 AND key = $3 \
    AND revision < $4 ORDER BY revision DESC LIMIT $5";
pub const HEADS: &str = "SELECT i.namespace, i.environment, i.key, i.revision, r.kind FROM config_item i \
    JOIN config_revision r ON r.namespace = i.namespace AND r.environment = i.environment AND r.key = i.key \
    AND r.revision = i.revision";
pub const PENDING: &str = "SELECT COUNT(*) FROM outbox WHERE lane = $1 AND ordering_key = $2";
pub const SET_PUBLISHED: &str = "UPDATE config_revision SET published_index = $5 \
    WHERE namespace = $1 AND environment = $2 AND key = $3 AND revision = $4";

pub const PUBLISHED_AT: &str = "SELECT MAX(published_index) FROM config_revision \
    WHERE namespace = $1 AND environment = $2 AND key = $3 AND revision >= $4";

/// revision, kind, value, description, author, item_created_at, created_at, published_index
pub type RevisionRow = (i64, String, Option<String>, Option<String>, String, i64, i64, Option<i64>);
/// namespace, environment, key, revision, kind
pub type HeadRow = (String, String, String, i64, String);

/// Payload of the KV lane: which revision to bring over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub namespace: String,
    pub environment: String,
    pub key: String,
    pub revision: u64,
}

impl Publication {
    pub fn of(revision: &Revision) -> Self {
        Self {
            namespace: revision.id.scope.namespace().to_owned(),
            environment: revision.id.scope.environment().to_owned(),
            key: revision.id.key.as_str().to_owned(),
            revision: revision.revision,
        }
    }

    pub fn id(&self) -> Result<ItemId, Error> {
        item_id(&self.namespace, &self.environment, &self.key)
    }

    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Events(error.into()))
    }
}

pub fn revision(id: &ItemId, row: RevisionRow) -> Result<Revision, Error> {
    let (number, kind, value, description, author, item_created_at, created_at, published_index) = row;
    let corrupt = |what: &str| Error::CorruptRow(format!("{id} revision {number}: {what}"));
    Ok(Revision {
        id: id.clone(),
        revision: unsigned(number),
        kind: Kind::parse(&kind).ok_or_else(|| corrupt("kind"))?,
        value: value.as_deref().map(JsonText::parse).transpose().map_err(|_| corrupt("value"))?,
        description,
        author,
        item_created_at: time(item_created_at).ok_or_else(|| corrupt("item_created_at"))?,
        created_at: time(created_at).ok_or_else(|| corrupt("created_at"))?,
        published_index: published_index.map(unsigned),
    })
}

pub fn head((namespace, environment, key, number, kind): HeadRow) -> Result<Head, Error> {
    Ok(Head {
        id: item_id(&namespace, &environment, &key)?,
        revision: unsigned(number),
        deleted: kind == Kind::Delete.as_str(),
    })
}

fn item_id(namespace: &str, environment: &str, key: &str) -> Result<ItemId, Error> {
    let corrupt = || Error::CorruptRow(format!("name {namespace}/{environment}/{key}"));
    Ok(ItemId {
        scope: Scope::parse(namespace, environment).map_err(|_| corrupt())?,
        key: Key::parse(key).map_err(|_| corrupt())?,
    })
}

/// SQL has signed numbers only; ours stay far below the limit.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn time(microseconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds).ok()
}

/// The event of a revision. It has no value in it: values may be secrets, and readers have their own rights.
pub fn event(revision: &Revision) -> CloudEvent {
    let scope = &revision.id.scope;
    let kind = if revision.is_tombstone() { "deleted" } else { "changed" };
    let data = json!({
        "namespace": scope.namespace(),
        "environment": scope.environment(),
        "key": revision.id.key.as_str(),
        "revision": revision.revision,
        "kind": revision.kind,
        "author": revision.author,
    });
    CloudEvent::new(
        "/plinth/config-service",
        format!("dev.plinth.config.{kind}.v1"),
        revision.created_at,
        data,
    )
    .with_subject(revision.id.to_string())
}

/// Routing key `config.<namespace>.<environment>.changed|deleted`; dots inside names become `_`, for a dot separates
/// the words that bindings match.
pub fn topic(revision: &Revision) -> String {
    let scope = &revision.id.scope;
    let kind = if revision.is_tombstone() { "deleted" } else { "changed" };
    let word = |text: &str| text.replace('.', "_");
    format!("config.{}.{}.{kind}", word(scope.namespace()), word(scope.environment()))
}

/// Everything a revision owes to the outside, as text for the two outbox rows.
pub struct Outgoing {
    ordering_key: String,
    topic: String,
    publication: String,
    event: String,
    created_at: Timestamp,
}

impl Outgoing {
    pub fn of(revision: &Revision) -> Result<Self, Error> {
        Ok(Self {
            ordering_key: revision.id.to_string(),
            topic: topic(revision),
            publication: Publication::of(revision).to_json()?,
            event: event(revision).to_json()?,
            created_at: revision.created_at,
        })
    }

    pub fn publication(&self) -> NewMessage<'_> {
        NewMessage {
            lane: KV_LANE,
            ordering_key: &self.ordering_key,
            topic: "kv",
            payload: &self.publication,
            after: None,
            created_at: self.created_at,
        }
    }

    pub fn event(&self, after: i64) -> NewMessage<'_> {
        NewMessage {
            lane: EVENT_LANE,
            ordering_key: &self.ordering_key,
            topic: &self.topic,
            payload: &self.event,
            after: Some(after),
            created_at: self.created_at,
        }
    }
}
