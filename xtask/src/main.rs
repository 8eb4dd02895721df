//! The one tool behind README, GitLab CI and `.ci/run`.

mod bench;
mod deploy;
mod house;
mod openapi;
mod process;
mod provision;

use std::process::ExitCode;

use process::{Failed, cargo, step};

const USAGE: &str = "\
usage: cargo xtask <task>

  test      installs what the tests need (where it can), builds the programs, runs every test;
            further words go to `cargo test`, e.g. `cargo xtask test -p plinth-core`
  ci        format, lints, house rules, documentation, `test`, OpenAPI drift
  deploy    the tests of tests/deploy/live: images, compose, pods and alerts on real servers in containers; wants root.
            A job of its own in GitLab
  nightly   what takes too long for each change: the agent's tests with 10,000 seeds of the simulated disk (from a
            number that changes every day), 200 kills, long histories, the fuzz targets' long runs; then `conformance`
  openapi   writes openapi/<service>.json from the services; --check only compares
  bench     measures on this machine and prints tables: start, discovery, gateway, gateway-plugins,
            gateway-routes, agent, agent-watchers, agent-scale (all by default); PLINTH_BENCH_PROFILE=release spares the link-time optimisation
  house     who may depend on what, versions in one place
  conformance  the long tests of tests/conformance: the Go client's own tests, py-consul's on a real Consul, rs-consul,
            Patroni, removal of critical services; installs what they need
  provision only installs what the tests need; --all also what `conformance` needs";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let task = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let outcome = match (task.as_str(), rest.as_slice()) {
        ("test", filters) => test(filters),
        ("ci", []) => ci(),
        ("nightly", []) => nightly(),
        ("deploy", filters) => provision::for_tests().and_then(|tools| deploy::live(&tools, filters)),
        ("openapi", []) => openapi::write(),
        ("openapi", [check]) if check == "--check" => openapi::check(),
        ("house", []) => house::check(),
        ("bench", names) => bench::run(names),
        // Internal: the load target of the gateway benchmark.
        ("bench-upstream", [address]) => match address.parse() {
            Ok(address) => bench::upstream::serve(address),
            Err(_) => Err(Failed(format!("{address}: expected an address and port"))),
        },
        ("conformance", filters) => conformance(filters),
        ("provision", []) => provision::for_tests().map(drop),
        ("provision", [all]) if all == "--all" => {
            provision::for_tests().and_then(|_| provision::for_conformance())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(reason)) => {
            eprintln!("xtask {task}: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The README's test command. Programs first: the system tests start them from the target folder.
fn test(filters: &[String]) -> Result<(), Failed> {
    let tools = provision::for_tests()?;
    process::programs()?;
    let mut tests = cargo(&["test", "--no-fail-fast"]);
    if filters.is_empty() {
        tests.arg("--workspace");
    }
    tests.args(filters).env("PLINTH_TEST_CONSUL_BIN", &tools.consul);
    step("run the tests", tests)?;
    // a filter asks for Rust tests
    if filters.is_empty() { deploy::quick(&tools) } else { Ok(()) }
}

/// Real Consul clients that take longer than a test run should.
fn conformance(filters: &[String]) -> Result<(), Failed> {
    let tools = provision::for_tests()?;
    provision::for_conformance()?;
    process::programs()?;
    // of the whole workspace, as the programs were built: with other features every dependency would be compiled again
    let mut tests = cargo(&["test", "--workspace", "--test", "conformance", "--", "--ignored"]);
    // One at a time: each keeps both cores busy, and the Go tests give a server two seconds to start.
    tests.arg("--test-threads=1").args(filters).env("PLINTH_TEST_CONSUL_BIN", tools.consul);
    step("long conformance tests", tests)
}

/// Counts of the nightly run, by the environment variables that scale the tests.
const NIGHTLY: [(&str, &str); 4] = [
    ("PLINTH_SIMULATION_SEEDS", "10000"),
    ("PLINTH_KILL_ROUNDS", "200"),
    ("PLINTH_LINEAR_ROUNDS", "40"),
    ("PLINTH_FUZZ_SECONDS", "120"),
];

fn nightly() -> Result<(), Failed> {
    let tools = provision::for_tests()?;
    process::programs()?;
    let day = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 86_400);
    let long = |arguments: &[&str]| {
        let mut tests = cargo(arguments);
        tests.envs(NIGHTLY).env("PLINTH_TEST_CONSUL_BIN", &tools.consul);
        // other seeds than yesterday's, and the same all day, so that what is found can be seen again
        tests.env("PLINTH_SIMULATION_FIRST", (day * 10_000).to_string());
        tests
    };
    // of the whole workspace and as the programs were built: another profile, or a choice of packages, would compile every
    // dependency again, which takes longer than an optimised simulation spares
    step("the agent's storage", long(&["test", "--workspace", "--lib", "--", "simulation::"]))?;
    step("random inputs: the agent's", long(&["test", "--workspace", "--lib", "--", "fuzzing::"]))?;
    step("random inputs: Kong's files", long(&["test", "--workspace", "--test", "fuzz"]))?;
    step("the agent under kills", long(&["test", "--workspace", "--test", "durability"]))?;
    conformance(&[])
}

fn ci() -> Result<(), Failed> {
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    house::check()?;
    step("lints", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", docs)?;
    test(&[])?;
    openapi::check()
}
