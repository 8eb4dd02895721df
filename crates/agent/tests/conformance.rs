//! The same requests to this agent and to a real Consul 1.8.7; statuses, headers and bodies must be the same.
//!
//! Scripts are in `tests/scripts`: one request a line, `METHOD path ^ Header: value | body`, `NAME := METHOD path | body`
//! keeps the first UUID of the answer as `$NAME`, or with `NAME.index :=` its first ModifyIndex. What differs by nature
//! (ids, absolute indexes) is masked; whether an object was changed after its creation is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use http::Method;
use plinth_agent::{Agent, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, http_client};
use regex::Regex;

struct Side {
    base: String,
    kept: HashMap<String, String>,
}

struct Step<'a> {
    keep: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
}

fn steps(script: &str) -> Vec<Step<'_>> {
    script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (keep, request) = match line.split_once(" := ") {
                Some((name, rest)) if !name.contains(' ') => (Some(name), rest),
                _ => (None, line),
            };
            let (head, body) = request.split_once(" | ").unwrap_or((request, ""));
            let mut parts = head.split(" ^ ");
            let line = parts.next().unwrap_or_default().trim();
            let (method, path) = line.split_once(' ').expect("method and path");
            let headers = parts.map(|header| {
                let (name, value) = header.split_once(':').expect("name and value");
                (name.trim(), value.trim())
            });
            Step { keep, method, path: path.trim(), headers: headers.collect(), body }
        })
        .collect()
}

impl Side {
    fn fill(&self, text: &str) -> String {
        let mut names: Vec<_> = self.kept.keys().collect();
        names.sort_by_key(|n| std::cmp::Reverse(n.len()));
        names.iter().fold(text.to_owned(), |text, name| text.replace(&format!("${name}"), &self.kept[*name]))
    }

    async fn run(&mut self, step: &Step<'_>) -> String {
        let url = format!("{}{}", self.base, self.fill(step.path));
        let method: Method = step.method.parse().unwrap();
        let answer = http_client::send(method, &url, &step.headers, self.fill(step.body)).await.unwrap();
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        if let Some(name) = step.keep {
            let found = match name.strip_suffix(".index") {
                Some(_) => {
                    Regex::new(r#""ModifyIndex":(\d+)"#).unwrap().captures(&body).map(|c| c[1].to_owned())
                }
                None => uuid().find(&body).map(|m| m.as_str().to_owned()),
            };
            self.kept.insert(name.to_owned(), found.unwrap_or_else(|| panic!("nothing to keep in {body}")));
        }
        let mut shown = format!("{}", answer.status().as_u16());
        for name in [
            "content-type",
            "allow",
            "location",
            "vary",
            "content-encoding",
            "x-cache",
            "age",
            "x-content-type-options",
            "content-security-policy",
            "x-consul-knownleader",
            "x-consul-lastcontact",
            "x-consul-effective-consistency",
            "x-consul-reason",
        ] {
            if let Some(value) = answer.headers().get(name) {
                write!(shown, " {name}={}", value.to_str().unwrap()).unwrap();
            }
        }
        if answer.headers().contains_key("x-consul-index") {
            shown.push_str(" x-consul-index");
        }
        format!("{shown}\n{}", masked(&body))
    }
}

fn uuid() -> &'static Regex {
    static UUID: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap());
    &UUID
}

