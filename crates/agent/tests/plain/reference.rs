//! The store as plainly as it can be said: ordered maps, every question answered by looking at everything. Without the
//! agent's own registrations.

use std::collections::{BTreeMap, BTreeSet};

use plinth_agent::state::command::{Command, DeleteMode, Registration, SetMode, Target, TxnOp};
use plinth_agent::state::model::{Behavior, Check, KvEntry, Node, Service, Session};
use plinth_agent::state::{Outcome, State, Table};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::commands::{KEYS, PREFIXES, SERVICES};

const TABLES: [Table; 5] = [Table::Nodes, Table::Services, Table::Checks, Table::Sessions, Table::Kv];
/// How long deleted keys are remembered one by one, in milliseconds.
const REMEMBERED: u64 = 15 * 60 * 1000;

/// What a command answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Refused,
    Done,
    Flag(bool),
    /// Places of the operations that failed.
    Failed(Vec<usize>),
}

#[derive(Clone, Debug, Default)]
pub struct Reference {
    index: u64,
    tables: [u64; 5],
    keys: BTreeMap<String, KvEntry>,
    /// Every deletion there ever was: key, index, time.
    deleted: Vec<(String, u64, u64)>,
    delays: BTreeMap<String, u64>,
    nodes: BTreeMap<String, Node>,
    /// By node and id.
    services: BTreeMap<(String, String), Service>,
    checks: BTreeMap<(String, String), Check>,
    sessions: BTreeMap<String, Session>,
    /// By name; only names that somebody has.
    service_indexes: BTreeMap<String, u64>,
    /// When a name last went.
    gone: u64,
}

/// What a command touches.
struct Now {
    index: u64,
    time: u64,
    tables: BTreeSet<usize>,
}

fn lower(name: &str) -> String {
    name.to_lowercase()
}

impl Reference {
    pub fn knows(command: &Command) -> bool {
        matches!(
            command,
            Command::KvSet { .. }
                | Command::KvDelete { .. }
                | Command::Register(_)
                | Command::Deregister { .. }
                | Command::SessionCreate(_)
                | Command::SessionDestroy { .. }
                | Command::Txn(_)
        )
    }

    pub fn answer_of(outcome: &Result<Outcome, ()>) -> Answer {
        match outcome {
            Err(()) => Answer::Refused,
            Ok(Outcome::Flag(done)) => Answer::Flag(*done),
            Ok(Outcome::TxnFailed(failures)) => Answer::Failed(failures.iter().map(|f| f.op_index).collect()),
            Ok(Outcome::Done | Outcome::Txn(_) | Outcome::Serial { .. }) => Answer::Done,
        }
    }

    pub fn apply(&mut self, command: &Command, time: u64) -> Answer {
        let before = self.clone();
        let mut now = Now { index: self.index.max(1) + 1, time, tables: BTreeSet::new() };
        let answer = self.run(command, &mut now).unwrap_or(Answer::Refused);
        if matches!(answer, Answer::Refused | Answer::Failed(_)) {
            *self = before;
            return answer;
        }
        for table in &now.tables {
            self.tables[*table] = now.index;
            self.index = now.index;
        }
        answer
    }

    fn run(&mut self, command: &Command, now: &mut Now) -> Option<Answer> {
        match command {
            Command::KvSet { key, value, flags, mode } => {
                return self.set(key, value, *flags, mode, now).map(Answer::Flag);
            }
            Command::KvDelete { key, mode } => return Some(Answer::Flag(self.delete(key, mode, now))),
            Command::Register(registration) => self.register(registration, now)?,
            Command::Deregister { node, target: Target::Node } => self.remove_node(node, now),
            Command::Deregister { node, target: Target::Service(id) } => self.remove_service(node, id, now),
            Command::Deregister { node, target: Target::Check(id) } => self.remove_check(node, id, now),
            Command::SessionCreate(session) => self.create(session, now)?,
            Command::SessionDestroy { id, .. } => self.end(id, now),
            Command::Txn(ops) => return Some(self.transact(ops, now)),
            _ => {}
        }
        Some(Answer::Done)
    }

