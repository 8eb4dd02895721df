//! What an alias check says: the worst of the checks it stands for.
//!
//! Aliases may stand for each other: two of the node do, for a check of the node concerns every service. Each following the
//! other's last status they would hold each other where they are, or exchange what they say for ever. So one that depends on
//! the asking one is not taken at its word: what it stands for is looked at in its place.

use crate::state::State;
use crate::state::local::{LocalCheck, Runner};
use crate::state::model::{Check, Definition};

/// Status and output, now: of this agent's own registrations unless it names a node.
pub(crate) fn mirrored(state: &State, own: &str, target: &Definition, id: &str) -> (String, String) {
    let service = &target.alias_service;
    if nobody(state, target) {
        return ("critical".to_owned(), format!("Service {service} could not be found on node "));
    }
    let checks: Vec<&Check> = if here(target, own) {
        seen(state, own, service, id)
    } else {
        let concerns = |check: &&Check| {
            check.check_id != id && (check.service_id.is_empty() || check.service_id == *service)
        };
        state.node_checks(&target.alias_node).into_iter().map(|check| &**check).filter(concerns).collect()
    };
    let rank = |check: &&Check| ["passing", "warning", "critical"].iter().position(|s| *s == check.status);
    match checks.into_iter().max_by_key(rank) {
        Some(worst) if worst.status != "passing" => {
            (worst.status.clone(), format!("Aliased check \"{}\" failing: {}", worst.name, worst.output))
        }
        Some(_) => ("passing".to_owned(), "All checks passing.".to_owned()),
        None => ("passing".to_owned(), "No checks found.".to_owned()),
    }
}

fn here(target: &Definition, own: &str) -> bool {
    target.alias_node.is_empty() || target.alias_node.eq_ignore_ascii_case(own)
}

/// The service it stands for is not registered here.
fn nobody(state: &State, target: &Definition) -> bool {
    let service = &target.alias_service;
    target.alias_node.is_empty() && !service.is_empty() && state.local_service(service).is_none()
}

/// Checks that concern a service, but for the one that asks.
fn concerned<'s>(state: &'s State, service: &str, id: &str) -> impl Iterator<Item = &'s LocalCheck> {
    state.local_checks().map(AsRef::as_ref).filter(move |local| {
        let check = &local.check;
        check.check_id != id && (check.service_id.is_empty() || check.service_id == service)
    })
}

/// The service whose checks decide about this one, if others do.
fn follows<'s>(state: &State, own: &str, local: &'s LocalCheck) -> Option<&'s str> {
    let alias = local.runner == Runner::Alias && here(&local.target, own) && !nobody(state, &local.target);
    alias.then_some(local.target.alias_service.as_str())
}

/// What decides about an alias of `service` called `id`.
fn seen<'s>(state: &'s State, own: &str, service: &'s str, id: &'s str) -> Vec<&'s Check> {
    let (mut found, mut passed, mut through) = (Vec::new(), vec![id], vec![(service, id)]);
    while let Some((service, of)) = through.pop() {
        for local in concerned(state, service, of) {
            let check = &local.check;
            if passed.contains(&check.check_id.as_str()) {
                continue;
            }
            match follows(state, own, local) {
                Some(service) if depends(state, own, local, id) => {
                    passed.push(&check.check_id);
                    through.push((service, &check.check_id));
                }
                _ => found.push(check),
            }
        }
    }
    found
}

