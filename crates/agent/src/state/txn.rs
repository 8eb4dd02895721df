//! Transactions: every operation sees the ones before it, all share one index, and a single failure undoes all.

use std::sync::Arc;

use super::command::TxnOp;
use super::model::{Check, KvEntry, Node, Service};
use super::{Change, Fault, Outcome, State, under};

pub mod ids;

#[derive(Clone, Debug, PartialEq)]
pub enum TxnResult {
    /// `with_value` for the verbs that read.
    Kv {
        entry: Arc<KvEntry>,
        with_value: bool,
    },
    Node(Arc<Node>),
    Service(Box<Service>),
    Check(Arc<Check>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnFailure {
    pub op_index: usize,
    pub what: String,
}

type OpResult = Result<Vec<TxnResult>, String>;

impl State {
    /// A fault of form, reported before anything is tried. What was once taken is in logs and must be taken from there:
    /// stricter looks are those of the endpoint.
    pub fn txn_fault(&self, op: &TxnOp, now: u64) -> Option<String> {
        match op {
            TxnOp::Kv { verb, key, .. } if key.is_empty() && verb != "get-tree" && verb != "delete-tree" => {
                Some("Must provide key".to_owned())
            }
            TxnOp::Kv { verb, key, .. } if verb == "lock" && self.lock_delayed(key, now) => {
                Some(format!("failed to lock key {key:?} due to lock delay"))
            }
            TxnOp::Node { verb, node } if verb != "get" && node.node.is_empty() => {
                Some(Fault::NodeNameMissing.to_string())
            }
            TxnOp::Service { verb, service, .. } if verb != "get" && service.service.is_empty() => {
                Some("Must provide service name with ID".to_owned())
            }
            _ => None,
        }
    }

    pub(super) fn txn(&mut self, ops: &[TxnOp], change: &mut Change) -> Outcome {
        let mut failures = failures(ops, |op| self.txn_fault(op, change.now));
        if !failures.is_empty() {
            return Outcome::TxnFailed(failures);
        }
        let mut results = Vec::with_capacity(ops.len());
        for (op_index, op) in ops.iter().enumerate() {
            match self.txn_op(op, change) {
                Ok(more) => results.extend(more),
                Err(what) => failures.push(TxnFailure { op_index, what }),
            }
        }
        if failures.is_empty() { Outcome::Txn(results) } else { Outcome::TxnFailed(failures) }
    }

    fn txn_op(&mut self, op: &TxnOp, change: &mut Change) -> OpResult {
        match op {
            TxnOp::Kv { .. } => self.txn_kv(op, change),
            TxnOp::Node { verb, node } => self.txn_node(verb, node, change),
            TxnOp::Service { verb, node, service } => self.txn_service(verb, node, service, change),
            TxnOp::Check { verb, check } => self.txn_check(verb, check, change),
        }
    }

    fn txn_kv(&mut self, op: &TxnOp, change: &mut Change) -> OpResult {
        let TxnOp::Kv { verb, key, value, flags, index, session } = op else { return Ok(Vec::new()) };
        if let Some(mode) = State::set_mode(verb, *index, session) {
            let done = self.kv_set(key, value, *flags, &mode, change).map_err(kv_fault)?;
            if !done {
                return Err(match verb.as_str() {
                    "cas" => format!("failed to set key {key:?}, index is stale"),
                    "lock" => format!("failed to lock key {key:?}, lock is already held"),
                    _ => format!(
                        "failed to unlock key {key:?}, lock isn't held, or is held by another session"
                    ),
                });
            }
            return Ok(self.kv.get(key.as_str()).map(|e| kv_result(e, false)).into_iter().collect());
        }
        if let Some(mode) = State::delete_mode(verb, *index) {
            if !self.kv_delete(key, &mode, change) {
                return Err(format!("failed to delete key {key:?}, index is stale"));
            }
            return Ok(Vec::new());
        }
        self.txn_kv_read(verb, key, *index, session)
    }

    fn txn_kv_read(&self, verb: &str, key: &str, index: u64, session: &str) -> OpResult {
        let entry = self.kv.get(key);
        match (verb, entry) {
            ("get", Some(e)) => Ok(vec![kv_result(e, true)]),
            ("get", None) => Err(format!("key {key:?} doesn't exist")),
            ("get-tree", _) => Ok(under(&self.kv, key).map(|(_, e)| kv_result(e, true)).collect()),
            ("check-session", None) => Err(format!("failed to check session, key {key:?} doesn't exist")),
            ("check-session", Some(e)) => {
                let current = e.session.as_deref().unwrap_or_default();
                if current == session {
                    return Ok(vec![kv_result(e, false)]);
                }
                Err(format!(
                    "failed session check for key {key:?}, current session {current:?} != {session:?}"
                ))
            }
            ("check-index", None) => Err(format!("failed to check index, key {key:?} doesn't exist")),
            ("check-index", Some(e)) if e.modify_index == index => Ok(vec![kv_result(e, false)]),
            ("check-index", Some(e)) => Err(format!(
                "failed index check for key {key:?}, current modify index {} != {index}",
                e.modify_index
            )),
            ("check-not-exists", None) => Ok(Vec::new()),
            ("check-not-exists", Some(_)) => Err(format!("key {key:?} exists")),
            _ => Err(format!("unknown KV verb {verb:?}")),
        }
    }

    fn txn_node(&mut self, verb: &str, node: &Node, change: &mut Change) -> OpResult {
        let name = &node.node;
        let current = self.node(name).map_or(0, |n| n.modify_index);
        match verb {
            "get" => {}
            "set" => self.put_node(node, change),
            "cas" if node.modify_index == current => self.put_node(node, change),
            "cas" => return Err(format!("failed to set node {name:?}, index is stale")),
            "delete" => {
                self.remove_node(name, change);
                return Ok(Vec::new());
            }
            "delete-cas" if current != 0 && node.modify_index == current => {
                self.remove_node(name, change);
                return Ok(Vec::new());
            }
            "delete-cas" => return Err(format!("failed to delete node {name:?}, index is stale")),
            _ => return Err(format!("unknown Node verb {verb:?}")),
        }
        let found = match verb {
            "get" if !node.id.is_empty() => {
                ids::node_id(&node.id).map_err(|why| {
                    format!("node lookup by ID failed, wrong UUID: {why} for '{}'", node.id)
                })?;
                self.node_by_id(&node.id).cloned()
            }
            _ => self.node(name).cloned(),
        };
        found.map(|n| vec![TxnResult::Node(n)]).ok_or_else(|| format!("node {name:?} doesn't exist"))
    }

    fn txn_service(&mut self, verb: &str, node: &str, service: &Service, change: &mut Change) -> OpResult {
        let id = &service.id;
        let current = self.instance(node, id).map_or(0, |i| i.service.modify_index);
        match verb {
            "get" => {}
            "set" => self.put_service(node, service, change).map_err(|f| f.to_string())?,
            "cas" if service.modify_index == current => {
                self.put_service(node, service, change).map_err(|f| f.to_string())?;
            }
            "cas" => return Err(format!("failed to set service {id:?} on node {node:?}, index is stale")),
            "delete" => {
                self.remove_service(node, id, change);
                return Ok(Vec::new());
            }
            "delete-cas" if current != 0 && service.modify_index == current => {
                self.remove_service(node, id, change);
                return Ok(Vec::new());
            }
            "delete-cas" => {
                return Err(format!("failed to delete service {id:?} on node {node:?}, index is stale"));
            }
            _ => return Err(format!("unknown Service verb {verb:?}")),
        }
        let found = self.instance(node, id).map(|i| i.service.clone());
        found
            .map(|s| vec![TxnResult::Service(Box::new(s))])
            .ok_or_else(|| format!("service {id:?} on node {node:?} doesn't exist"))
    }

    fn txn_check(&mut self, verb: &str, check: &Check, change: &mut Change) -> OpResult {
        let (node, id) = (&check.node, &check.check_id);
        let current = self.check(node, id).map_or(0, |c| c.modify_index);
        match verb {
            "get" => {}
            "set" => self.put_check(check, change).map_err(|f| f.to_string())?,
            "cas" if check.modify_index == current => {
                self.put_check(check, change).map_err(|f| f.to_string())?
            }
            "cas" => return Err(format!("failed to set check {id:?} on node {node:?}, index is stale")),
            "delete" => {
                self.remove_check(node, id, change);
                return Ok(Vec::new());
            }
            "delete-cas" if current != 0 && check.modify_index == current => {
                self.remove_check(node, id, change);
                return Ok(Vec::new());
            }
            "delete-cas" => {
                return Err(format!("failed to delete check {id:?} on node {node:?}, index is stale"));
            }
            _ => return Err(format!("unknown Check verb {verb:?}")),
        }
        let found = self.check(node, id).cloned();
        found
            .map(|c| vec![TxnResult::Check(c)])
            .ok_or_else(|| format!("check {id:?} on node {node:?} doesn't exist"))
    }

    /// A transaction that only reads, on this version.
    pub fn read_txn(&self, ops: &[TxnOp], now: u64) -> Outcome {
        let mut scratch = self.clone();
        let mut change =
            Change { index: self.index() + 1, now, topics: Vec::new(), moved: false, quiet: false };
        scratch.txn(ops, &mut change)
    }
}

/// What is wrong with which operations.
pub fn failures(ops: &[TxnOp], fault: impl Fn(&TxnOp) -> Option<String>) -> Vec<TxnFailure> {
    let ops = ops.iter().enumerate();
    ops.filter_map(|(op_index, op)| fault(op).map(|what| TxnFailure { op_index, what })).collect()
}

/// A session that cannot be there is refused in other words.
fn kv_fault(fault: Fault) -> String {
    match &fault {
        Fault::SessionUnknown(id) => match ids::session_id(id) {
            Err(why) => format!("failed session lookup: index error: {why}"),
            Ok(_) => fault.to_string(),
        },
        _ => fault.to_string(),
    }
}

fn kv_result(entry: &Arc<KvEntry>, with_value: bool) -> TxnResult {
    TxnResult::Kv { entry: entry.clone(), with_value }
}
