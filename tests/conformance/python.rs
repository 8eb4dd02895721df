//! py-consul with its own tests, and the two older clients that many programs still use.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plinth_testbed::PortLease;
use plinth_testbed::process::Process;

use crate::program::command;
use crate::side::{Side, consul_binary, on_both, script, tool};

on_both!(python_consul, python_consul2);

async fn python_consul(side: &Side) {
    older(side, "clients/python-consul").await;
}

async fn python_consul2(side: &Side) {
    older(side, "clients/python-consul2").await;
}

fn python() -> Command {
    Command::new(tool("clients/python/bin/python", "a Python environment"))
}

async fn older(side: &Side, package: &str) {
    let mut run = python();
    run.arg(script("python/older_clients.py")).env("PYTHONPATH", tool(package, package));
    let ran = side.run("python", run, Duration::from_secs(60));
    assert!(ran.status.success(), "{}: {}\n{}", side.name, ran.status, ran.output);
    assert_eq!(ran.output.matches(" ok\n").count(), 7, "{}: {}", side.name, ran.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn py_consul_own_tests_on_agent() {
    let port = PortLease::take();
    let mut agent = vec![command("plinth").get_program().to_string_lossy().into_owned()];
    agent.extend(["agent", "--in-memory", "--connect", "--http-port"].map(str::to_owned));
    agent.push(port.port().to_string());
    own_tests("agent", port.port(), &agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: cargo xtask conformance"]
async fn py_consul_own_tests_on_consul() {
    let ports: [PortLease; 4] = std::array::from_fn(|_| PortLease::take());
    let [http, server, lan, wan] = ports.each_ref().map(PortLease::port);
    let consul = [
        &consul_binary().display().to_string(),
        "agent",
        "-dev",
        "-bind=127.0.0.1",
        "-enable-script-checks",
        "-hcl=performance { raft_multiplier = 1 }",
        &format!(
            "-hcl=ports {{ http = {http}, server = {server}, serf_lan = {lan}, serf_wan = {wan}, dns = -1, grpc = -1 }}"
        ),
    ];
    own_tests("consul", http, &consul.map(str::to_owned));
}

/// Runs the package's own test-suite with our `conftest.py`, which starts `server` for each test. What does not pass has to
/// be what `python/exceptions.txt` says of this side, no more and no less.
fn own_tests(side: &str, port: u16, server: &[String]) {
    let folder = tempfile::tempdir().unwrap();
    let source = tool("clients/py-consul-1.8.0", "py-consul's source package");
    for part in ["consul", "tests"] {
        copy(&source.join(part), &folder.path().join(part));
    }
    std::fs::copy(script("python/conftest.py"), folder.path().join("conftest.py")).unwrap();
    // Two tests let Consul check its own port, which is 8500 in their containers. The rest are waits for Consul that a busy
    // machine does not keep; what is asserted after them stays as it is.
    let own_port = format!(":{port}");
    for (file, texts) in [
        (
            "api/test_agent.py",
            &[(":8500", own_port.as_str()), ("sleep(1.5)", "sleep(4)"), ("sleep(3.5)", "sleep(6)")][..],
        ),
        (
            "api/test_health.py",
            &[("ttl(\"1s\")", "ttl(\"4s\")"), ("sleep(3)", "sleep(6)"), ("ttl(\"10s\")", "ttl(\"30s\")")],
        ),
        (
            "test_aio.py",
            &[
                ("sleep(1.0 / 100)", "sleep(1)"),
                ("sleep(2.0 / 100)", "sleep(1)"),
                ("sleep(50 / 1000.0)", "sleep(2)"),
                ("sleep(20 / 1000.0)", "sleep(1)"),
            ],
        ),
    ] {
        let path = folder.path().join("tests").join(file);
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in texts {
            assert!(text.contains(from), "{file} has no {from} any more");
            text = text.replace(from, to);
        }
        std::fs::write(&path, text).unwrap();
    }

    let mut run = python();
    run.args([
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        "--rootdir=.",
        "-o",
        "asyncio_mode=auto",
        "-p",
        "no:cacheprovider",
    ])
    .args(["-rA", "--tb=short", "tests"])
    .current_dir(folder.path())
    .env("SERVER_PORT", port.to_string())
    .env("SERVER_LOG", folder.path().join("server.log"))
    .env("SERVER_COMMAND", serde_json::to_string(server).unwrap());
    let mut process = Process::spawn("pytest", run, folder.path());
    tokio::task::block_in_place(|| process.wait(Duration::from_secs(300)));
    let output = process.output();
    let of = |words: &[&str]| -> Vec<String> {
        let lines = output.lines().filter_map(|line| line.split_once(' '));
        let lines = lines.filter(|(word, rest)| words.contains(word) && rest.starts_with("tests/"));
        lines.map(|(_, rest)| rest.split(" - ").next().unwrap().trim().to_owned()).collect()
    };
    assert!(of(&["PASSED"]).len() >= 120, "{side}: {output}");
    let failed: BTreeSet<String> = of(&["FAILED", "ERROR"]).into_iter().collect();
    let expected: BTreeSet<String> = exceptions(side).into_iter().collect();
    assert_eq!(failed, expected, "{side}: left: what failed, right: what may; {output}");
}

/// Lines `both|agent|consul <test>`, each below comments with the reason.
fn exceptions(side: &str) -> Vec<String> {
    let text = std::fs::read_to_string(script("python/exceptions.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    lines.filter(|(who, _)| *who == "both" || *who == side).map(|(_, test)| test.trim().to_owned()).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
