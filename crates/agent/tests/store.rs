//! The state store against a plain model and against its own promises, over random commands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use plinth_agent::state::command::{Command, DeleteMode, Registration, SetMode, Target, TxnOp};
use plinth_agent::state::local::{LocalCheck, LocalService, Runner};
use plinth_agent::state::model::{Behavior, Check, Node, Service, Session};
use plinth_agent::state::{Outcome, State, Topic};
use proptest::prelude::*;
use proptest::sample::select;

const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "a/d", "b", "ab"];
const PREFIXES: [&str; 5] = ["a", "a/", "a/b", "b", "z"];
const NODES: [&str; 2] = ["n1", "N2"];
const SERVICES: [&str; 3] = ["web", "DB", "api"];
const IDS: [&str; 3] = ["i1", "i2", "i3"];
const CHECKS: [&str; 3] = ["c1", "c2", "c3"];
const SESSIONS: [&str; 3] = ["s1", "s2", "s3"];

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(words).prop_map(str::to_owned)
}

fn status() -> impl Strategy<Value = String> {
    word(&["passing", "warning", "critical"])
}

fn set_mode() -> impl Strategy<Value = SetMode> {
    prop_oneof![
        4 => Just(SetMode::Plain),
        1 => (0..40_u64).prop_map(SetMode::Cas),
        2 => word(&SESSIONS).prop_map(SetMode::Acquire),
        1 => word(&SESSIONS).prop_map(SetMode::Release),
    ]
}

fn delete_mode() -> impl Strategy<Value = DeleteMode> {
    prop_oneof![Just(DeleteMode::One), (0..40_u64).prop_map(DeleteMode::Cas), Just(DeleteMode::Prefix)]
}

fn node() -> impl Strategy<Value = Node> {
    (word(&NODES), word(&["10.0.0.1", "10.0.0.2"])).prop_map(|(node, address)| Node {
        node,
        address,
        ..Node::default()
    })
}

