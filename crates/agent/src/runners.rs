//! Active checks of services registered with this agent: one task per check, started, replaced and stopped as
//! registrations change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use plinth_core::health::Prober;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::engine::watch::Interest;
use crate::state::local::{LocalCheck, Runner};
use crate::state::model::Definition;
use crate::state::{Command, Table, Topic};

mod probe;

/// An alias check looks again at least this often.
const MIRROR_EVERY: Duration = Duration::from_secs(60);

struct Running {
    target: Definition,
    runner: Runner,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the running checks as the registrations say, for ever.
pub(crate) async fn run(engine: Arc<Engine>, node: String, mut changed: watch::Receiver<u64>) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let prober = Prober::new();
    loop {
        let state = engine.state();
        running.retain(|id, r| {
            state.local_check(id).is_some_and(|c| c.target == r.target && c.runner == r.runner)
        });
        for check in state.local_checks() {
            let id = &check.check.check_id;
            if running.contains_key(id) {
                continue;
            }
            let task = match (&check.runner, interval_of(&check.runner)) {
                (Runner::Alias, _) => {
                    tokio::spawn(mirror_for_ever(engine.clone(), node.clone(), check.clone()))
                }
                (_, Some(every)) => {
                    let prober = prober.clone();
                    tokio::spawn(probe_for_ever(engine.clone(), prober, node.clone(), check.clone(), every))
                }
                _ => continue,
            };
            let entry = Running { target: check.target.clone(), runner: check.runner.clone(), task };
            running.insert(id.clone(), entry);
        }
        drop(state);
        if changed.changed().await.is_err() {
            return;
        }
    }
}

fn interval_of(runner: &Runner) -> Option<Duration> {
    match runner {
        Runner::Http { interval, .. } | Runner::Tcp { interval, .. } | Runner::Grpc { interval, .. } => {
            Some(*interval)
        }
        Runner::Ttl(_) | Runner::Alias | Runner::Maintenance => None,
    }
}

async fn probe_for_ever(
    engine: Arc<Engine>,
    prober: Prober,
    node: String,
    check: Arc<LocalCheck>,
    interval: Duration,
) {
    let Some((target, timeout)) = probe::target(&check) else { return };
    // spread over the first interval, so that many registrations at once do not probe at once
    tokio::time::sleep(interval.mul_f64(fastrand::f64())).await;
    let mut every = tokio::time::interval(interval);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let seen = prober.probe(&target, timeout).await;
        report(&engine, &node, &check.check.check_id, seen.status.as_str(), seen.output).await;
    }
}

/// An alias check has the worst status of the service (or node) it stands for.
async fn mirror_for_ever(engine: Arc<Engine>, node: String, check: Arc<LocalCheck>) {
    let target = &check.target;
    let of_node = if target.alias_node.is_empty() { node.clone() } else { target.alias_node.clone() };
    let interest = Interest::One(Topic::Table(Table::Checks));
    let mut state = engine.state();
    loop {
        let index = state.table_index(Table::Checks);
        let checks = if target.alias_service.is_empty() {
            state.node_checks(&of_node)
        } else {
            let own = state.checks_of(&of_node, "").into_iter();
            own.chain(state.checks_of(&of_node, &target.alias_service)).collect()
        };
        let others = checks.into_iter().filter(|c| c.check_id != check.check.check_id);
        let worst =
            others.max_by_key(|c| ["passing", "warning", "critical"].iter().position(|s| *s == c.status));
        let (status, output) = match worst {
            Some(worst) if worst.status != "passing" => {
                (worst.status.as_str(), format!("Aliased check \"{}\" failing: {}", worst.name, worst.output))
            }
            Some(_) => ("passing", "All checks passing.".to_owned()),
            None => ("passing", "No checks found.".to_owned()),
        };
        report(&engine, &node, &check.check.check_id, status, output).await;
        state = engine.wait(&interest, index, MIRROR_EVERY, |s| s.table_index(Table::Checks)).await;
    }
}

async fn report(engine: &Engine, node: &str, id: &str, status: &str, output: String) {
    let command = Command::AgentCheckStatus {
        node: node.to_owned(),
        id: id.to_owned(),
        status: status.to_owned(),
        output,
    };
    if let Err(error) = engine.write(command).await {
        tracing::debug!(check = %id, %error, "a probe's result was not stored");
    }
}
