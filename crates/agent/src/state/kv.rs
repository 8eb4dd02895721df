//! Keys and values: put, check-and-set, locks, deletes, prefixes, and the tombstones that keep a prefix's
//! index growing when a key below it goes.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::command::{DeleteMode, SetMode};
use super::model::KvEntry;
use super::{Change, Fault, State, Table, Tombstone, Topic, under};

/// How long a deleted key is remembered one by one.
const TOMBSTONE_LIFE_MS: u64 = 15 * 60 * 1000;
/// How many old tombstones one command forgets, so that none pays for all.
const TOMBSTONE_SWEEP: usize = 16;

impl State {
    pub fn kv_get(&self, key: &str) -> Option<&Arc<KvEntry>> {
        self.kv.get(key)
    }

    /// Index of a single-key read.
    pub fn kv_index(&self, key: &str) -> u64 {
        let own = self.kv.get(key).map(|entry| entry.modify_index.max(self.restored));
        own.unwrap_or_else(|| self.table_index(Table::Kv))
    }

    pub fn kv_under<'a, 'p>(
        &'a self,
        prefix: &'p str,
    ) -> impl Iterator<Item = &'a Arc<KvEntry>> + use<'a, 'p> {
        under(&self.kv, prefix).map(|(_, entry)| entry)
    }

    /// Index of a prefix read: the highest below it, deleted keys included; the table's when there is nothing.
    pub fn kv_prefix_index(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.table_index(Table::Kv);
        }
        let live = self.kv_under(prefix).map(|e| e.modify_index).max();
        let Some(live) = live else { return self.table_index(Table::Kv) };
        let dead = under(&self.tombstones, prefix).map(|(_, t)| t.index).max().unwrap_or(0);
        live.max(dead).max(self.tombstone_floor)
    }

    /// Whether `key` may not be locked at `now` because its last holder was lost a moment ago.
    pub fn lock_delayed(&self, key: &str, now: u64) -> bool {
        self.lock_delays.get(key).is_some_and(|until| *until > now)
    }

    pub(super) fn kv_set(
        &mut self,
        key: &str,
        value: &Bytes,
        flags: u64,
        mode: &SetMode,
        change: &mut Change,
    ) -> Result<bool, Fault> {
        let existing = self.kv.get(key).cloned();
        let mut entry = KvEntry {
            key: key.to_owned(),
            value: value.clone(),
            flags,
            lock_index: 0,
            session: existing.as_ref().and_then(|e| e.session.clone()),
            create_index: 0,
            modify_index: 0,
        };
        match mode {
            SetMode::Plain => {}
            SetMode::Cas(0) if existing.is_some() => return Ok(false),
            SetMode::Cas(0) => {}
            SetMode::Cas(index) if existing.as_ref().is_some_and(|e| e.modify_index == *index) => {}
            SetMode::Cas(_) => return Ok(false),
            SetMode::Acquire(session) => {
                self.session_must_exist(session)?;
                if self.lock_delayed(key, change.now) {
                    return Ok(false);
                }
                let held = existing.as_ref().and_then(|e| e.session.as_deref());
                let count = existing.as_ref().map_or(0, |e| e.lock_index);
                entry.lock_index = match held {
                    Some(holder) if holder == session => count,
                    Some(_) => return Ok(false),
                    None => count + 1,
                };
                entry.session = Some(session.clone());
            }
            SetMode::Release(session) => {
                if session.is_empty() {
                    return Err(Fault::SessionMissing);
                }
                match existing.as_ref() {
                    Some(e) if e.session.as_ref() == Some(session) => entry.lock_index = e.lock_index,
                    _ => return Ok(false),
                }
                entry.session = None;
            }
        }
        self.kv_store(entry, existing.as_deref(), change);
        Ok(true)
    }

    fn session_must_exist(&self, session: &str) -> Result<(), Fault> {
        if session.is_empty() {
            return Err(Fault::SessionMissing);
        }
        if !self.sessions.contains_key(session) {
            return Err(Fault::SessionUnknown(session.to_owned()));
        }
        Ok(())
    }

    /// Puts an entry unless it is what is there already.
    pub(super) fn kv_store(&mut self, mut entry: KvEntry, existing: Option<&KvEntry>, change: &mut Change) {
        if let Some(old) = existing {
            entry.create_index = old.create_index;
            entry.modify_index = old.modify_index;
            if entry == *old {
                return;
            }
        } else {
            entry.create_index = change.index;
        }
        entry.modify_index = change.index;
        let key: Arc<str> = Arc::from(entry.key.as_str());
        let before = existing.and_then(|e| e.session.as_deref());
        if before != entry.session.as_deref() {
            if let Some(session) = before {
                self.session_keys.remove(&session_key(session, &key));
            }
            if let Some(session) = entry.session.as_deref() {
                self.session_keys.insert(session_key(session, &key));
            }
        }
        self.kv.insert(key.clone(), Arc::new(entry));
        self.tables[Table::Kv as usize] = change.index;
        change.touch(Topic::Key(key));
        self.forget_tombstones(change);
    }

    pub(super) fn kv_delete(&mut self, key: &str, mode: &DeleteMode, change: &mut Change) -> bool {
        match mode {
            DeleteMode::One => {
                self.kv_remove(key, change);
                true
            }
            DeleteMode::Cas(index) => match self.kv.get(key) {
                None => true,
                Some(entry) if *index != 0 && entry.modify_index == *index => {
                    self.kv_remove(key, change);
                    true
                }
                Some(_) => false,
            },
            DeleteMode::Prefix => {
                let keys: Vec<Arc<str>> = under(&self.kv, key).map(|(k, _)| k.clone()).collect();
                for key in keys {
                    self.kv_remove(&key, change);
                }
                true
            }
        }
    }

    pub(super) fn kv_remove(&mut self, key: &str, change: &mut Change) {
        let Some(entry) = self.kv.remove(key) else { return };
        let key: Arc<str> = Arc::from(key);
        if let Some(session) = entry.session.as_deref() {
            self.session_keys.remove(&session_key(session, &key));
        }
        if let Some(old) = self.tombstones.get(&key) {
            self.tombstone_order.remove(&(old.index, key.clone()));
        }
        self.tombstones.insert(key.clone(), Tombstone { index: change.index, at: change.now });
        self.tombstone_order.insert((change.index, key.clone()));
        self.tables[Table::Kv as usize] = change.index;
        change.touch(Topic::Key(key));
        self.forget_tombstones(change);
    }

    /// Only ever part of a change: what the log does not hold must not change the state.
    fn forget_tombstones(&mut self, change: &Change) {
        for _ in 0..TOMBSTONE_SWEEP {
            let Some((index, key)) = self.tombstone_order.get_min().cloned() else { return };
            let old = self.tombstones.get(&key).is_none_or(|t| t.at + TOMBSTONE_LIFE_MS < change.now);
            if !old {
                return;
            }
            self.tombstone_order.remove(&(index, key.clone()));
            self.tombstones.remove(&key);
            self.tombstone_floor = self.tombstone_floor.max(index);
        }
    }

    /// Keys below a prefix, cut after the first separator behind it, each cut once.
    pub fn kv_keys<'a>(&'a self, prefix: &str, separator: &str) -> Vec<&'a str> {
        let mut seen: HashSet<&'a str> = HashSet::new();
        let mut keys = Vec::new();
        for (key, _) in under(&self.kv, prefix) {
            let cut = if separator.is_empty() {
                None
            } else {
                key[prefix.len()..].find(separator).map(|at| &key[..prefix.len() + at + separator.len()])
            };
            match cut {
                None => keys.push(&**key),
                Some(cut) => {
                    if seen.insert(cut) {
                        keys.push(cut);
                    }
                }
            }
        }
        keys
    }
}

/// Keys are case-sensitive, so this does not fold.
pub(super) fn session_key(session: &str, key: &str) -> Arc<str> {
    Arc::from(format!("{session}\0{key}"))
}
