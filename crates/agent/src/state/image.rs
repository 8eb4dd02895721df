//! The whole state as a stream of records, for snapshots, and back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ca::Authority;
use super::config::{self, ConfigEntry};
use super::coordinates::Coordinate;
use super::intentions::Intention;
use super::kv::session_key;
use super::local::{LocalCheck, LocalService};
use super::model::{Check, Instance, KvEntry, Node, Session};
use super::queries::PreparedQuery;
use super::sessions::bound_checks;
use super::{Group, State, Tombstone, fold, join};

/// One record of a snapshot. Secondary maps are rebuilt, not stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    Head {
        index: u64,
        /// In the order of `Table`; a snapshot of an older version may have fewer.
        tables: Vec<u64>,
        extinction: u64,
        tombstone_floor: u64,
        /// Of the last restore; snapshots of older versions have none.
        #[serde(default)]
        restored: u64,
    },
    Kv(Arc<KvEntry>),
    Tombstone {
        key: String,
        index: u64,
        at: u64,
    },
    LockDelay {
        key: String,
        until: u64,
    },
    Node(Arc<Node>),
    Instance(Arc<Instance>),
    /// Comes after the instances.
    Group {
        name: String,
        index: u64,
    },
    Check(Arc<Check>),
    Session(Arc<Session>),
    LocalService(Arc<LocalService>),
    LocalCheck(Arc<LocalCheck>),
    Query(Arc<PreparedQuery>),
    Config(Arc<ConfigEntry>),
    Intention(Arc<Intention>),
    Authority(Arc<Authority>),
    Coordinate(Arc<Coordinate>),
    /// Must be the last one: a snapshot without it is not whole.
    End {
        records: u64,
    },
}

impl State {
    /// Every record of this version, in the order [`State::restore`] wants them; the last one is `End`.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let head = Record::Head {
            index: self.index,
            tables: self.tables.to_vec(),
            extinction: self.extinction,
            tombstone_floor: self.tombstone_floor,
            restored: self.restored,
        };
        let tombstones = self.tombstones.iter().map(|(key, t)| Record::Tombstone {
            key: key.to_string(),
            index: t.index,
            at: t.at,
        });
        let delays = self
            .lock_delays
            .iter()
            .map(|(key, until)| Record::LockDelay { key: key.to_string(), until: *until });
        let groups = self.groups.values().map(|g| Record::Group { name: g.name.to_string(), index: g.index });
        let mut count = 0;
        std::iter::once(head)
            .chain(self.kv.values().cloned().map(Record::Kv))
            .chain(tombstones)
            .chain(delays)
            .chain(self.nodes.values().cloned().map(Record::Node))
            .chain(self.instances.values().cloned().map(Record::Instance))
            .chain(groups)
            .chain(self.checks.values().cloned().map(Record::Check))
            .chain(self.sessions.values().cloned().map(Record::Session))
            .chain(self.local_services.values().cloned().map(Record::LocalService))
            .chain(self.local_checks.values().cloned().map(Record::LocalCheck))
            .chain(self.queries.values().cloned().map(Record::Query))
            .chain(self.config.values().cloned().map(Record::Config))
            .chain(self.intentions.values().cloned().map(Record::Intention))
            .chain(self.authority.iter().cloned().map(Record::Authority))
            .chain(self.coordinates.values().cloned().map(Record::Coordinate))
            .map(Some)
            .chain(std::iter::once(None))
            .map(move |record| {
                count += 1;
                record.unwrap_or(Record::End { records: count - 1 })
            })
    }

    /// Takes one record of a snapshot in.
    pub fn restore(&mut self, record: Record) {
        match record {
            Record::Head { index, tables, extinction, tombstone_floor, restored } => {
                self.index = index;
                for (own, stored) in self.tables.iter_mut().zip(tables) {
                    *own = stored;
                }
                self.extinction = extinction;
                self.tombstone_floor = tombstone_floor;
                self.restored = restored;
            }
            Record::Kv(entry) => {
                if let Some(session) = entry.session.as_deref() {
                    self.session_keys.insert(session_key(session, &entry.key));
                }
                self.kv.insert(Arc::from(entry.key.as_str()), entry);
            }
            Record::Tombstone { key, index, at } => {
                let key: Arc<str> = Arc::from(key);
                self.tombstone_order.insert((index, key.clone()));
                self.tombstones.insert(key, Tombstone { index, at });
            }
            Record::LockDelay { key, until } => {
                self.lock_delays.insert(Arc::from(key), until);
            }
            Record::Node(node) => {
                let key = fold(&node.node);
                if !node.id.is_empty() {
                    self.node_ids.insert(fold(&node.id), key.clone());
                }
                self.nodes.insert(key, node);
            }
            Record::Instance(instance) => self.restore_instance(instance),
            Record::Group { name, index } => {
                if let Some(group) = self.groups.get_mut(&*fold(&name)) {
                    let group = Arc::make_mut(group);
                    group.index = index;
                    group.name = Arc::from(name);
                }
            }
            Record::Check(check) => {
                self.checks_of
                    .insert(join(&[&check.node, &check.service_id, &check.check_id]), check.clone());
                self.checks.insert(join(&[&check.node, &check.check_id]), check);
            }
            Record::Session(session) => self.restore_session(session),
            Record::LocalService(service) => {
                self.local_services.insert(Arc::from(service.service.id.as_str()), service);
            }
            Record::LocalCheck(check) => {
                self.store_local_check(check);
            }
            Record::Query(query) => {
                self.queries.insert(Arc::from(query.id.as_str()), query);
            }
            Record::Config(entry) => {
                self.config.insert(config::key(&entry.kind, &entry.name), entry);
            }
            Record::Intention(intention) => {
                self.intentions.insert(Arc::from(intention.id.as_str()), intention);
            }
            Record::Authority(authority) => self.authority = Some(authority),
            Record::Coordinate(coordinate) => {
                self.coordinates.insert(fold(&coordinate.node), coordinate);
            }
            Record::End { .. } => {}
        }
    }

    fn restore_instance(&mut self, instance: Arc<Instance>) {
        let key = join(&[&instance.node, &instance.service.id]);
        let name = fold(&instance.service.service);
        let group = self.groups.entry(name).or_insert_with(|| {
            Arc::new(Group {
                name: Arc::from(instance.service.service.as_str()),
                index: 0,
                instances: Default::default(),
                tags: Default::default(),
            })
        });
        Arc::make_mut(group).put(key.clone(), instance.clone());
        self.instances.insert(key, instance);
    }

    fn restore_session(&mut self, session: Arc<Session>) {
        self.node_sessions.insert(join(&[&session.node, &session.id]));
        for check in bound_checks(&session) {
            self.check_sessions.insert(join(&[&session.node, check, &session.id]));
        }
        self.sessions.insert(Arc::from(session.id.as_str()), session);
    }
}
