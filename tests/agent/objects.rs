//! What the agent stores, as sequential objects for the checker. All values written are different, so that a value says
//! which write it is from, and a check-and-set with the index of a read is one with the value of that read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use stateright::semantics::SequentialSpec;

/// One key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Register(pub Option<u64>);

#[derive(Clone, Debug, PartialEq)]
pub enum RegisterOp {
    Get,
    Put(u64),
    /// Sets to the second if the first is there.
    Cas(Option<u64>, u64),
    Delete,
    DeleteCas(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum RegisterRet {
    Value(Option<u64>),
    Done(bool),
}

impl SequentialSpec for Register {
    type Op = RegisterOp;
    type Ret = RegisterRet;

    fn invoke(&mut self, op: &RegisterOp) -> RegisterRet {
        RegisterRet::Done(match *op {
            RegisterOp::Get => return RegisterRet::Value(self.0),
            RegisterOp::Put(value) => {
                self.0 = Some(value);
                true
            }
            RegisterOp::Cas(expected, value) => {
                let fits = self.0 == expected;
                if fits {
                    self.0 = Some(value);
                }
                fits
            }
            RegisterOp::Delete => {
                self.0 = None;
                true
            }
            // Consul answers true when there is nothing to delete
            RegisterOp::DeleteCas(expected) => {
                let fits = self.0.is_none_or(|value| value == expected);
                if fits {
                    self.0 = None;
                }
                fits
            }
        })
    }
}

/// Some keys that change and are read together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub BTreeMap<usize, u64>);

#[derive(Clone, Debug, PartialEq)]
pub enum TableOp {
    /// One key by itself.
    Get(usize),
    Put(usize, u64),
    /// All in one read.
    All,
    /// All of it or nothing.
    Set(Vec<(usize, u64)>),
    /// Sets the second and third if the first has this value.
    Move {
        key: usize,
        expected: u64,
        sets: Vec<(usize, u64)>,
    },
    /// Deletes all in one write.
    Clear,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TableRet {
    One(Option<u64>),
    Many(BTreeMap<usize, u64>),
    Done(bool),
}

impl SequentialSpec for Table {
    type Op = TableOp;
    type Ret = TableRet;

    fn invoke(&mut self, op: &TableOp) -> TableRet {
        match op {
            TableOp::Get(key) => return TableRet::One(self.0.get(key).copied()),
            TableOp::All => return TableRet::Many(self.0.clone()),
            TableOp::Put(key, value) => {
                self.0.insert(*key, *value);
            }
            TableOp::Set(sets) => self.0.extend(sets.iter().copied()),
            TableOp::Move { key, expected, sets } => {
                if self.0.get(key) != Some(expected) {
                    return TableRet::Done(false);
                }
                self.0.extend(sets.iter().copied());
            }
            TableOp::Clear => self.0.clear(),
        }
        TableRet::Done(true)
    }
}

/// Sessions and the keys they lock. Sessions have numbers in the order in which the test learnt of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Locks {
    pub sessions: BTreeSet<(u64, bool)>,
    /// Value and holder.
    pub keys: BTreeMap<usize, (u64, Option<u64>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LockOp {
    /// Keys of the session are deleted with it, if true.
    Create(bool),
    Destroy(u64),
    Acquire {
        key: usize,
        session: u64,
        value: u64,
    },
    Release {
        key: usize,
        session: u64,
        value: u64,
    },
    Get(usize),
    /// Whether the session is there.
    Info(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum LockRet {
    Session(u64),
    Done(bool),
    NoSession,
    Key(Option<(u64, Option<u64>)>),
}

impl Locks {
    fn end(&mut self, session: u64) {
        let Some(&ended) = self.sessions.iter().find(|(id, _)| *id == session) else { return };
        self.sessions.remove(&ended);
        if ended.1 {
            self.keys.retain(|_, (_, holder)| *holder != Some(session));
        }
        for (_, holder) in self.keys.values_mut().filter(|(_, holder)| *holder == Some(session)) {
            *holder = None;
        }
    }

    fn has(&self, session: u64) -> bool {
        self.sessions.iter().any(|(id, _)| *id == session)
    }
}

impl SequentialSpec for Locks {
    type Op = LockOp;
    type Ret = LockRet;

    fn invoke(&mut self, op: &LockOp) -> LockRet {
        match *op {
            // Only asked for a creation without an answer: nobody knows the session, so nothing follows from it.
            LockOp::Create(_) => LockRet::Done(true),
            LockOp::Destroy(session) => {
                self.end(session);
                LockRet::Done(true)
            }
            LockOp::Acquire { key, session, value } => {
                if !self.has(session) {
                    return LockRet::NoSession;
                }
                let free = self.keys.get(&key).and_then(|(_, holder)| *holder).is_none_or(|id| id == session);
                if free {
                    self.keys.insert(key, (value, Some(session)));
                }
                LockRet::Done(free)
            }
            LockOp::Release { key, session, value } => {
                let held = self.keys.get(&key).is_some_and(|(_, holder)| *holder == Some(session));
                if held {
                    self.keys.insert(key, (value, None));
                }
                LockRet::Done(held)
            }
            LockOp::Get(key) => LockRet::Key(self.keys.get(&key).copied()),
            LockOp::Info(session) => LockRet::Done(self.has(session)),
        }
    }

    fn is_valid_step(&mut self, op: &LockOp, ret: &LockRet) -> bool {
        if let (LockOp::Create(delete), LockRet::Session(id)) = (op, ret) {
            return self.sessions.insert((*id, *delete));
        }
        self.invoke(op) == *ret
    }
}
