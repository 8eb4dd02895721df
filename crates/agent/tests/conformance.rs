//! The same requests to this agent and to a real Consul 1.8.7; statuses, headers and bodies must be the same.
//!
//! Scripts are in `tests/scripts`: one request a line, `METHOD path | body`, `NAME := METHOD path | body` keeps
//! the first UUID of the answer as `$NAME`, or with `NAME.index :=` its first ModifyIndex. What differs by nature
//! (ids, absolute indexes) is masked; whether an object was changed after its creation is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fmt::Write as _;

use http::Method;
use plinth_agent::{Agent, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::http_client;
use regex::Regex;

struct Side {
    base: String,
    kept: HashMap<String, String>,
}

struct Step<'a> {
    keep: Option<&'a str>,
    method: &'a str,
    path: &'a str,
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
            let (method, path) = head.trim().split_once(' ').expect("method and path");
            Step { keep, method, path: path.trim(), body }
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
        let answer = http_client::send(method, &url, &[], self.fill(step.body)).await.unwrap();
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

fn uuid() -> Regex {
    Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap()
}

fn masked(body: &str) -> String {
    let indexes = Regex::new(r#""CreateIndex":(\s*)(\d+),(\s*)"ModifyIndex":(\s*)(\d+)"#).unwrap();
    let body = indexes.replace_all(body, |found: &regex::Captures<'_>| {
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
    let current = Regex::new("current modify index [0-9]+").unwrap();
    let body = current.replace_all(&body, "current modify index N");
    let ports = Regex::new(r#""Port":\d{4,5},"Weights""#).unwrap();
    let body = ports.replace_all(&body, "\"Port\":P,\"Weights\"");
    let hash = Regex::new(r#""ContentHash":"[0-9a-f]+""#).unwrap();
    let body = hash.replace_all(&body, "\"ContentHash\":\"H\"");
    // Consul updates its own node a moment after it made it
    let own = Regex::new(r#"("consul-network-segment":""\},)"Index":(new|changed)"#).unwrap();
    let body = own.replace_all(&body, "$1\"Index\":any");
    uuid().replace_all(&body, "<uuid>").into_owned()
}

async fn same(script: &str) {
    let consul = RealConsul::start_with(&["node_name = \"plinth\""]).await;
    let agent = Agent::start(Settings { http_port: 0, ..Settings::default() }).await.unwrap();
    let side = |address| Side { base: format!("http://{address}"), kept: HashMap::new() };
    let (mut ours, mut theirs) = (side(agent.address()), side(consul.addr));
    let mut differences = String::new();
    for step in steps(script) {
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
