//! Removal of services that stay critical: Consul's least time is a minute, whatever is asked, and it looks every half minute.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use plinth_testbed::{eventually, holds};

use crate::side::Side;

const LEAST: Duration = Duration::from_secs(60);
/// Half a minute until it looks again, and a busy machine.
const SLACK: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: cargo xtask conformance"]
async fn critical_services_are_removed_by_both() {
    let (agent, consul) = tokio::join!(Side::agent(), Side::consul());
    tokio::join!(critical_services_are_removed(&agent), critical_services_are_removed(&consul));
}

async fn critical_services_are_removed(side: &Side) {
    let register = async |name: &str, rest: &str| {
        let check = format!(r#"{{"CheckID":"{name}","DeregisterCriticalServiceAfter":"1s",{rest}}}"#);
        side.put("/v1/agent/service/register", format!(r#"{{"Name":"{name}","Check":{check}}}"#)).await;
    };
    // becomes critical by itself, by a report, and by a probe
    register("expires", r#""TTL":"1s","Status":"passing""#).await;
    register("fails", r#""TTL":"1h","Status":"passing""#).await;
    register("refused", r#""TCP":"127.0.0.1:1","Interval":"1s""#).await;
    // has no reason to go: never became critical, recovers, only warns, and has nobody who asked for its removal
    register("born-critical", r#""TTL":"1h","Status":"critical""#).await;
    register("recovers", r#""TTL":"1h","Status":"passing""#).await;
    register("warns", r#""TTL":"1h","Status":"passing""#).await;
    let unasked = r#"{"Name":"unasked","Check":{"CheckID":"unasked","TTL":"1s","Status":"passing"}}"#;
    side.put("/v1/agent/service/register", unasked).await;
    side.put("/v1/agent/check/fail/fails", "").await;
    side.put("/v1/agent/check/fail/recovers", "").await;
    side.put("/v1/agent/check/warn/warns", "").await;
    let critical = Instant::now();
    side.put("/v1/agent/check/pass/recovers", "").await;

    let names = async || {
        let all = side.get("/v1/agent/services").await;
        let names: Vec<String> = all.as_object().unwrap().keys().cloned().collect();
        names
    };
    let stay = ["born-critical", "recovers", "unasked", "warns"];
    let whole_until = Mutex::new(critical);
    eventually(&format!("{}: what is critical is removed", side.name), LEAST + SLACK, || async {
        let names = names().await;
        if names.len() == 7 {
            *whole_until.lock().unwrap() = Instant::now();
        }
        holds(names == stay, format!("{names:?}"))
    })
    .await;
    let kept = whole_until.lock().unwrap().duration_since(critical);
    assert!(kept > LEAST - Duration::from_secs(5), "{}: the first was removed after {kept:?}", side.name);
    println!("{}: removed {kept:?} after it was critical", side.name);
    assert_eq!(names().await, stay, "{}", side.name);
}
