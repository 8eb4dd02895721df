//! Deadlines of sessions and of TTL checks. They are not part of the state: a renewal writes nothing, and after
//! a restart every time starts anew, as after a change of leader in Consul.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::feed::Level;
use crate::state::local::Runner;
use crate::state::{Command, State};

/// How often critical checks are looked at for deregistration.
const REAP_EVERY: Duration = Duration::from_secs(30);
/// The least time before a critical service is removed, whatever is asked.
const REAP_LEAST: Duration = Duration::from_secs(60);
/// How often outputs that changed alone are brought to the catalog.
const OUTPUTS_EVERY: Duration = Duration::from_secs(300);
/// When the disk refused an expiry, the next attempt.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timed {
    Session(String),
    Check(String),
}

#[derive(Debug, Default)]
struct Deadlines {
    by_time: BTreeSet<(Instant, Timed)>,
    of: HashMap<Timed, Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: Mutex<Deadlines>,
    sooner: Notify,
}

impl Timers {
    /// A session ends at twice its TTL after the last sign of life, as in Consul 1.8.
    pub fn arm_session(&self, id: &str, ttl: Duration) {
        if !ttl.is_zero() {
            self.arm(Timed::Session(id.to_owned()), ttl * 2);
        }
    }

    pub fn disarm_session(&self, id: &str) {
        self.disarm(&Timed::Session(id.to_owned()));
    }

    pub fn arm_check(&self, id: &str, ttl: Duration) {
        self.arm(Timed::Check(id.to_owned()), ttl);
    }

    fn arm(&self, what: Timed, after: Duration) {
        let at = Instant::now() + after;
        let mut deadlines = self.deadlines.lock();
        if let Some(old) = deadlines.of.insert(what.clone(), at) {
            deadlines.by_time.remove(&(old, what.clone()));
        }
        deadlines.by_time.insert((at, what.clone()));
        if deadlines.by_time.first().is_some_and(|(first, w)| *first == at && *w == what) {
            self.sooner.notify_one();
        }
    }

    fn disarm(&self, what: &Timed) {
        let mut deadlines = self.deadlines.lock();
        if let Some(at) = deadlines.of.remove(what) {
            deadlines.by_time.remove(&(at, what.clone()));
        }
    }

    /// Everything in a restored state gets its full time.
    pub fn arm_all(&self, state: &State) {
        for session in state.sessions() {
            if let Ok(ttl) = crate::duration::parse(&session.ttl) {
                self.arm_session(&session.id, ttl);
            }
        }
        for check in state.local_checks() {
            if let Runner::Ttl(ttl) = check.runner {
                self.arm_check(&check.check.check_id, ttl);
            }
        }
    }

    fn due(&self) -> Result<Timed, Option<Instant>> {
        let mut deadlines = self.deadlines.lock();
        match deadlines.by_time.first().cloned() {
            None => Err(None),
            Some((at, _)) if at > Instant::now() => Err(Some(at)),
            Some(due) => {
                deadlines.by_time.remove(&due);
                deadlines.of.remove(&due.1);
                Ok(due.1)
            }
        }
    }

    /// Ends what is over, for ever.
    pub async fn run(self: Arc<Self>, engine: Arc<Engine>, node: String) {
        loop {
            match self.due() {
                Ok(what) => self.expire(&engine, &node, what).await,
                Err(Some(at)) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.sooner.notified() => {}
                    }
                }
                Err(None) => self.sooner.notified().await,
            }
        }
    }

    async fn expire(&self, engine: &Engine, node: &str, what: Timed) {
        let state = engine.state();
        let command = match &what {
            Timed::Session(id) => state.session(id).map(|session| {
                tracing::info!(session = %id, name = %session.name, "session expired");
                let fields = || vec![("session", id.clone()), ("name", session.name.clone())];
                engine.feed().tell(Level::Info, "agent.session", "session expired", fields);
                Command::SessionDestroy { id: id.clone(), expired: true }
            }),
            Timed::Check(id) => state
                .local_check(id)
                .and_then(|check| match check.runner {
                    Runner::Ttl(_) if check.check.output.is_empty() => Some("TTL expired".to_owned()),
                    Runner::Ttl(_) if check.check.output.starts_with("TTL expired") => {
                        Some(check.check.output.clone())
                    }
                    Runner::Ttl(_) => Some(format!(
                        "TTL expired (last output before timeout follows): {}",
                        check.check.output
                    )),
                    _ => None,
                })
                .map(|output| {
                    let status = "critical".to_owned();
                    Command::AgentCheckStatus { node: node.to_owned(), id: id.clone(), status, output }
                }),
        };
        let Some(command) = command else { return };
        if let Err(crate::WriteError::ReadOnly(_)) = engine.write(command).await {
            self.arm(what, RETRY);
        }
    }
}

