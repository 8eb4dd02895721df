//! Active checks of services registered with this agent: one task per check, started, replaced and stopped as
//! registrations change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use plinth_core::health::{OUTPUT_LIMIT, Prober};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::engine::watch::Interest;
use crate::state::local::{LocalCheck, Runner};
use crate::state::model::Definition;
use crate::state::{Command, Table, Topic};

mod mirror;
mod probe;

pub(crate) use mirror::mirrored;

/// What the answer's body follows in an output.
const BODY: &str = " Output: ";
/// An alias check looks again at least this often.
const MIRROR_EVERY: Duration = Duration::from_secs(60);

struct Running {
    target: Definition,
    runner: Runner,
    /// Results before a change: to passing, to critical; and how much of an output is kept.
    before: (u32, u32, usize),
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the running checks as the registrations say, for ever. A registration costs what it changed, however many
/// checks there are.
pub(crate) async fn run(engine: Arc<Engine>, node: String, mut changed: watch::Receiver<u64>) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let prober = Prober::new();
    let mut seen = OrdMap::new();
    loop {
        let checks = engine.state().local_checks.clone();
        for difference in seen.diff(&checks) {
            let check: &Arc<LocalCheck> = match difference {
                DiffItem::Remove(id, _) => {
                    running.remove(&**id);
                    continue;
                }
                DiffItem::Add(_, check) => check,
                DiffItem::Update { new: (_, check), .. } => check,
            };
            let id = &check.check.check_id;
            let before =
                (check.success_before_passing, check.failures_before_critical, check.output_max_size);
            let same =
                |r: &Running| r.target == check.target && r.runner == check.runner && r.before == before;
            if running.get(id).is_some_and(same) {
                continue;
            }
            running.remove(id);
            let Some(task) = start(&engine, &prober, &node, check) else { continue };
            let entry = Running { target: check.target.clone(), runner: check.runner.clone(), before, task };
            running.insert(id.clone(), entry);
        }
        seen = checks;
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// None for a check that somebody else reports.
fn start(
    engine: &Arc<Engine>,
    prober: &Prober,
    node: &str,
    check: &Arc<LocalCheck>,
) -> Option<JoinHandle<()>> {
    let (engine, node, check) = (engine.clone(), node.to_owned(), check.clone());
    if check.runner == Runner::Alias {
        return Some(tokio::spawn(mirror_for_ever(engine, node, check)));
    }
    let every = interval_of(&check.runner)?;
    Some(tokio::spawn(probe_for_ever(engine, prober.clone(), node, check, every)))
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
    // the first result counts whatever it is
    let (mut good, mut bad) = (check.success_before_passing, check.failures_before_critical);
    loop {
        every.tick().await;
        let seen = prober.probe(&target, timeout).await;
        let enough = if seen.status == plinth_core::health::Status::Critical {
            (good, bad) = (0, bad.saturating_add(1));
            bad >= check.failures_before_critical
        } else {
            (good, bad) = (good.saturating_add(1), 0);
            good >= check.success_before_passing
        };
        if enough {
            let mut output = probe::told(&target, &seen);
            if let Some(at) = output.find(BODY).filter(|_| seen.http_status.is_some()) {
                let longest = at + BODY.len() + check.longest_output(OUTPUT_LIMIT);
                output.truncate(output.floor_char_boundary(longest));
            }
            report(&engine, &node, &check.check.check_id, seen.status.as_str(), output).await;
        }
    }
}

/// An alias check has the worst status of the service (or node) it stands for.
async fn mirror_for_ever(engine: Arc<Engine>, node: String, check: Arc<LocalCheck>) {
    let interest = Interest::One(Topic::Table(Table::Checks));
    let mut state = engine.state();
    loop {
        let index = state.table_index(Table::Checks);
        let (status, output) = mirrored(&state, &node, &check.target, &check.check.check_id);
        report(&engine, &node, &check.check.check_id, &status, output).await;
        state = engine.wait(&interest, index, MIRROR_EVERY, |s| s.table_index(Table::Checks)).await;
        if engine.stopping() {
            // it waits for nothing any more: going on would be a loop that never gives way
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    /// The store that stops lets all go who wait, for good: who only waited again would go round for ever.
    #[test]
    fn an_alias_ends_with_the_store() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let engine = Arc::new(Engine::start(State::default(), None, u64::MAX).unwrap());
            let check = LocalCheck {
                check: Default::default(),
                target: Definition::default(),
                runner: Runner::Alias,
                deregister_after: None,
                critical_since: None,
                success_before_passing: 0,
                failures_before_critical: 0,
                output_max_size: 0,
            };
            let alias = tokio::spawn(mirror_for_ever(engine.clone(), "n".to_owned(), Arc::new(check)));
            engine.stop().await;
            tokio::time::timeout(Duration::from_secs(10), alias).await
        });
        // without waiting for a task that may go round
        runtime.shutdown_background();
        assert!(ended.is_ok());
    }
}
