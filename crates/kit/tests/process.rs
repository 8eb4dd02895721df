//! The thin main as a process: exit codes, what it prints, signals, and its place in a real Consul.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use plinth_testbed::consul::RealConsul;
use plinth_testbed::http_client::get as fetch;
use plinth_testbed::{eventually, holds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

/// The example, built when it is missing or stale: `cargo test --test process` alone does not do it.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "plinth-kit", "--example", "minimal"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        let test = std::env::current_exe().unwrap();
        test.parent().unwrap().parent().unwrap().join("examples/minimal")
    })
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Ended {
    let output = command(args).envs(env.iter().copied()).output().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running service; killed when dropped.
struct Running {
    child: Child,
    base: String,
    line: String,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let mut child = command(args).args(["--listen", "127.0.0.1:0"]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let base = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        Running { child, base, line }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> (Option<i32>, String) {
        let mut err = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone when the test has waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn explains_itself() {
    let help = run(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    for part in [
        "--greeting",
        "what to answer",
        "PLINTH_MINIMAL__CONSUL__ADDRESS",
        "CONSUL_HTTP_TOKEN",
        "default 127.0.0.1:8599",
    ] {
        assert!(help.out.contains(part), "{part} is missing in:\n{}", help.out);
    }
    let version = run(&["--version"], &[]);
    assert_eq!(
        (version.code, version.out.as_str()),
        (Some(0), concat!("minimal-service ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    let document = run(&["--openapi", "--nonsense"], &[]);
    let document: Value = serde_json::from_str(&document.out).unwrap();
    assert_eq!(document["info"]["title"], "minimal-service");
}

#[test]
fn bad_settings_exit_64_with_every_fault() {
    let ended = run(
        &["--listen", "0.0.0.0:0", "--greting", "x"],
        &[("PLINTH_MINIMAL__LOG__LEVL", "info"), ("PLINTH_MINIMAL__SERVER__MAX_BODY", "huge")],
    );
    assert_eq!(ended.code, Some(64), "{}", ended.err);
    for part in [
        "advertise: listens on every address",
        "auth.key_file: a service on 0.0.0.0:0 needs a key",
        "--greting: is no setting; did you mean --greeting?",
        "PLINTH_MINIMAL__LOG__LEVL: is no setting; did you mean PLINTH_MINIMAL__LOG__LEVEL?",
        "PLINTH_MINIMAL__SERVER__MAX_BODY: expected a size",
    ] {
        assert!(ended.err.contains(part), "{part} is missing in:\n{}", ended.err);
    }
    assert!(ended.out.is_empty(), "nothing has been started");

    let late = run(&["--refuse", "--listen", "127.0.0.1:0"], &[]);
    assert_eq!(late.code, Some(64), "faults found at the start count as well: {}", late.err);
    assert!(late.err.contains("refuse: is set"), "{}", late.err);
}

#[test]
fn a_taken_address_exits_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(&["--listen", &address], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains(&format!("cannot listen on {address}")), "{}", ended.err);
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut running =
        Running::start(&["--register=false", "--shutdown-drain-delay", "60s", "--shutdown-timeout", "90s"]);
    assert!(
        running.line.starts_with("minimal-service: http listening on http://127.0.0.1:"),
        "{}",
        running.line
    );
    assert_eq!(fetch(&format!("{}/hello", running.base)).await.unwrap().status(), 200);
    running.signal(Signal::TERM);
    eventually("it drains", LIMIT, || async {
        let status = fetch(&format!("{}/health/ready", running.base))
            .await
            .map_err(|error| error.to_string())?
            .status();
        holds(status == 503, status.to_string())
    })
    .await;
    let begin = Instant::now();
    running.signal(Signal::INT);
    let (code, err) = running.wait();
    assert_eq!(code, Some(0), "{err}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{err}");
    assert!(err.contains("stopping at once"), "{err}");
}

#[test]
fn a_start_that_hangs_can_be_stopped() {
    let mut child = command(&["--hang", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    // The warning about missing keys is logged after the signal handlers are in place.
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("no key verifies tokens"), "{line}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn logs_in_the_elastic_common_schema() {
    let mut running =
        Running::start(&["--register=false", "--log-format", "json", "--shutdown-drain-delay", "0"]);
    running.signal(Signal::TERM);
    let (code, err) = running.wait();
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = lines.iter().find(|line| line["message"] == "started").unwrap_or_else(|| panic!("{err}"));
    assert_eq!(started["service.name"], "minimal-service");
    assert_eq!(started["log.level"], "info");
    assert!(started["@timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert!(started["ecs.version"].is_string());
}

#[tokio::test]
async fn is_in_the_catalog_while_it_runs() {
    let consul = RealConsul::start().await;
    let url = format!("http://{}/v1/health/service/minimal-service?passing", consul.addr);
    let entries = || async {
        let answer = fetch(&url).await.map_err(|error| error.to_string())?;
        serde_json::from_slice::<Vec<Value>>(answer.body()).map_err(|error| error.to_string())
    };
    let address = consul.addr.to_string();
    binary();
    let begin = Instant::now();
    let mut running = Running::start(&["--consul-address", &address, "--shutdown-drain-delay", "0"]);
    let found = eventually("registered", LIMIT, || async {
        let mut entries = entries().await?;
        entries.pop().ok_or_else(|| "not in the catalog".to_owned())
    })
    .await;
    println!("ready and in the catalog after {:?}", begin.elapsed());
    let port: u16 = running.base.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(found["Service"]["Port"], port);
    assert_eq!(found["Service"]["ID"], format!("minimal-service-127.0.0.1-{port}"));
    eventually("/health shows it", LIMIT, || async {
        let health = fetch(&format!("{}/health", running.base)).await.unwrap();
        let health: Value = serde_json::from_slice(health.body()).unwrap();
        holds(
            health["checks"]["registration"]["status"] == "pass" && health["status"] == "healthy",
            health.to_string(),
        )
    })
    .await;
    running.signal(Signal::TERM);
    let (code, err) = running.wait();
    assert_eq!(code, Some(0), "{err}");
    assert!(entries().await.unwrap().is_empty(), "gone from the catalog before the process ended");
}