    fn touch(&mut self, table: Table, now: &mut Now) {
        now.tables.insert(table as usize);
    }

    // Keys

    fn set(
        &mut self,
        key: &str,
        value: &bytes::Bytes,
        flags: u64,
        mode: &SetMode,
        now: &mut Now,
    ) -> Option<bool> {
        let old = self.keys.get(key).cloned();
        let mut new = KvEntry { key: key.to_owned(), value: value.clone(), flags, ..KvEntry::default() };
        new.session = old.as_ref().and_then(|e| e.session.clone());
        let holder = new.session.clone();
        let count = old.as_ref().map_or(0, |e| e.lock_index);
        match mode {
            SetMode::Plain => {}
            SetMode::Cas(wanted) => {
                if *wanted != old.as_ref().map_or(0, |e| e.modify_index) {
                    return Some(false);
                }
            }
            SetMode::Acquire(session) => {
                self.sessions.get(session)?;
                if self.delays.get(key).is_some_and(|until| *until > now.time) {
                    return Some(false);
                }
                if holder.as_ref().is_some_and(|h| h != session) {
                    return Some(false);
                }
                new.lock_index = if holder.is_some() { count } else { count + 1 };
                new.session = Some(session.clone());
            }
            SetMode::Release(session) => {
                if holder.as_ref() != Some(session) {
                    return Some(false);
                }
                new.lock_index = count;
                new.session = None;
            }
        }
        self.put(new, now);
        Some(true)
    }

    fn put(&mut self, mut new: KvEntry, now: &mut Now) {
        new.create_index = now.index;
        if let Some(old) = self.keys.get(&new.key) {
            new.create_index = old.create_index;
            new.modify_index = old.modify_index;
            if new == *old {
                return;
            }
        }
        new.modify_index = now.index;
        self.keys.insert(new.key.clone(), new);
        self.touch(Table::Kv, now);
    }

    fn remove(&mut self, key: &str, now: &mut Now) {
        if self.keys.remove(key).is_some() {
            self.deleted.push((key.to_owned(), now.index, now.time));
            self.touch(Table::Kv, now);
        }
    }

    fn delete(&mut self, key: &str, mode: &DeleteMode, now: &mut Now) -> bool {
        match mode {
            DeleteMode::One => self.remove(key, now),
            DeleteMode::Cas(wanted) => {
                if self.keys.get(key).is_some_and(|e| e.modify_index != *wanted) {
                    return false;
                }
                self.remove(key, now);
            }
            DeleteMode::Prefix => {
                let below: Vec<String> = self.keys.keys().filter(|k| k.starts_with(key)).cloned().collect();
                below.iter().for_each(|key| self.remove(key, now));
            }
        }
        true
    }

    // Catalog

    fn register(&mut self, registration: &Registration, now: &mut Now) -> Option<()> {
        let name = &registration.node.node;
        if !registration.skip_node_update || !self.nodes.contains_key(&lower(name)) {
            self.put_node(&registration.node, now);
        }
        if let Some(service) = &registration.service {
            self.put_service(name, service, now)?;
        }
        registration.checks.iter().try_for_each(|check| self.put_check(check, now))
    }

    fn move_service(&mut self, name: &str, now: &Now) {
        if let Some(index) = self.service_indexes.get_mut(&lower(name)) {
            *index = now.index;
        }
    }

    fn move_node(&mut self, node: &str, now: &Now) {
        let names: Vec<String> = self
            .services
            .iter()
            .filter(|((n, _), _)| *n == lower(node))
            .map(|(_, s)| s.service.clone())
            .collect();
        names.iter().for_each(|name| self.move_service(name, now));
    }

    /// A check concerns its service, or all of its node.
    fn move_checked(&mut self, node: &str, service_id: &str, now: &Now) {
        if service_id.is_empty() {
            self.move_node(node, now);
        } else if let Some(service) = self.services.get(&(lower(node), service_id.to_owned())) {
            let name = service.service.clone();
            self.move_service(&name, now);
        }
    }

