//! The state store against a plain model and against its own promises, over random commands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use plinth_agent::state::command::Command;
use plinth_agent::state::{Outcome, State, Topic};
use proptest::prelude::*;

mod plain {
    pub mod commands;
    pub mod reference;
}
use plain::commands::{PREFIXES, SERVICES, history, op};
use plain::reference::Reference;

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

    /// Every answer, every object and every index as in the plain model.
    #[test]
    fn as_a_plain_model(history in history()) {
        let mut state = State::default();
        let mut model = Reference::default();
        for (command, now) in history.iter().filter(|(command, _)| Reference::knows(command)) {
            let answer = model.apply(command, *now);
            let outcome = state.apply(command, *now).outcome.map_err(drop);
            prop_assert_eq!(Reference::answer_of(&outcome), answer, "{:?}", command);
            model.compare(&state, *now)?;
        }
    }
}