/// Whether an alias stands, maybe by others, for the check `id`.
fn depends(state: &State, own: &str, alias: &LocalCheck, id: &str) -> bool {
    let (mut passed, mut ahead) = (Vec::new(), vec![alias]);
    while let Some(local) = ahead.pop() {
        let own_id = local.check.check_id.as_str();
        let Some(service) = follows(state, own, local).filter(|_| !passed.contains(&own_id)) else {
            continue;
        };
        passed.push(own_id);
        for next in concerned(state, service, own_id) {
            if next.check.check_id == id {
                return true;
            }
            ahead.push(next);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;
    use crate::state::command::Registration;
    use crate::state::local::LocalService;
    use crate::state::model::{Node, Service};

    fn check(id: &str, service: &str, status: &str, runner: Runner, alias_of: &str) -> LocalCheck {
        LocalCheck {
            check: Check {
                node: "n".into(),
                check_id: id.into(),
                name: id.into(),
                status: status.into(),
                output: format!("{id} says so"),
                service_id: service.into(),
                ..Check::default()
            },
            target: Definition { alias_service: alias_of.into(), ..Definition::default() },
            runner,
            deregister_after: None,
            critical_since: None,
            success_before_passing: 0,
            failures_before_critical: 0,
            output_max_size: 0,
        }
    }

    fn state(checks: &[LocalCheck]) -> State {
        let mut state = State::default();
        let node = Node { node: "n".into(), address: "10.0.0.1".into(), ..Node::default() };
        let own = Registration { node, skip_node_update: false, service: None, checks: Vec::new() };
        state.apply(&Command::Register(Box::new(own)), 0).outcome.unwrap();
        for id in ["web", "db"] {
            let service = Service { id: id.into(), service: id.into(), ..Service::default() };
            let service = Box::new(LocalService { service });
            let command = Command::AgentService {
                node: "n".into(),
                service,
                checks: Vec::new(),
                replace_checks: false,
            };
            state.apply(&command, 0).outcome.unwrap();
        }
        for check in checks {
            let command = Command::AgentCheck { node: "n".into(), check: Box::new(check.clone()) };
            state.apply(&command, 0).outcome.unwrap();
        }
        state
    }

    /// All aliases look at once and then say what they saw, again and again, until nothing changes.
    fn settle(checks: &[LocalCheck]) -> Vec<(String, String)> {
        let mut state = state(checks);
        for _ in 0..=checks.len() {
            let mut changed = false;
            let aliases = checks.iter().filter(|check| check.runner == Runner::Alias);
            let seen: Vec<_> = aliases
                .map(|alias| {
                    (&alias.check.check_id, mirrored(&state, "n", &alias.target, &alias.check.check_id))
                })
                .collect();
            for (id, (status, output)) in &seen {
                let (node, id) = ("n".to_owned(), (*id).clone());
                let command =
                    Command::AgentCheckStatus { node, id, status: status.clone(), output: output.clone() };
                changed |= state.apply(&command, 0).changed;
            }
            if !changed {
                return seen.into_iter().map(|(_, said)| said).collect();
            }
        }
        panic!("they go on for ever");
    }

    const TTL: Runner = Runner::Ttl(std::time::Duration::from_secs(1));

    #[test]
    fn two_of_the_node_follow_the_rest_and_not_each_other() {
        for real in ["passing", "warning", "critical"] {
            for (a, b) in [("critical", "passing"), ("passing", "critical"), ("critical", "critical")] {
                let both = [
                    check("a", "", a, Runner::Alias, "web"),
                    check("b", "", b, Runner::Alias, "db"),
                    check("real", "web", real, TTL, ""),
                ];
                let said = settle(&both);
                // b looks through a, which stands for web
                assert_eq!([&*said[0].0, &*said[1].0], [real, real], "{a} {b} {real}: {said:?}");
            }
        }
    }

    #[test]
    fn aliases_of_aliases_are_taken_at_their_word() {
        let chain = [
            check("a", "db", "passing", Runner::Alias, "web"),
            check("b", "web", "passing", Runner::Alias, "web"),
            check("real", "web", "critical", TTL, ""),
            check("far", "", "critical", Runner::Alias, "nobody"),
        ];
        let said = settle(&chain);
        assert!(said.iter().all(|(status, _)| status == "critical"), "{said:?}");
        assert_eq!(said[1].1, "Aliased check \"real\" failing: real says so");
        assert_eq!(said[2].1, "Service nobody could not be found on node ");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, ..Default::default() })]

        #[test]
        fn whatever_stands_for_what_they_come_to_an_end(parts in proptest::collection::vec((0..3_usize, 0..3_usize, 0..3_usize, proptest::bool::ANY), 1..7)) {
            let services = ["", "web", "db"];
            let checks: Vec<LocalCheck> = parts.iter().enumerate().map(|(n, (of, status, alias, real))| {
                let runner = if *real { TTL } else { Runner::Alias };
                let status = ["passing", "warning", "critical"][*status];
                check(&format!("c{n}"), services[*of], status, runner, services[*alias])
            }).collect();
            settle(&checks);
        }
    }
}
