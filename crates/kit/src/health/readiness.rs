//! The readiness latch.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Default)]
struct State {
    pending: BTreeSet<&'static str>,
    closed: bool,
}

/// Ready once every named condition has been met, until closed by a shutdown. A met condition stays met: what can
/// break later belongs to `/health`, or every replica would leave the load balancer at once when one dependency
/// is away. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

/// One condition of a [`Readiness`], met by [`Condition::meet`]. Dropping it unmet leaves the service not ready.
#[derive(Debug)]
#[must_use = "an unmet condition keeps the service from ever being ready"]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// A latch without conditions, that is ready.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Adds a condition, unmet.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.state.send_modify(|state| {
            state.pending.insert(name);
        });
        Condition { name, readiness: self.clone() }
    }

    /// True when every condition is met and no shutdown has begun.
    pub fn is_ready(&self) -> bool {
        let state = self.state.borrow();
        !state.closed && state.pending.is_empty()
    }

    /// The conditions that are not met; `shutdown` once closed.
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.state.borrow();
        let closed = state.closed.then_some("shutdown");
        state.pending.iter().copied().chain(closed).collect()
    }

    /// Resolves when ready; never after [`Readiness::close`].
    pub async fn ready(&self) {
        let mut watcher = self.state.subscribe();
        // The sender lives in self, so this ends with a value.
        let _ = watcher.wait_for(|state| !state.closed && state.pending.is_empty()).await;
    }

    /// Not ready from now on, whatever is met: the beginning of a shutdown.
    pub fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }
}

impl Condition {
    /// The condition is met.
    pub fn meet(self) {
        self.readiness.state.send_modify(|state| {
            state.pending.remove(self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn waits_for_every_condition() {
        let readiness = Readiness::new();
        let (database, discovery) = (readiness.condition("database"), readiness.condition("discovery"));
        assert_eq!(readiness.missing(), ["database", "discovery"]);
        assert!(readiness.ready().now_or_never().is_none());
        database.meet();
        assert!(!readiness.is_ready());
        discovery.meet();
        assert!(readiness.is_ready());
        assert!(readiness.ready().now_or_never().is_some());
    }

    #[test]
    fn closes_for_good() {
        let readiness = Readiness::new();
        let late = readiness.condition("late");
        readiness.close();
        late.meet();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.missing(), ["shutdown"]);
    }

    #[test]
    fn a_dropped_condition_stays_unmet() {
        let readiness = Readiness::new();
        drop(readiness.condition("database"));
        assert_eq!(readiness.missing(), ["database"]);
    }
}
