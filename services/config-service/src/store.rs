//! The history: revisions in SQL, each written in one transaction with the outbox rows that carry it on.

mod postgres;
mod rows;
mod sqlite;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use plinth_events::Database;
use plinth_events::sql::{OUTBOX, Step};

use crate::Error;
use crate::domain::{Change, ItemId, Refusal, Revision};

pub use postgres::PostgresStore;
pub use rows::Publication;
pub use sqlite::SqliteStore;

/// Outbox lane that brings revisions into Consul's KV.
pub const KV_LANE: &str = "kv";
/// Outbox lane of the events; a revision's event follows its arrival in KV.
pub const EVENT_LANE: &str = "events";

/// The schema, step by step.
pub const STEPS: &[Step] = &[
    OUTBOX,
    Step {
        version: 100,
        description: "config",
        sqlite: include_str!("../sql/config_sqlite.sql"),
        postgres: include_str!("../sql/config_postgres.sql"),
    },
];

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// This revision was appended and will be published. `before`: the live revision it replaces.
    Appended {
        revision: Revision,
        before: Option<u64>,
    },
    /// The item already was as asked for.
    Unchanged(Revision),
    Refused(Refusal),
}

/// An item's newest revision, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub id: ItemId,
    pub revision: u64,
    pub deleted: bool,
}

/// Two implementations, one set of tests. Every error is [`Error::DatabaseAway`] when trying later makes sense.
pub trait Store: Send + Sync + 'static {
    /// Decides and writes in one transaction; changes of one item are serialised.
    fn write<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Written, Error>>;
    fn head<'a>(&'a self, id: &'a ItemId) -> BoxFuture<'a, Result<Option<Revision>, Error>>;
    fn revision<'a>(
        &'a self,
        id: &'a ItemId,
        revision: u64,
    ) -> BoxFuture<'a, Result<Option<Revision>, Error>>;
    /// Newest first, below `before`.
    fn history<'a>(
        &'a self,
        id: &'a ItemId,
        before: Option<u64>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Revision>, Error>>;
    /// Heads of all items, deleted ones included, in no order.
    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>, Error>>;
    /// Whether a revision of the item still waits for its publication.
    fn is_pending<'a>(&'a self, id: &'a ItemId) -> BoxFuture<'a, Result<bool, Error>>;
    /// Notes the index at which the revision arrived in KV.
    fn set_published<'a>(
        &'a self,
        id: &'a ItemId,
        revision: u64,
        index: u64,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// The latest index at which this revision or a later one arrived in KV. 0: it is there, at an unknown index.
    fn published_at<'a>(&'a self, id: &'a ItemId, revision: u64)
    -> BoxFuture<'a, Result<Option<u64>, Error>>;
    /// Asks for the revision to be brought into KV once more.
    fn republish<'a>(&'a self, revision: &'a Revision) -> BoxFuture<'a, Result<(), Error>>;
}

/// The store for a database.
pub fn open(database: &Database) -> Arc<dyn Store> {
    match database {
        Database::Sqlite(sqlite) => Arc::new(SqliteStore::new(sqlite.clone())),
        Database::Postgres(postgres) => Arc::new(PostgresStore::new(postgres.pool.clone())),
    }
}