/// What differs by nature, and what stands for it.
static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let mask = |pattern: &str, shown| (Regex::new(pattern).unwrap(), shown);
    vec![
        mask(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        mask(r#""Hash":"[A-Za-z0-9+/=]+""#, "\"Hash\":\"H\""),
        mask("current modify index [0-9]+", "current modify index N"),
        mask(r#""Port":\d{4,5},"Weights""#, "\"Port\":P,\"Weights\""),
        mask(r#""ContentHash":"[0-9a-f]+""#, "\"ContentHash\":\"H\""),
        // a check's first probe comes at a random moment of its interval: what it found is on one side before the other
        mask(r#""Output":"(Get \\"[^"]*": )?dial tcp[: ][^"]*""#, "\"Output\":\"\""),
        // Consul updates its own node a moment after it made it
        mask(r#"("consul-network-segment":""\},)"Index":(new|changed)"#, "$1\"Index\":any"),
    ]
});

fn masked(body: &str) -> String {
    static INDEXES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#""CreateIndex":(\s*)(\d+),(\s*)"ModifyIndex":(\s*)(\d+)"#).unwrap());
    let body = INDEXES.replace_all(body, |found: &regex::Captures<'_>| {
        let (created, modified): (u64, u64) = (found[2].parse().unwrap(), found[5].parse().unwrap());
        let age = if created == 0 {
            "none"
        } else if created == modified {
            "new"
        } else {
            "changed"
        };
        format!("\"Index\":{age}")
    });
    let body = MASKS
        .iter()
        .fold(body.into_owned(), |body, (mask, shown)| mask.replace_all(&body, *shown).into_owned());
    uuid().replace_all(&body, "<uuid>").into_owned()
}

async fn same(script: &str) {
    same_with(script, false).await;
}

async fn same_with(script: &str, connect: bool) {
    let enabled = format!("connect {{ enabled = {connect} }}");
    let consul = RealConsul::start_with(&["node_name = \"plinth\"", &enabled]).await;
    // Consul registers its own node once more after it began to answer
    eventually("Consul's node is complete", Duration::from_secs(30), || async {
        let answer = http_client::get(&format!("http://{}/v1/catalog/nodes", consul.addr)).await;
        let body = answer.map_err(|error| error.to_string())?.into_body();
        let body = String::from_utf8_lossy(&body).into_owned();
        if body.contains("lan_ipv4") { Ok(()) } else { Err(body) }
    })
    .await;
    let settings = Settings { http_port: 0, connect, ..Settings::default() };
    let agent = Agent::start(settings).await.unwrap();
    let side = |address| Side { base: format!("http://{address}"), kept: HashMap::new() };
    let (mut ours, mut theirs) = (side(agent.address()), side(consul.addr));
    let mut differences = String::new();
    for step in steps(script) {
        // the same order on both sides, so that what one request leaves behind the next one finds
        let (got, wanted) = (ours.run(&step).await, theirs.run(&step).await);
        if got != wanted {
            let Step { method, path, body, .. } = step;
            write!(differences, "\n{method} {path} {body}\n  agent:  {got}\n  consul: {wanted}\n").unwrap();
        }
    }
    agent.shutdown().await;
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test]
async fn kv() {
    same(include_str!("scripts/kv.txt")).await;
}

#[tokio::test]
async fn sessions() {
    same(include_str!("scripts/sessions.txt")).await;
}

#[tokio::test]
async fn transactions() {
    same(include_str!("scripts/txn.txt")).await;
}

#[tokio::test]
async fn client_libraries() {
    same(include_str!("scripts/sdks.txt")).await;
}

#[tokio::test]
async fn catalog() {
    same(include_str!("scripts/catalog.txt")).await;
}

#[tokio::test]
async fn agent() {
    same(include_str!("scripts/agent.txt")).await;
}

#[tokio::test]
async fn filters() {
    same(include_str!("scripts/filters.txt")).await;
}

#[tokio::test]
async fn prepared_queries() {
    same(include_str!("scripts/queries.txt")).await;
}

#[tokio::test]
async fn configuration_entries() {
    same(include_str!("scripts/config.txt")).await;
}

#[tokio::test]
async fn mesh() {
    same_with(include_str!("scripts/mesh.txt"), true).await;
}

#[tokio::test]
async fn discovery_chains() {
    same_with(include_str!("scripts/chains.txt"), true).await;
}

#[tokio::test]
async fn gateways() {
    same_with(include_str!("scripts/gateways.txt"), true).await;
}

#[tokio::test]
async fn the_rest() {
    same_with(include_str!("scripts/rest.txt"), true).await;
}

#[tokio::test]
async fn manners() {
    same(include_str!("scripts/manners.txt")).await;
}

#[tokio::test]
async fn bodies() {
    same(include_str!("scripts/bodies.txt")).await;
}

#[tokio::test]
async fn cached_and_compressed() {
    same(include_str!("scripts/cached.txt")).await;
}