    fn put_node(&mut self, node: &Node, now: &mut Now) {
        let mut new = node.clone();
        new.create_index = now.index;
        if let Some(old) = self.nodes.get(&lower(&node.node)) {
            (new.create_index, new.modify_index) = (old.create_index, old.modify_index);
            if new == *old {
                return;
            }
        }
        new.modify_index = now.index;
        self.nodes.insert(lower(&node.node), new);
        self.touch(Table::Nodes, now);
        self.move_node(&node.node, now);
    }

    fn put_service(&mut self, node: &str, service: &Service, now: &mut Now) -> Option<()> {
        self.nodes.get(&lower(node))?;
        let place = (lower(node), service.id.clone());
        let mut new = service.clone();
        new.create_index = now.index;
        let old = self.services.get(&place).cloned();
        if let Some(old) = &old {
            (new.create_index, new.modify_index) = (old.create_index, old.modify_index);
            if new == *old {
                return Some(());
            }
        }
        new.modify_index = now.index;
        self.services.insert(place, new);
        self.service_indexes.insert(lower(&service.service), now.index);
        if let Some(old) = old {
            self.move_service(&old.service, now);
            self.names_that_went(now);
        }
        self.touch(Table::Services, now);
        Some(())
    }

    fn names_that_went(&mut self, now: &Now) {
        let there: BTreeSet<String> = self.services.values().map(|s| lower(&s.service)).collect();
        let before = self.service_indexes.len();
        self.service_indexes.retain(|name, _| there.contains(name));
        if self.service_indexes.len() < before {
            self.gone = now.index;
        }
    }

    fn put_check(&mut self, check: &Check, now: &mut Now) -> Option<()> {
        self.nodes.get(&lower(&check.node))?;
        let mut new = check.clone();
        if !check.service_id.is_empty() {
            let service = self.services.get(&(lower(&check.node), check.service_id.clone()))?;
            new.service_name.clone_from(&service.service);
            new.service_tags.clone_from(&service.tags);
        }
        let place = (lower(&check.node), check.check_id.clone());
        new.create_index = now.index;
        if let Some(old) = self.checks.get(&place).cloned() {
            (new.create_index, new.modify_index) = (old.create_index, old.modify_index);
            if new == old {
                return Some(());
            }
            self.move_checked(&check.node, &old.service_id, now);
        }
        new.modify_index = now.index;
        self.checks.insert(place, new);
        self.touch(Table::Checks, now);
        self.move_checked(&check.node, &check.service_id, now);
        if check.status == "critical" {
            self.end_those_bound(&check.node, &check.check_id, now);
        }
        Some(())
    }

    fn remove_check(&mut self, node: &str, id: &str, now: &mut Now) {
        let Some(check) = self.checks.remove(&(lower(node), id.to_owned())) else { return };
        self.touch(Table::Checks, now);
        self.move_checked(node, &check.service_id, now);
        self.end_those_bound(node, id, now);
    }

    fn checks_where(&self, node: &str, fits: impl Fn(&Check) -> bool) -> Vec<String> {
        let of_node = self.checks.iter().filter(|((n, _), _)| *n == lower(node));
        of_node.filter(|(_, check)| fits(check)).map(|((_, id), _)| id.clone()).collect()
    }

    fn remove_service(&mut self, node: &str, id: &str, now: &mut Now) {
        let place = (lower(node), id.to_owned());
        let Some(service) = self.services.get(&place).cloned() else { return };
        for check in self.checks_where(node, |check| check.service_id == id) {
            self.remove_check(node, &check, now);
        }
        self.services.remove(&place);
        self.move_service(&service.service, now);
        self.names_that_went(now);
        self.touch(Table::Services, now);
    }

    fn remove_node(&mut self, node: &str, now: &mut Now) {
        if !self.nodes.contains_key(&lower(node)) {
            return;
        }
        let ids: Vec<String> =
            self.services.keys().filter(|(n, _)| *n == lower(node)).map(|(_, id)| id.clone()).collect();
        ids.iter().for_each(|id| self.remove_service(node, id, now));
        for check in self.checks_where(node, |_| true) {
            self.remove_check(node, &check, now);
        }
        self.end_where(|session| lower(&session.node) == lower(node), now);
        self.nodes.remove(&lower(node));
        self.touch(Table::Nodes, now);
    }

