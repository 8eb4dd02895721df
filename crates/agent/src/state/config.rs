//! Configuration entries (`service-defaults`, `proxy-defaults`, ...): documents by kind and name. What a kind holds
//! is checked where it comes in; here they are kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Change, State, Table, join, under};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigEntry {
    pub kind: String,
    pub name: String,
    /// The fields of the kind, without kind, name and indexes.
    pub fields: Map<String, Value>,
    pub create_index: u64,
    pub modify_index: u64,
}

pub(super) fn key(kind: &str, name: &str) -> Arc<str> {
    join(&[kind, name])
}

impl State {
    pub fn config_entry(&self, kind: &str, name: &str) -> Option<&Arc<ConfigEntry>> {
        self.config.get(&key(kind, name))
    }

    pub fn config_entries<'a>(&'a self, kind: &str) -> Vec<&'a Arc<ConfigEntry>> {
        under(&self.config, &key(kind, "")).map(|(_, entry)| entry).collect()
    }

    /// With `cas`, only when the entry's index is that one (0: when there is none). Tells whether it was written.
    pub(super) fn config_set(&mut self, entry: &ConfigEntry, cas: Option<u64>, change: &mut Change) -> bool {
        let key = key(&entry.kind, &entry.name);
        let existing = self.config.get(&key);
        if cas.is_some_and(|wanted| wanted != existing.map_or(0, |e| e.modify_index)) {
            return false;
        }
        let mut stored = entry.clone();
        stored.create_index = existing.map_or(change.index, |e| e.create_index);
        stored.modify_index = change.index;
        self.config.insert(key, Arc::new(stored));
        self.move_table(Table::Config, change);
        true
    }

    /// This version with an entry, to see what it would mean.
    pub fn suppose_config(&mut self, entry: &ConfigEntry) {
        self.config.insert(key(&entry.kind, &entry.name), Arc::new(entry.clone()));
    }

    /// This version without an entry, to see what its absence would mean.
    pub fn forget_config(&mut self, kind: &str, name: &str) {
        self.config.remove(&key(kind, name));
    }

    pub(super) fn config_remove(&mut self, kind: &str, name: &str, change: &mut Change) {
        if self.config.remove(&key(kind, name)).is_some() {
            self.move_table(Table::Config, change);
        }
    }
}
