//! Consul's own Go client (package `api`) and watch plans (`api/watch`) with their own tests, as Consul 1.8.7 shipped them:
//! what Traefik, Prometheus, Vault, Nomad and most others are built with.
//!
//! Each test of theirs starts a server with the program `consul` on PATH. For the agent that is `go/consul`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plinth_testbed::process::Process;

use crate::program::command;
use crate::side::{consul_binary, script, tool};

/// Below the tools folder.
const SOURCES: &str = "consul-go-1.8.7/usr/share/gocode/src/github.com/hashicorp/consul";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: cargo xtask conformance"]
async fn api_on_agent() {
    suite("api.test", "api", "agent", "go/api.txt", &script("go"), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three minutes: cargo xtask conformance"]
async fn api_on_consul() {
    suite("api.test", "api", "consul", "go/api.txt", consul_binary().parent().unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "cargo xtask conformance"]
async fn watch_plans_on_agent() {
    suite("watch.test", "api/watch", "agent", "go/watch.txt", &script("go"), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "cargo xtask conformance"]
async fn watch_plans_on_consul() {
    suite("watch.test", "api/watch", "consul", "go/watch.txt", consul_binary().parent().unwrap(), 4);
}

/// Runs every test of `program` but those that `exceptions` takes out for this side, and wants all of them to pass.
fn suite(program: &str, package: &str, side: &str, exceptions: &str, consul: &Path, parallel: usize) {
    // they find certificates beside their sources
    let sources = tool(&format!("{SOURCES}/{package}"), "the sources of Consul's Go client");
    let program = tool(&format!("go-consul-1.8.7/{program}"), "the tests of Consul's Go client");
    let folder = tempfile::tempdir().unwrap();
    let listed = Command::new(&program).arg("-test.list=.").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let all: BTreeSet<&str> = listed.lines().filter(|line| line.starts_with("Test")).collect();
    let text = std::fs::read_to_string(script(exceptions)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let out: BTreeSet<&str> =
        lines.filter(|(who, _)| *who == "both" || *who == side).map(|(_, test)| test).collect();
    let unknown: Vec<_> = out.difference(&all).collect();
    assert!(unknown.is_empty(), "{exceptions} names tests that do not exist: {unknown:?}");
    let wanted: Vec<&str> = all.difference(&out).copied().collect();

    let mut run = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths([consul.to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap();
    run.args(["-test.v", "-test.timeout=500s", &format!("-test.parallel={parallel}")])
        .arg(format!("-test.run=^({})$", wanted.join("|")))
        .env("PATH", path)
        .env("PLINTH_BIN", command("plinth").get_program())
        .env("TMPDIR", folder.path())
        .current_dir(sources);
    let mut process = Process::spawn("go-test", run, folder.path());
    tokio::task::block_in_place(|| process.wait(Duration::from_secs(520)));
    let output = process.output();
    let passed: BTreeSet<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("--- PASS: ").or_else(|| line.strip_prefix("--- SKIP: ")))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    let failed: Vec<&&str> = wanted.iter().filter(|test| !passed.contains(*test)).collect();
    assert!(
        failed.is_empty(),
        "{side}: {} of {} did not pass: {failed:?}\n{output}",
        failed.len(),
        wanted.len()
    );
    println!("{side}: {} tests passed, {} are taken out", passed.len(), out.len());
}
