//! The state store: catalog, KV, sessions and the agent's own registrations, as one value.
//!
//! Pure: no clock, no I/O, no randomness. [`State::apply`] takes a [`Command`] and the time and changes the
//! state deterministically, so that a replay of the log gives the same state, index by index. All tables are
//! persistent maps: a clone costs a few counters, which gives transactions their rollback, readers their
//! snapshot without a lock, and the log its rollback when the disk refuses.
//!
//! Invariants: one index space; only a command that changes something visible takes the next index; an index
//! that a query reports never goes back.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

pub mod ca;
pub mod catalog;
pub mod command;
pub mod config;
pub mod coordinates;
pub mod image;
pub mod intentions;
pub mod kv;
pub mod local;
mod local_apply;
pub mod model;
pub mod queries;
mod restore;
pub mod sessions;
pub mod txn;

pub use command::Command;
use local::{LocalCheck, LocalService};
use model::{Check, Instance, KvEntry, Node, Session};

/// Object families with an index of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Nodes = 0,
    Services = 1,
    Checks = 2,
    Sessions = 3,
    Kv = 4,
    Queries = 5,
    Config = 6,
    Intentions = 7,
    Ca = 8,
    Coordinates = 9,
}

pub(crate) const TABLES: usize = 10;

/// What a waiting query can be waiting for. Names and keys as stored (service names in lower case).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    Key(Arc<str>),
    Service(Arc<str>),
    Table(Table),
}

/// Why a command was refused. The text is what the client gets, word for word as Consul says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("Must provide node")]
    NodeNameMissing,
    #[error("Missing node registration")]
    NodeUnknown,
    #[error("Missing service registration")]
    ServiceUnknown,
    #[error("failed inserting check: Missing service registration on node {node:?}")]
    ServiceUnknownOnNode { node: String },
    #[error("Missing check '{0}' registration")]
    CheckUnknown(String),
    #[error("Check '{0}' is in critical state")]
    CheckCritical(String),
    #[error("failed inserting check: object missing primary index")]
    CheckIdMissing,
    #[error("failed inserting check: failed inserting check: object missing primary index on node {node:?}")]
    CheckIdMissingOnNode { node: String },
    #[error("invalid session {0:?}")]
    SessionUnknown(String),
    #[error("missing session")]
    SessionMissing,
    #[error("session {0:?} exists already")]
    SessionExists(String),
    #[error("CheckID {0:?} does not have associated TTL")]
    NoTtl(String),
    #[error("ServiceID {0:?} does not exist")]
    LocalServiceUnknown(String),
    #[error("name '{0}' aliases an existing query name")]
    QueryNameTaken(String),
    #[error("a query template with an empty name already exists")]
    QueryWildcardTaken,
    #[error("name '{0}' aliases an existing query ID")]
    QueryNameIsId(String),
    #[error("duplicate intention found: {0}")]
    IntentionTaken(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// KV verbs: whether the write took place.
    Flag(bool),
    /// Certificate authority: the serial number taken and the index it was taken at.
    Serial {
        number: u64,
        index: u64,
    },
    Txn(Vec<txn::TxnResult>),
    TxnFailed(Vec<txn::TxnFailure>),
}

/// What a command did: its answer and whom it concerns.
#[derive(Debug)]
pub struct Applied {
    pub outcome: Result<Outcome, Fault>,
    /// False when nothing changed: nothing to log, nobody to wake.
    pub changed: bool,
    pub topics: Vec<Topic>,
}