fn service() -> impl Strategy<Value = Service> {
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

fn check() -> impl Strategy<Value = Check> {
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

fn session() -> impl Strategy<Value = Session> {
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

fn kv_op() -> impl Strategy<Value = TxnOp> {
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

fn op() -> impl Strategy<Value = TxnOp> {
    let verb = || word(&["get", "set", "set", "set", "cas", "delete", "delete-cas"]);
    prop_oneof![
        3 => kv_op(),
        1 => (verb(), node()).prop_map(|(verb, node)| TxnOp::Node { verb, node: Box::new(node) }),
        1 => (verb(), word(&NODES), service())
            .prop_map(|(verb, node, s)| TxnOp::Service { verb, node, service: Box::new(s) }),
        1 => (verb(), check()).prop_map(|(verb, check)| TxnOp::Check { verb, check: Box::new(check) }),
    ]
}

fn local_check() -> impl Strategy<Value = LocalCheck> {
    check().prop_map(|mut check| {
        check.node = "n1".to_owned();
        LocalCheck {
            check,
            target: Default::default(),
            runner: Runner::Ttl(std::time::Duration::from_secs(10)),
            deregister_after: None,
            critical_since: None,
        }
    })
}

fn command() -> impl Strategy<Value = Command> {
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
fn history() -> impl Strategy<Value = Vec<(Command, u64)>> {
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

fn image(state: &State) -> Vec<String> {
    state.records().map(|record| serde_json::to_string(&record).unwrap()).collect()
}

fn restored(state: &State) -> State {
    let mut copy = State::default();
    for line in image(state) {
        copy.restore(serde_json::from_str(&line).unwrap());
    }
    copy
}

/// Everything a service's health answer can show.
fn service_view(state: &State, name: &str) -> String {
    let Some(group) = state.group(name) else { return String::new() };
    let shown: Vec<_> = group
        .instances
        .values()
        .map(|i| {
            let checks = [state.checks_of(&i.node, ""), state.checks_of(&i.node, &i.service.id)];
            (
                state.node(&i.node).unwrap().clone(),
                i.clone(),
                checks.concat().into_iter().cloned().collect::<Vec<_>>(),
            )
        })
        .collect();
    format!("{shown:?}")
}

fn prefix_view(state: &State, prefix: &str) -> String {
    format!("{:?}", state.kv_under(prefix).collect::<Vec<_>>())
}

/// The parts of the state that are kept twice agree with each other.
fn consistent(state: &State) {
    assert_eq!(image(&restored(state)), image(state), "what is rebuilt is what was there");
    for group in state.groups() {
        assert!(!group.instances.is_empty());
        let mut tags: BTreeMap<String, u32> = BTreeMap::new();
        for instance in group.instances.values() {
            assert_eq!(state.instance(&instance.node, &instance.service.id).unwrap(), instance);
            instance.service.tags.iter().flatten().for_each(|t| *tags.entry(t.clone()).or_default() += 1);
        }
        let kept: BTreeMap<String, u32> = group.tags.iter().map(|(t, n)| (t.to_string(), *n)).collect();
        assert_eq!(kept, tags);
    }
    for check in state.checks() {
        assert!(state.node(&check.node).is_some(), "a check outlives its node");
        assert!(state.checks_of(&check.node, &check.service_id).contains(&check));
        if !check.service_id.is_empty() {
            assert!(state.instance(&check.node, &check.service_id).is_some(), "a check outlives its service");
        }
    }
    for session in state.sessions() {
        assert!(state.node(&session.node).is_some(), "a session outlives its node");
        for check in &session.node_checks {
            let check = state.check(&session.node, check).expect("a session outlives its check");
            assert_ne!(check.status, "critical");
        }
    }
    for entry in state.kv_under("") {
        if let Some(session) = &entry.session {
            assert!(state.session(session).is_some(), "a lock outlives its session");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Indexes never go back, move when and only when something changed, and whoever looks is told.
    #[test]
    fn indexes_and_wake_ups(history in history()) {
        let mut state = State::default();
        for (command, now) in &history {
            let before = state.clone();
            let applied = state.apply(command, *now);
            prop_assert!(state.index() == before.index() || state.index() == before.index() + 1);
            if !applied.changed {
                prop_assert_eq!(image(&state), image(&before), "unchanged: {:?}", command);
            }
            for name in SERVICES {
                let (old, new) = (before.service_index(name), state.service_index(name));
                prop_assert!(new >= old, "{name}: {old} -> {new} by {command:?}");
                if service_view(&before, name) != service_view(&state, name) {
                    prop_assert!(new > old, "{name} changed at the same index by {command:?}");
                    let told = applied.topics.iter().any(|t| matches!(t, Topic::Service(s) if **s == name.to_lowercase()));
                    prop_assert!(told, "{name}: nobody told of {command:?}");
                }
            }
            for prefix in PREFIXES {
                let (old, new) = (before.kv_prefix_index(prefix), state.kv_prefix_index(prefix));
                prop_assert!(new >= old || before.kv_under(prefix).next().is_none(), "{prefix}: {old} -> {new}");
                if prefix_view(&before, prefix) != prefix_view(&state, prefix) {
                    prop_assert!(new > old || before.kv_under(prefix).next().is_none(), "{prefix} changed by {command:?}");
                    let told = applied.topics.iter().any(|t| matches!(t, Topic::Key(k) if k.starts_with(prefix)));
                    prop_assert!(told, "{prefix}: nobody told of {command:?}");
                }
            }
        }
    }

    /// The same commands give the same state, also from their stored form, also from a snapshot in between.
    #[test]
    fn replay_gives_the_same(history in history(), cut in 0..60_usize) {
        let mut state = State::default();
        let mut replayed = State::default();
        for (n, (command, now)) in history.iter().enumerate() {
            if n == cut {
                replayed = restored(&replayed);
            }
            let first = state.apply(command, *now);
            if first.changed {
                let stored: Command = serde_json::from_str(&serde_json::to_string(command).unwrap()).unwrap();
                let second = replayed.apply(&stored, *now);
                prop_assert_eq!(first.outcome, second.outcome);
            }
        }
        prop_assert_eq!(image(&state), image(&replayed));
    }

    /// A transaction that fails leaves nothing behind; one that succeeds has one index.
    #[test]
    fn transactions_are_whole(history in history(), ops in proptest::collection::vec(op(), 1..8)) {
        let mut state = State::default();
        for (command, now) in &history {
            state.apply(command, *now);
        }
        let before = state.clone();
        let applied = state.apply(&Command::Txn(ops), 10_000_000);
        match applied.outcome.unwrap() {
            Outcome::TxnFailed(failures) => {
                prop_assert!(!failures.is_empty());
                prop_assert_eq!(image(&state), image(&before));
            }
            _ => prop_assert!(state.index() <= before.index() + 1),
        }
    }

    #[test]
    fn what_is_kept_twice_agrees(history in history()) {
        let mut state = State::default();
        for (command, now) in &history {
            state.apply(command, *now);
            consistent(&state);
        }
    }

    /// KV without sessions against a map.
    #[test]
    fn kv_as_a_plain_map(steps in proptest::collection::vec((word(&KEYS), 0..3_u8, 0..5_u8, 0..30_u64), 1..60)) {
        let mut state = State::default();
        let mut model: BTreeMap<String, (u8, u64, u64)> = BTreeMap::new();
        let mut index = 1;
        for (key, value, kind, cas) in steps {
            let old = model.get(&key).copied();
            let set = |mode| Command::KvSet { key: key.clone(), value: vec![value].into(), flags: 0, mode };
            let delete = |mode| Command::KvDelete { key: key.clone(), mode };
            let next = index + 1;
            let put = |created: u64| (value, created, next);
            let mut expected = model.clone();
            let (command, done) = match kind {
                0 | 1 => {
                    if old.is_none_or(|(v, ..)| v != value) {
                        expected.insert(key.clone(), put(old.map_or(next, |o| o.1)));
                    }
                    (set(SetMode::Plain), true)
                }
                2 => {
                    let fits = old.map_or(cas == 0, |o| cas != 0 && o.2 == cas);
                    if fits && old.is_none_or(|(v, ..)| v != value) {
                        expected.insert(key.clone(), put(old.map_or(next, |o| o.1)));
                    }
                    (set(SetMode::Cas(cas)), fits)
                }
                3 => {
                    let fits = old.is_none_or(|o| cas != 0 && o.2 == cas);
                    if fits {
                        expected.remove(&key);
                    }
                    (delete(DeleteMode::Cas(cas)), fits)
                }
                _ => {
                    expected.retain(|k, _| !k.starts_with(key.as_str()));
                    (delete(DeleteMode::Prefix), true)
                }
            };
            if expected != model {
                index = next;
            }
            model = expected;
            prop_assert_eq!(state.apply(&command, 0).outcome.unwrap(), Outcome::Flag(done));
            prop_assert_eq!(state.index(), index);
            let stored: BTreeMap<String, (u8, u64, u64)> =
                state.kv_under("").map(|e| (e.key.clone(), (e.value[0], e.create_index, e.modify_index))).collect();
            prop_assert_eq!(&stored, &model);
        }
    }
}
