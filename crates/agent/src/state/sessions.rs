//! Sessions: created against healthy checks, ended with their locks released or deleted.

use std::sync::Arc;

use super::command::{DeleteMode, SetMode};
use super::kv::session_key;
use super::model::{Behavior, KvEntry, Session};
use super::{Change, Fault, State, Table, join, members};

/// However long a session asks for, nanoseconds.
const LONGEST_LOCK_DELAY: u64 = 60_000_000_000;

impl State {
    pub fn session(&self, id: &str) -> Option<&Arc<Session>> {
        self.sessions.get(id)
    }

    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values()
    }

    pub fn node_sessions<'a>(&'a self, node: &str) -> Vec<&'a Arc<Session>> {
        let prefix = join(&[node, ""]);
        members(&self.node_sessions, &prefix).filter_map(|k| self.sessions.get(&k[prefix.len()..])).collect()
    }

    pub(super) fn session_create(&mut self, session: &Session, change: &mut Change) -> Result<(), Fault> {
        if self.sessions.contains_key(session.id.as_str()) {
            return Err(Fault::SessionExists(session.id.clone()));
        }
        if self.node(&session.node).is_none() {
            return Err(Fault::NodeUnknown);
        }
        for id in bound_checks(session) {
            let Some(check) = self.checks.get(&join(&[&session.node, id])) else {
                return Err(Fault::CheckUnknown(id.to_owned()));
            };
            if check.status == "critical" {
                return Err(Fault::CheckCritical(id.to_owned()));
            }
        }
        let mut stored = session.clone();
        stored.create_index = change.index;
        stored.modify_index = change.index;
        self.node_sessions.insert(join(&[&stored.node, &stored.id]));
        for id in bound_checks(&stored) {
            self.check_sessions.insert(join(&[&stored.node, id, &stored.id]));
        }
        self.sessions.insert(Arc::from(stored.id.as_str()), Arc::new(stored));
        self.move_table(Table::Sessions, change);
        Ok(())
    }

    /// Ends a session: its locks are released or its keys deleted, and refuse a new holder for the lock delay.
    pub(super) fn session_destroy(&mut self, id: &str, change: &mut Change) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.node_sessions.remove(&join(&[&session.node, &session.id]));
        for check in bound_checks(&session) {
            self.check_sessions.remove(&join(&[&session.node, check, &session.id]));
        }
        self.move_table(Table::Sessions, change);
        self.end_queries_of_session(id, change);
        let prefix = session_key(id, "");
        let keys: Vec<Arc<str>> = members(&self.session_keys, &prefix).cloned().collect();
        for joined in keys {
            let key = &joined[prefix.len()..];
            self.lose_lock(key, &session, change);
        }
        self.lock_delays = self
            .lock_delays
            .iter()
            .filter(|(_, until)| **until > change.now)
            .map(|(k, u)| (k.clone(), *u))
            .collect();
    }

    fn lose_lock(&mut self, key: &str, session: &Session, change: &mut Change) {
        let Some(entry) = self.kv.get(key).cloned() else { return };
        if session.lock_delay > 0 {
            let delay = session.lock_delay.min(LONGEST_LOCK_DELAY);
            self.lock_delays.insert(Arc::from(key), change.now + delay / 1_000_000);
        }
        match session.behavior {
            Behavior::Release => {
                let released = KvEntry { session: None, ..(*entry).clone() };
                self.kv_store(released, Some(&entry), change);
            }
            Behavior::Delete => self.kv_remove(key, change),
        }
    }

    /// Ends the sessions bound to a check that became critical or went away.
    pub(super) fn end_sessions_of_check(&mut self, node: &str, check: &str, change: &mut Change) {
        let prefix = join(&[node, check, ""]);
        let ids: Vec<String> =
            members(&self.check_sessions, &prefix).map(|k| k[prefix.len()..].to_owned()).collect();
        for id in ids {
            self.session_destroy(&id, change);
        }
    }

    pub(super) fn end_sessions_of_node(&mut self, node: &str, change: &mut Change) {
        let ids: Vec<String> = self.node_sessions(node).into_iter().map(|s| s.id.clone()).collect();
        for id in ids {
            self.session_destroy(&id, change);
        }
    }

    /// Used by transactions, which name their verbs in text.
    pub(super) fn set_mode(verb: &str, index: u64, session: &str) -> Option<SetMode> {
        Some(match verb {
            "set" => SetMode::Plain,
            "cas" => SetMode::Cas(index),
            "lock" => SetMode::Acquire(session.to_owned()),
            "unlock" => SetMode::Release(session.to_owned()),
            _ => return None,
        })
    }

    pub(super) fn delete_mode(verb: &str, index: u64) -> Option<DeleteMode> {
        Some(match verb {
            "delete" => DeleteMode::One,
            "delete-cas" => DeleteMode::Cas(index),
            "delete-tree" => DeleteMode::Prefix,
            _ => return None,
        })
    }
}

pub(super) fn bound_checks(session: &Session) -> impl Iterator<Item = &str> {
    let services = session.service_checks.iter().flatten().map(|c| c.id.as_str());
    session.node_checks.iter().chain(&session.checks).map(String::as_str).chain(services)
}