    // Sessions

    fn create(&mut self, session: &Session, now: &mut Now) -> Option<()> {
        if self.sessions.contains_key(&session.id) {
            return None;
        }
        self.nodes.get(&lower(&session.node))?;
        for check in &session.node_checks {
            let check = self.checks.get(&(lower(&session.node), check.clone()))?;
            if check.status == "critical" {
                return None;
            }
        }
        let new = Session { create_index: now.index, modify_index: now.index, ..session.clone() };
        self.sessions.insert(session.id.clone(), new);
        self.touch(Table::Sessions, now);
        Some(())
    }

    fn end_those_bound(&mut self, node: &str, check: &str, now: &mut Now) {
        let bound = |s: &Session| lower(&s.node) == lower(node) && s.node_checks.iter().any(|c| c == check);
        self.end_where(bound, now);
    }

    fn end_where(&mut self, fits: impl Fn(&Session) -> bool, now: &mut Now) {
        let ids: Vec<String> = self.sessions.values().filter(|s| fits(s)).map(|s| s.id.clone()).collect();
        ids.iter().for_each(|id| self.end(id, now));
    }

    fn end(&mut self, id: &str, now: &mut Now) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.touch(Table::Sessions, now);
        let held: Vec<KvEntry> =
            self.keys.values().filter(|e| e.session.as_deref() == Some(id)).cloned().collect();
        for entry in held {
            if session.lock_delay > 0 {
                self.delays.insert(entry.key.clone(), now.time + session.lock_delay / 1_000_000);
            }
            match session.behavior {
                Behavior::Delete => self.remove(&entry.key, now),
                Behavior::Release => self.put(KvEntry { session: None, ..entry }, now),
            }
        }
    }

    // Transactions

    fn transact(&mut self, ops: &[TxnOp], now: &mut Now) -> Answer {
        let delayed = |op: &TxnOp| match op {
            TxnOp::Kv { verb, key, .. } => {
                verb == "lock" && self.delays.get(key).is_some_and(|d| *d > now.time)
            }
            _ => false,
        };
        let numbered = || ops.iter().enumerate();
        let mut failed: Vec<usize> = numbered().filter(|(_, op)| delayed(op)).map(|(n, _)| n).collect();
        if failed.is_empty() {
            failed = numbered().filter(|(_, op)| !self.operate(op, now)).map(|(n, _)| n).collect();
        }
        if failed.is_empty() { Answer::Done } else { Answer::Failed(failed) }
    }

    fn operate(&mut self, op: &TxnOp, now: &mut Now) -> bool {
        match op {
            TxnOp::Kv { verb, key, value, flags, index, session } => {
                self.operate_key((verb, key, value, *flags, *index, session), now)
            }
            TxnOp::Node { verb, node } => {
                let current = self.nodes.get(&lower(&node.node)).map_or(0, |n| n.modify_index);
                let fits = fits(verb, node.modify_index, current);
                match verb.as_str() {
                    "set" | "cas" if fits => self.put_node(node, now),
                    "delete" | "delete-cas" if fits => self.remove_node(&node.node, now),
                    "get" => return current > 0,
                    _ => return false,
                }
                true
            }
            TxnOp::Service { verb, node, service } => {
                let place = (lower(node), service.id.clone());
                let current = self.services.get(&place).map_or(0, |s| s.modify_index);
                let fits = fits(verb, service.modify_index, current);
                match verb.as_str() {
                    "set" | "cas" if fits => return self.put_service(node, service, now).is_some(),
                    "delete" | "delete-cas" if fits => self.remove_service(node, &service.id, now),
                    "get" => return current > 0,
                    _ => return false,
                }
                true
            }
            TxnOp::Check { verb, check } => {
                let place = (lower(&check.node), check.check_id.clone());
                let current = self.checks.get(&place).map_or(0, |c| c.modify_index);
                let fits = fits(verb, check.modify_index, current);
                match verb.as_str() {
                    "set" | "cas" if fits => return self.put_check(check, now).is_some(),
                    "delete" | "delete-cas" if fits => self.remove_check(&check.node, &check.check_id, now),
                    "get" => return current > 0,
                    _ => return false,
                }
                true
            }
        }
    }

    fn operate_key(
        &mut self,
        (verb, key, value, flags, index, session): (&str, &str, &bytes::Bytes, u64, u64, &str),
        now: &mut Now,
    ) -> bool {
        let entry = self.keys.get(key).cloned();
        let session = session.to_owned();
        let mut set = |mode| self.set(key, value, flags, &mode, now) == Some(true);
        match verb {
            "set" => set(SetMode::Plain),
            "cas" => set(SetMode::Cas(index)),
            "lock" => set(SetMode::Acquire(session)),
            "unlock" => set(SetMode::Release(session)),
            "delete" => self.delete(key, &DeleteMode::One, now),
            "delete-cas" => self.delete(key, &DeleteMode::Cas(index), now),
            "delete-tree" => self.delete(key, &DeleteMode::Prefix, now),
            "get" => entry.is_some(),
            "get-tree" => true,
            "check-index" => entry.is_some_and(|e| e.modify_index == index),
            "check-session" => entry.is_some_and(|e| e.session.unwrap_or_default() == session),
            "check-not-exists" => entry.is_none(),
            _ => false,
        }
    }

    // Comparing

    pub fn compare(&self, state: &State, time: u64) -> Result<(), TestCaseError> {
        prop_assert_eq!(state.index(), self.index.max(1));
        for table in TABLES {
            prop_assert_eq!(state.table_index(table), self.tables[table as usize].max(1), "{:?}", table);
        }
        prop_assert!(state.kv_under("").map(|e| &**e).eq(self.keys.values()));
        prop_assert!(state.nodes().map(|n| &**n).eq(self.nodes.values()));
        prop_assert!(state.sessions().map(|s| &**s).eq(self.sessions.values()));
        prop_assert!(state.checks().map(|c| &**c).eq(self.checks.values()));
        let services: BTreeMap<(String, String), Service> = state
            .groups()
            .flat_map(|group| group.instances.values())
            .map(|i| ((lower(&i.node), i.service.id.clone()), i.service.clone()))
            .collect();
        prop_assert_eq!(&services, &self.services);
        for name in SERVICES {
            let index = self.service_indexes.get(&lower(name)).copied().unwrap_or(self.gone).max(1);
            prop_assert_eq!(state.service_index(name), index, "{}", name);
        }
        for key in KEYS {
            prop_assert_eq!(state.lock_delayed(key, time), self.delays.get(key).is_some_and(|d| *d > time));
        }
        PREFIXES.iter().try_for_each(|prefix| self.compare_prefix(state, prefix, time))
    }

    /// Deletions older than what is remembered may raise the index of any prefix, but only to theirs.
    fn compare_prefix(&self, state: &State, prefix: &str, time: u64) -> Result<(), TestCaseError> {
        let found = state.kv_prefix_index(prefix);
        let live = self.keys.values().filter(|e| e.key.starts_with(prefix)).map(|e| e.modify_index).max();
        let Some(live) = live else {
            prop_assert_eq!(found, self.tables[Table::Kv as usize].max(1), "{}", prefix);
            return Ok(());
        };
        let below =
            self.deleted.iter().filter(|(key, ..)| key.starts_with(prefix)).map(|(_, index, _)| *index);
        let least = below.max().unwrap_or(0).max(live);
        let old = self.deleted.iter().filter(|(_, _, at)| at + REMEMBERED < time).map(|(_, index, _)| *index);
        let most = old.max().unwrap_or(0).max(least);
        prop_assert!((least..=most).contains(&found), "{}: {} not in {}..={}", prefix, found, least, most);
        Ok(())
    }
}

fn fits(verb: &str, given: u64, current: u64) -> bool {
    match verb {
        "cas" => given == current,
        "delete-cas" => current != 0 && given == current,
        _ => true,
    }
}
