//! `consul watch`: what its handlers are given, change after change.

use std::time::Duration;

use plinth_testbed::process::Process;
use plinth_testbed::{eventually, holds};
use serde_json::Value;

use crate::side::{Side, on_both};

const SOON: Duration = Duration::from_secs(15);

on_both!(key, keyprefix, services, nodes, service, checks, events, a_restart_of_the_client);

/// A running watch and what its handler has been given, one JSON document a line.
struct Watch<'a> {
    side: &'a Side,
    process: Process,
    what: String,
}

impl<'a> Watch<'a> {
    fn start(side: &'a Side, arguments: &[&str]) -> Self {
        let mut words = vec!["watch", "-shell=false"];
        words.extend(arguments);
        // `cat` alone would leave the documents without an end of line between them
        words.extend(["sh", "-c", "cat; echo"]);
        let process = side.start("watch", Side::consul_command(&words));
        Watch { side, process, what: arguments.join(" ") }
    }

    fn given(&self) -> Vec<Value> {
        let lines = self.process.output();
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the last document is as wanted.
    async fn last(&mut self, wanted: &str, right: impl Fn(&Value) -> bool) {
        let what = format!("{}: watch {} shows {wanted}", self.side.name, self.what);
        eventually(&what, SOON, || {
            self.process.assert_running();
            let right = self.given().last().is_some_and(&right);
            let output = self.process.output();
            async move { holds(right, output) }
        })
        .await;
    }
}

async fn key(side: &Side) {
    side.put("/v1/kv/w/a", "1").await;
    let mut watch = Watch::start(side, &["-type=key", "-key=w/a"]);
    watch.last("the value", |given| given["Value"] == "MQ==").await;
    side.put("/v1/kv/w/a?flags=7", "2").await;
    watch.last("the change", |given| given["Value"] == "Mg==" && given["Flags"] == 7).await;
    // Neighbours do not run the handler.
    let runs = watch.given().len();
    side.put("/v1/kv/w/b", "x").await;
    side.send(http::Method::DELETE, "/v1/kv/w/a", "").await;
    watch.last("that it is gone", Value::is_null).await;
    assert_eq!(watch.given().len(), runs + 1, "{}: {:?}", side.name, watch.given());
    side.put("/v1/kv/w/a", "3").await;
    watch.last("that it is back", |given| given["Value"] == "Mw==").await;
}

async fn keyprefix(side: &Side) {
    let mut watch = Watch::start(side, &["-type=keyprefix", "-prefix=p/"]);
    for number in 1..=3_usize {
        side.put(&format!("/v1/kv/p/{number}"), "x").await;
        watch.last("all keys", |given| given.as_array().is_some_and(|keys| keys.len() == number)).await;
    }
    side.send(http::Method::DELETE, "/v1/kv/p/2", "").await;
    watch
        .last("the two left", |given| {
            given.as_array().is_some_and(|keys| keys.iter().map(|key| &key["Key"]).eq(["p/1", "p/3"]))
        })
        .await;
}

async fn services(side: &Side) {
    let mut watch = Watch::start(side, &["-type=services"]);
    watch.last("itself", |given| given["consul"].is_array()).await;
    side.put("/v1/agent/service/register", r#"{"Name":"shop","Tags":["b"]}"#).await;
    watch.last("the service", |given| given["shop"] == serde_json::json!(["b"])).await;
    side.put("/v1/agent/service/deregister/shop", "").await;
    watch.last("it gone", |given| given.get("shop").is_none()).await;
}

async fn nodes(side: &Side) {
    let count =
        |wanted: usize| move |given: &Value| given.as_array().is_some_and(|nodes| nodes.len() == wanted);
    let mut watch = Watch::start(side, &["-type=nodes"]);
    watch.last("itself", count(1)).await;
    side.put("/v1/catalog/register", r#"{"Node":"ext","Address":"10.0.0.1"}"#).await;
    watch.last("the node", count(2)).await;
    side.put("/v1/catalog/deregister", r#"{"Node":"ext"}"#).await;
    watch.last("it gone", count(1)).await;
}

async fn service(side: &Side) {
    let mut watch = Watch::start(side, &["-type=service", "-service=pay", "-passingonly=true", "-tag=v2"]);
    let ids = |wanted: &'static [&'static str]| {
        move |given: &Value| {
            given.as_array().is_some_and(|all| all.iter().map(|entry| &entry["Service"]["ID"]).eq(wanted))
        }
    };
    watch.last("nothing", ids(&[])).await;
    for id in ["pay-1", "pay-2"] {
        let body = format!(
            r#"{{"ID":"{id}","Name":"pay","Tags":["v2"],"Port":1,"Check":{{"TTL":"1h","Status":"passing"}}}}"#
        );
        side.put("/v1/agent/service/register", body).await;
    }
    side.put("/v1/agent/service/register", r#"{"ID":"pay-0","Name":"pay","Tags":["v1"]}"#).await;
    watch.last("both", ids(&["pay-1", "pay-2"])).await;
    side.put("/v1/agent/check/fail/service:pay-1", "").await;
    watch.last("the one that passes", ids(&["pay-2"])).await;
    side.put("/v1/agent/check/pass/service:pay-1", "").await;
    watch.last("both again", ids(&["pay-1", "pay-2"])).await;
    side.put("/v1/agent/service/maintenance/pay-2?enable=true", "").await;
    watch.last("the one not in maintenance", ids(&["pay-1"])).await;
}

async fn checks(side: &Side) {
    let mut critical = Watch::start(side, &["-type=checks", "-state=critical"]);
    let mut of_service = Watch::start(side, &["-type=checks", "-service=job"]);
    let body = r#"{"Name":"job","Check":{"CheckID":"job-ttl","TTL":"1h","Status":"passing"}}"#;
    side.put("/v1/agent/service/register", body).await;
    of_service
        .last("the check", |given| given[0]["CheckID"] == "job-ttl" && given[0]["Status"] == "passing")
        .await;
    critical.last("none", |given| *given == serde_json::json!([])).await;
    side.put("/v1/agent/check/fail/job-ttl?note=broken", "").await;
    of_service
        .last("the failure", |given| given[0]["Status"] == "critical" && given[0]["Output"] == "broken")
        .await;
    critical.last("it", |given| given[0]["CheckID"] == "job-ttl").await;
    side.put("/v1/agent/service/deregister/job", "").await;
    of_service.last("none", |given| *given == serde_json::json!([])).await;
    critical.last("none again", |given| *given == serde_json::json!([])).await;
}

async fn events(side: &Side) {
    let mut watch = Watch::start(side, &["-type=event", "-name=deploy"]);
    watch.last("none yet", |given| given.as_array().is_none_or(Vec::is_empty)).await;
    side.cli(&["event", "-name=other", "x"]);
    side.cli(&["event", "-name=deploy", "one"]);
    watch.last("the first", |given| given[0]["Payload"] == "b25l" && given[1].is_null()).await;
    side.cli(&["event", "-name=deploy", "two"]);
    // The handler is given what came since its last run.
    watch.last("the second", |given| given[0]["Payload"] == "dHdv" && given[1].is_null()).await;
}

/// A watch that is started later begins with what is.
async fn a_restart_of_the_client(side: &Side) {
    side.put("/v1/kv/again", "1").await;
    let mut watch = Watch::start(side, &["-type=key", "-key=again"]);
    watch.last("the value", |given| given["Value"] == "MQ==").await;
    watch.process.terminate(SOON);
    side.put("/v1/kv/again", "2").await;
    let mut watch = Watch::start(side, &["-type=key", "-key=again"]);
    watch.last("the new value", |given| given["Value"] == "Mg==").await;
}