/// The instances of one service name.
#[derive(Clone, Debug)]
pub struct Group {
    /// The name as first registered.
    pub name: Arc<str>,
    /// Moves with every change of an instance, its checks, its node or the node's checks.
    pub index: u64,
    /// By `node \0 id`.
    pub instances: OrdMap<Arc<str>, Arc<Instance>>,
    /// How many instances carry a tag.
    pub tags: OrdMap<Arc<str>, u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tombstone {
    pub index: u64,
    pub at: u64,
}

/// One version of everything. Times are milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) index: u64,
    pub(crate) tables: [u64; TABLES],
    pub(crate) kv: OrdMap<Arc<str>, Arc<KvEntry>>,
    pub(crate) tombstones: OrdMap<Arc<str>, Tombstone>,
    pub(crate) tombstone_order: OrdSet<(u64, Arc<str>)>,
    /// Highest index of a tombstone already forgotten: no prefix may report less.
    pub(crate) tombstone_floor: u64,
    pub(crate) lock_delays: OrdMap<Arc<str>, u64>,
    /// By lower-case name.
    pub(crate) nodes: OrdMap<Arc<str>, Arc<Node>>,
    pub(crate) node_ids: OrdMap<Arc<str>, Arc<str>>,
    /// By `node \0 id`.
    pub(crate) instances: OrdMap<Arc<str>, Arc<Instance>>,
    /// By lower-case service name.
    pub(crate) groups: OrdMap<Arc<str>, Arc<Group>>,
    /// When a service name last disappeared.
    pub(crate) extinction: u64,
    /// By `node \0 check id`.
    pub(crate) checks: OrdMap<Arc<str>, Arc<Check>>,
    /// By `node \0 service id \0 check id`; the service id is empty for a node's own checks.
    pub(crate) checks_of: OrdMap<Arc<str>, Arc<Check>>,
    pub(crate) sessions: OrdMap<Arc<str>, Arc<Session>>,
    /// `node \0 session`.
    pub(crate) node_sessions: OrdSet<Arc<str>>,
    /// `node \0 check \0 session`.
    pub(crate) check_sessions: OrdSet<Arc<str>>,
    /// `session \0 key`.
    pub(crate) session_keys: OrdSet<Arc<str>>,
    pub(crate) local_services: OrdMap<Arc<str>, Arc<LocalService>>,
    pub(crate) local_checks: OrdMap<Arc<str>, Arc<LocalCheck>>,
    /// `service id \0 check id`.
    pub(crate) local_checks_of: OrdSet<Arc<str>>,
    /// By id.
    pub(crate) queries: OrdMap<Arc<str>, Arc<queries::PreparedQuery>>,
    /// By `kind \0 name`.
    pub(crate) config: OrdMap<Arc<str>, Arc<config::ConfigEntry>>,
    /// By id.
    pub(crate) intentions: OrdMap<Arc<str>, Arc<intentions::Intention>>,
    pub(crate) authority: Option<Arc<ca::Authority>>,
    /// By lower-case node name.
    pub(crate) coordinates: OrdMap<Arc<str>, Arc<coordinates::Coordinate>>,
    /// Index of the last restore of a snapshot: no query may report less.
    pub(crate) restored: u64,
}

/// What one command is doing: its index, the time, and whom it concerns so far.
pub(crate) struct Change {
    pub index: u64,
    pub now: u64,
    pub topics: Vec<Topic>,
    /// Something that takes an index changed.
    pub moved: bool,
    /// Something changed that takes none (agent-local output).
    pub quiet: bool,
}

impl Change {
    pub fn touch(&mut self, topic: Topic) {
        self.moved = true;
        if self.topics.len() > 64 || !self.topics.contains(&topic) {
            self.topics.push(topic);
        }
    }
}

impl State {
    /// Applies one command. On a fault or a failed transaction the state is as before.
    pub fn apply(&mut self, command: &Command, now: u64) -> Applied {
        let before = self.clone();
        let (applied, torn) = self.apply_unguarded(command, now);
        if torn {
            *self = before;
        }
        applied
    }

    /// The same for one who can go back by other means: true says that the command failed half-way, so that its first
    /// steps are in the state. Spares the clone and with it the copy of everything that is touched.
    pub fn apply_unguarded(&mut self, command: &Command, now: u64) -> (Applied, bool) {
        let mut change = Change {
            index: self.index().saturating_add(1),
            now,
            topics: Vec::new(),
            moved: false,
            quiet: false,
        };
        let outcome = self.dispatch(command, &mut change);
        let touched = change.moved || change.quiet;
        if matches!(outcome, Err(_) | Ok(Outcome::TxnFailed(_))) {
            return (Applied { outcome, changed: false, topics: Vec::new() }, touched);
        }
        if change.moved {
            self.index = change.index;
        }
        (Applied { outcome, changed: touched, topics: change.topics }, false)
    }

