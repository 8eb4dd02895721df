//! A service's own health: what it needs, checked on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

type Outcome = Result<Value, String>;
type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// Named component checks, run concurrently, each with a deadline; a report is reused for a moment, so that many
/// askers (load balancers, dashboards) cost the components no more than one.
#[derive(Clone)]
pub struct Components(Arc<Shared>);

struct Shared {
    timeout: Duration,
    cache: Duration,
    checks: parking_lot::RwLock<Vec<Component>>,
    /// Held while a report is made: concurrent askers wait for it and share it.
    last: Mutex<Option<(Instant, Arc<Report>)>>,
}

#[derive(Clone)]
struct Component {
    name: String,
    critical: bool,
    check: Check,
}

/// Of a whole service: unhealthy when a critical component fails, degraded when only others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Pass,
    Fail,
}

/// One component's result. `details` is the check's own JSON, or the reason of the failure as a string.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    pub status: CheckStatus,
    pub details: Value,
    pub critical: bool,
    pub duration: Duration,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub status: Overall,
    pub checks: BTreeMap<String, CheckResult>,
}

impl Components {
    /// Each check gets `timeout` (usually 1 s), a report is reused for `cache` (usually 1 s).
    pub fn new(timeout: Duration, cache: Duration) -> Self {
        Self(Arc::new(Shared {
            timeout,
            cache,
            checks: parking_lot::RwLock::new(Vec::new()),
            last: Mutex::new(None),
        }))
    }

    /// Adds a check, or replaces the one of that name. `Ok` carries details to show, `Err` why it fails.
    pub fn add<F, Fut>(&self, name: impl Into<String>, critical: bool, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let component = Component { name: name.into(), critical, check: Arc::new(move || Box::pin(check())) };
        let mut checks = self.0.checks.write();
        checks.retain(|present| present.name != component.name);
        checks.push(component);
    }

    /// Runs what the cache does not answer.
    pub async fn report(&self) -> Arc<Report> {
        let mut last = self.0.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < self.0.cache
        {
            return Arc::clone(report);
        }
        let report = Arc::new(self.run().await);
        *last = Some((Instant::now(), Arc::clone(&report)));
        report
    }

    async fn run(&self) -> Report {
        let components = self.0.checks.read().clone();
        let mut running: FuturesUnordered<_> =
            components.into_iter().map(|component| run_one(component, self.0.timeout)).collect();
        let mut checks = BTreeMap::new();
        while let Some((name, result)) = running.next().await {
            checks.insert(name, result);
        }
        Report { status: overall(checks.values()), checks }
    }
}

async fn run_one(component: Component, timeout: Duration) -> (String, CheckResult) {
    let started = Instant::now();
    // A check may do work before its first await; the deadline covers what it awaits.
    let outcome = match tokio::time::timeout(timeout, (component.check)()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no result within {timeout:?}")),
    };
    let (status, details) = match outcome {
        Ok(details) => (CheckStatus::Pass, details),
        Err(reason) => (CheckStatus::Fail, Value::String(reason)),
    };
    (
        component.name,
        CheckResult { status, details, critical: component.critical, duration: started.elapsed() },
    )
}

fn overall<'a>(results: impl Iterator<Item = &'a CheckResult>) -> Overall {
    results.filter(|result| result.status == CheckStatus::Fail).fold(Overall::Healthy, |worst, failed| {
        if failed.critical || worst == Overall::Unhealthy { Overall::Unhealthy } else { Overall::Degraded }
    })
}

impl fmt::Debug for Components {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.checks.read().iter().map(|c| c.name.clone()).collect();
        f.debug_struct("Components").field("checks", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn the_worst_component_decides() {
        let components = Components::new(SECOND, Duration::ZERO);
        components.add("store", true, || async { Ok(json!({"rows": 1})) });
        assert_eq!(components.report().await.status, Overall::Healthy);
        components.add("cache", false, || async { Err("refused".to_owned()) });
        let report = components.report().await;
        assert_eq!(report.status, Overall::Degraded);
        assert_eq!(report.checks["cache"].details, json!("refused"));
        components.add("store", true, || async { Err("gone".to_owned()) });
        let report = components.report().await;
        assert_eq!((report.status, report.checks.len()), (Overall::Unhealthy, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_check_fails_alone_and_in_time() {
        let components = Components::new(SECOND, Duration::ZERO);
        components.add("a", true, std::future::pending);
        components.add("b", false, std::future::pending);
        components.add("c", true, || async { Ok(Value::Null) });
        let started = tokio::time::Instant::now();
        let report = components.report().await;
        assert_eq!(started.elapsed(), SECOND, "checks run side by side");
        assert_eq!(report.checks["c"].status, CheckStatus::Pass);
        assert_eq!(report.checks["a"].details, json!("no result within 1s"));
    }

    #[tokio::test]
    async fn askers_share_a_report() {
        let calls = Arc::new(AtomicU32::new(0));
        let components = Components::new(SECOND, Duration::from_secs(3600));
        let counter = Arc::clone(&calls);
        components.add("a", true, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok(Value::Null) }
        });
        tokio::join!(components.report(), components.report(), components.report());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
