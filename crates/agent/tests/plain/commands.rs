//! Random commands over few names, so that they meet, with times that make lock delays and tombstones matter.

use plinth_agent::state::command::{Command, DeleteMode, Registration, SetMode, Target, TxnOp};
use plinth_agent::state::local::{LocalCheck, LocalService, Runner};
use plinth_agent::state::model::{Behavior, Check, Node, Service, Session};
use proptest::prelude::*;
use proptest::sample::select;

pub const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "a/d", "b", "ab"];
pub const PREFIXES: [&str; 5] = ["a", "a/", "a/b", "b", "z"];
pub const NODES: [&str; 2] = ["n1", "N2"];
pub const SERVICES: [&str; 3] = ["web", "DB", "api"];
pub const IDS: [&str; 3] = ["i1", "i2", "i3"];
pub const CHECKS: [&str; 3] = ["c1", "c2", "c3"];
pub const SESSIONS: [&str; 3] = ["s1", "s2", "s3"];

pub fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(words).prop_map(str::to_owned)
}

pub fn status() -> impl Strategy<Value = String> {
    word(&["passing", "warning", "critical"])
}

pub fn set_mode() -> impl Strategy<Value = SetMode> {
    prop_oneof![
        4 => Just(SetMode::Plain),
        1 => (0..40_u64).prop_map(SetMode::Cas),
        2 => word(&SESSIONS).prop_map(SetMode::Acquire),
        1 => word(&SESSIONS).prop_map(SetMode::Release),
    ]
}

pub fn delete_mode() -> impl Strategy<Value = DeleteMode> {
    prop_oneof![Just(DeleteMode::One), (0..40_u64).prop_map(DeleteMode::Cas), Just(DeleteMode::Prefix)]
}

pub fn node() -> impl Strategy<Value = Node> {
    (word(&NODES), word(&["10.0.0.1", "10.0.0.2"])).prop_map(|(node, address)| Node {
        node,
        address,
        ..Node::default()
    })
}

pub fn service() -> impl Strategy<Value = Service> {
    (word(&SERVICES), word(&IDS), 0..2_i64, proptest::option::of(word(&["t1", "t2"]))).prop_map(
        |(service, id, port, tag)| Service {
            service,
            id,
            port,
            tags: tag.map(|t| vec![t]),
            ..Service::default()
        },
    )
}

pub fn check() -> impl Strategy<Value = Check> {
    let of = prop_oneof![Just(String::new()), word(&IDS)];
    (word(&NODES), word(&CHECKS), status(), of, word(&["", "out"])).prop_map(
        |(node, check_id, status, service_id, output)| Check {
            node,
            name: check_id.clone(),
            check_id,
            status,
            service_id,
            output,
            ..Check::default()
        },
    )
}

pub fn session() -> impl Strategy<Value = Session> {
    let checks = proptest::collection::vec(word(&CHECKS), 0..2);
    (word(&SESSIONS), word(&NODES), checks, any::<bool>(), 0..2_u64).prop_map(
        |(id, node, node_checks, delete, delay)| Session {
            id,
            node,
            node_checks,
            behavior: if delete { Behavior::Delete } else { Behavior::Release },
            lock_delay: delay * 5_000_000_000,
            ..Session::default()
        },
    )
}

pub fn kv_op() -> impl Strategy<Value = TxnOp> {
    let verbs = word(&[
        "set",
        "cas",
        "lock",
        "unlock",
        "delete",
        "delete-cas",
        "delete-tree",
        "get",
        "get-tree",
        "check-index",
        "check-session",
        "check-not-exists",
    ]);
    (verbs, word(&KEYS), 0..40_u64, word(&SESSIONS), 0..3_u8).prop_map(
        |(verb, key, index, session, value)| TxnOp::Kv {
            verb,
            key,
            value: vec![value].into(),
            flags: 0,
            index,
            session,
        },
    )
}

pub fn op() -> impl Strategy<Value = TxnOp> {
    let verb = || word(&["get", "set", "set", "set", "cas", "delete", "delete-cas"]);
    prop_oneof![
        3 => kv_op(),
        1 => (verb(), node()).prop_map(|(verb, node)| TxnOp::Node { verb, node: Box::new(node) }),
        1 => (verb(), word(&NODES), service())
            .prop_map(|(verb, node, s)| TxnOp::Service { verb, node, service: Box::new(s) }),
        1 => (verb(), check()).prop_map(|(verb, check)| TxnOp::Check { verb, check: Box::new(check) }),
    ]
}

pub fn local_check() -> impl Strategy<Value = LocalCheck> {
    check().prop_map(|mut check| {
        check.node = "n1".to_owned();
        LocalCheck {
            check,
            target: Default::default(),
            runner: Runner::Ttl(std::time::Duration::from_secs(10)),
            deregister_after: None,
            critical_since: None,
            success_before_passing: 0,
            failures_before_critical: 0,
            output_max_size: 0,
        }
    })
}

pub fn command() -> impl Strategy<Value = Command> {
    let bytes = || proptest::collection::vec(0..3_u8, 0..2);
    let own = || "n1".to_owned();
    prop_oneof![
        6 => (word(&KEYS), bytes(), 0..2_u64, set_mode()).prop_map(|(key, value, flags, mode)| Command::KvSet {
            key, value: value.into(), flags, mode,
        }),
        2 => (word(&KEYS), delete_mode()).prop_map(|(key, mode)| Command::KvDelete { key, mode }),
        6 => (node(), any::<bool>(), proptest::option::of(service()), proptest::collection::vec(check(), 0..2))
            .prop_map(|(node, skip_node_update, service, checks)| {
                Command::Register(Box::new(Registration { node, skip_node_update, service, checks }))
            }),
        1 => word(&NODES).prop_map(|node| Command::Deregister { node, target: Target::Node }),
        2 => (word(&NODES), word(&IDS)).prop_map(|(node, id)| Command::Deregister { node, target: Target::Service(id) }),
        1 => (word(&NODES), word(&CHECKS)).prop_map(|(node, id)| Command::Deregister { node, target: Target::Check(id) }),
        3 => session().prop_map(|s| Command::SessionCreate(Box::new(s))),
        1 => word(&SESSIONS).prop_map(|id| Command::SessionDestroy { id, expired: false }),
        3 => proptest::collection::vec(op(), 1..4).prop_map(Command::Txn),
        2 => (service(), proptest::collection::vec(local_check(), 0..2), any::<bool>()).prop_map(move |(service, mut checks, replace_checks)| {
            for check in &mut checks { check.check.service_id.clone_from(&service.id); }
            Command::AgentService { node: own(), service: Box::new(LocalService { service }), checks, replace_checks }
        }),
        1 => word(&IDS).prop_map(move |id| Command::AgentServiceRemove { node: own(), id }),
        1 => local_check().prop_map(move |check| Command::AgentCheck { node: own(), check: Box::new(check) }),
        1 => (word(&CHECKS), status(), word(&["", "x"])).prop_map(move |(id, status, output)| {
            Command::AgentCheckStatus { node: own(), id, status, output }
        }),
        1 => Just(Command::AgentOutputs { node: own() }),
    ]
}

/// Times go forward by some seconds, so that lock delays and tombstones matter.
pub fn history() -> impl Strategy<Value = Vec<(Command, u64)>> {
    proptest::collection::vec((command(), 0..4_u64), 1..60).prop_map(|steps| {
        let mut now = 1_000_000;
        steps
            .into_iter()
            .map(|(command, seconds)| {
                now += seconds * if seconds == 3 { 400_000 } else { 1000 };
                (command, now)
            })
            .collect()
    })
}