    fn dispatch(&mut self, command: &Command, change: &mut Change) -> Result<Outcome, Fault> {
        match command {
            Command::KvSet { key, value, flags, mode } => {
                self.kv_set(key, value, *flags, mode, change).map(Outcome::Flag)
            }
            Command::KvDelete { key, mode } => Ok(Outcome::Flag(self.kv_delete(key, mode, change))),
            Command::Register(registration) => self.register(registration, change).map(|()| Outcome::Done),
            Command::Deregister { node, target } => {
                self.deregister(node, target, change);
                Ok(Outcome::Done)
            }
            Command::SessionCreate(session) => self.session_create(session, change).map(|()| Outcome::Done),
            Command::SessionDestroy { id, .. } => {
                self.session_destroy(id, change);
                Ok(Outcome::Done)
            }
            Command::Txn(ops) => Ok(self.txn(ops, change)),
            Command::QuerySet(query) => self.query_set(query, change).map(|()| Outcome::Done),
            Command::QueryRemove { id } => {
                self.query_remove(id, change);
                Ok(Outcome::Done)
            }
            Command::ConfigSet { entry, cas } => Ok(Outcome::Flag(self.config_set(entry, *cas, change))),
            Command::ConfigRemove { kind, name } => {
                self.config_remove(kind, name, change);
                Ok(Outcome::Done)
            }
            Command::IntentionSet(intention) => self.intention_set(intention, change).map(|()| Outcome::Done),
            Command::IntentionRemove { id } => {
                self.intention_remove(id, change);
                Ok(Outcome::Done)
            }
            Command::CaSet { cluster, settings, root } => {
                self.ca_set(settings, cluster, root.as_deref(), change);
                Ok(Outcome::Done)
            }
            Command::CaSerial => {
                let number = self.ca_serial(change);
                Ok(Outcome::Serial { number, index: change.index })
            }
            Command::CaForgetRoot { id } => {
                self.ca_forget_root(id, change);
                Ok(Outcome::Done)
            }
            Command::CoordinateSet(coordinate) => {
                self.coordinate_set(coordinate, change);
                Ok(Outcome::Done)
            }
            Command::Restore(records) => {
                self.replace(records, change);
                Ok(Outcome::Done)
            }
            local => self.apply_local(local, change),
        }
    }

    /// The last index taken; 1 before the first change, since a query never reports 0.
    pub fn index(&self) -> u64 {
        self.index.max(1)
    }

    /// The index of a table: that of its last change, at least 1.
    pub fn table_index(&self, table: Table) -> u64 {
        self.tables[table as usize].max(1)
    }

    pub(crate) fn move_table(&mut self, table: Table, change: &mut Change) {
        self.tables[table as usize] = change.index;
        change.touch(Topic::Table(table));
    }
}

/// Names compare without regard to case in the catalog; keys join name parts with NUL.
pub(crate) fn fold(name: &str) -> Arc<str> {
    Arc::from(folded(name))
}

/// The same to look something up.
pub(crate) fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        Cow::Owned(name.to_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

pub(crate) fn join(parts: &[&str]) -> Arc<str> {
    Arc::from(joined(parts))
}

/// The same to look something up.
pub(crate) fn joined(parts: &[&str]) -> String {
    let mut joined = String::with_capacity(parts.iter().map(|p| p.len() + 1).sum());
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            joined.push('\0');
        }
        joined.push_str(part);
    }
    if joined.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        joined = joined.to_lowercase();
    }
    joined
}

/// Values of a map whose keys start with `prefix`, in order.
pub(crate) fn under<'a, 'p, V: Clone>(
    map: &'a OrdMap<Arc<str>, V>,
    prefix: &'p str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a V)> + use<'a, 'p, V> {
    use std::ops::Bound;
    map.range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(k, _)| k.starts_with(prefix))
}

/// Members of a set that start with `prefix`, in order.
pub(crate) fn members<'a, 'p>(
    set: &'a OrdSet<Arc<str>>,
    prefix: &'p str,
) -> impl Iterator<Item = &'a Arc<str>> + use<'a, 'p> {
    use std::ops::Bound;
    set.range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |k| k.starts_with(prefix))
}