/// Removes services whose checks stayed critical for too long, and brings lagging outputs to the catalog.
pub(crate) async fn reap(engine: Arc<Engine>, node: String, runners: watch::Sender<u64>) {
    let mut every = tokio::time::interval(REAP_EVERY);
    let mut outputs = Instant::now() + OUTPUTS_EVERY;
    loop {
        every.tick().await;
        remove_critical(&engine, &node, crate::engine::now(), &runners).await;
        if Instant::now() >= outputs {
            outputs = Instant::now() + OUTPUTS_EVERY;
            if let Err(error) = engine.write(Command::AgentOutputs { node: node.clone() }).await {
                tracing::warn!(%error, "cannot bring outputs to the catalog");
            }
        }
    }
}

/// `runners` is told of a removal, so that nobody goes on probing what is gone.
async fn remove_critical(engine: &Engine, node: &str, now: u64, runners: &watch::Sender<u64>) {
    for check in engine.state().local_checks() {
        let (Some(after), Some(since)) = (check.deregister_after, check.critical_since) else { continue };
        let limit = after.max(REAP_LEAST).as_millis() as u64;
        if check.check.service_id.is_empty() || now.saturating_sub(since) < limit {
            continue;
        }
        let id = check.check.service_id.clone();
        tracing::info!(service = %id, check = %check.check.check_id, "critical for too long: deregistered");
        let fields = || vec![("service", id.clone()), ("check", check.check.check_id.clone())];
        engine.feed().tell(Level::Info, "agent", "critical for too long: deregistered", fields);
        match engine.write(Command::AgentServiceRemove { node: node.to_owned(), id }).await {
            Ok(_) => runners.send_modify(|changes| *changes += 1),
            Err(error) => tracing::warn!(%error, "cannot deregister a critical service"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::Registration;
    use crate::state::local::{LocalCheck, LocalService};
    use crate::state::model::{Check, Definition, Node, Service};

    async fn with_critical_check(engine: &Engine, since: u64) {
        let node = Node { node: "n".into(), address: "127.0.0.1".into(), ..Node::default() };
        let own = Registration { node, skip_node_update: false, service: None, checks: Vec::new() };
        engine.write(Command::Register(Box::new(own))).await.unwrap();
        let service = Service { id: "web-1".into(), service: "web".into(), ..Service::default() };
        let check = LocalCheck {
            check: Check {
                node: "n".into(),
                check_id: "service:web-1".into(),
                status: "critical".into(),
                service_id: "web-1".into(),
                ..Check::default()
            },
            target: Definition::default(),
            runner: Runner::Tcp { interval: Duration::from_secs(1), timeout: Duration::from_secs(1) },
            deregister_after: Some(Duration::from_secs(1)),
            critical_since: Some(since),
            success_before_passing: 0,
            output_max_size: 0,
            failures_before_critical: 0,
        };
        let register = Command::AgentService {
            node: "n".into(),
            service: Box::new(LocalService { service }),
            checks: vec![check],
            replace_checks: false,
        };
        engine.write(register).await.unwrap();
    }

    #[tokio::test]
    async fn a_service_critical_for_too_long_goes_with_its_probes() {
        let engine = Engine::start(State::default(), None, u64::MAX).unwrap();
        with_critical_check(&engine, 1_000).await;
        let (runners, told) = watch::channel(0);
        let least = REAP_LEAST.as_millis() as u64;
        remove_critical(&engine, "n", 1_000 + least - 1, &runners).await;
        assert!(engine.state().local_service("web-1").is_some() && !told.has_changed().unwrap());
        remove_critical(&engine, "n", 1_000 + least, &runners).await;
        assert!(engine.state().local_service("web-1").is_none());
        assert!(told.has_changed().unwrap(), "its probes go on");
        engine.stop().await;
    }
}
