//! Active checks of services registered with this agent: one task per check, started, replaced and stopped as
//! registrations change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::http::LONGEST_OUTPUT;
use crate::state::Command;
use crate::state::local::{LocalCheck, Runner};
use crate::state::model::{Definition, Status};

mod probe;

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
    loop {
        let state = engine.state();
        running.retain(|id, r| {
            state.local_check(id).is_some_and(|c| c.target == r.target && c.runner == r.runner)
        });
        for check in state.local_checks() {
            let id = &check.check.check_id;
            let Some(interval) = interval_of(&check.runner) else { continue };
            if !running.contains_key(id) {
                let task =
                    tokio::spawn(probe_for_ever(engine.clone(), node.clone(), check.clone(), interval));
                let entry = Running { target: check.target.clone(), runner: check.runner.clone(), task };
                running.insert(id.clone(), entry);
            }
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

async fn probe_for_ever(engine: Arc<Engine>, node: String, check: Arc<LocalCheck>, interval: Duration) {
    // spread over the first interval, so that many registrations at once do not probe at once
    tokio::time::sleep(interval.mul_f64(fastrand::f64())).await;
    let mut every = tokio::time::interval(interval);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (status, mut output) = probe::probe(&check).await;
        if output.len() > LONGEST_OUTPUT {
            let cut = (0..=LONGEST_OUTPUT).rev().find(|at| output.is_char_boundary(*at)).unwrap_or(0);
            output.truncate(cut);
        }
        report(&engine, &node, &check.check.check_id, status, output).await;
    }
}

async fn report(engine: &Engine, node: &str, id: &str, status: Status, output: String) {
    let command = Command::AgentCheckStatus {
        node: node.to_owned(),
        id: id.to_owned(),
        status: status.as_str().to_owned(),
        output,
    };
    if let Err(error) = engine.write(command).await {
        tracing::debug!(check = %id, %error, "a probe's result was not stored");
    }
}
