//! `cargo xtask bench`: programs with a result table, never timed assertions. Everything on loopback, bounded in time,
//! ended by id.

mod agent;
mod cpu;
mod discovery;
mod gateway;
mod http;
mod kongfile;
mod routes;
mod running;
mod servers;
mod start;
pub mod upstream;
mod wrk;

use std::path::PathBuf;
use std::process::Command;

use crate::process::{Failed, built, cargo, step};
use crate::provision;

/// Names of the benchmarks in the order of a whole run, and the packages whose programs they measure.
const ALL: [(&str, &[&str]); 8] = [
    ("start", &["plinth", "registry-service", "health-aggregator", "config-service"]),
    ("discovery", &["registry-service"]),
    ("gateway", &["gateway"]),
    ("gateway-plugins", &["gateway"]),
    ("gateway-routes", &["gateway"]),
    ("agent", &["plinth"]),
    ("agent-watchers", &["plinth"]),
    ("agent-scale", &["plinth"]),
];

pub fn run(names: &[String]) -> Result<(), Failed> {
    if let Some(unknown) = names.iter().find(|name| !ALL.iter().any(|(known, _)| known == name)) {
        let all = ALL.map(|(name, _)| name).join(", ");
        return Err(Failed(format!("no benchmark {unknown}; there are {all}")));
    }
    let chosen: Vec<_> = ALL
        .iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name))
        .collect();
    provision::for_benchmarks()?;
    let profile = profile();
    let mut packages: Vec<&str> = chosen.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
    packages.sort_unstable();
    packages.dedup();
    let programs = packages.into_iter().flat_map(|package| ["-p", package]);
    let arguments: Vec<&str> = ["build", "--profile", &profile].into_iter().chain(programs).collect();
    step("build the programs", cargo(&arguments))?;
    let folder = std::env::temp_dir().join(format!("plinth-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
    println!("\nmachine: {}; profile {profile}", machine());
    let outcome = chosen.iter().try_for_each(|(name, _)| {
        println!("\n## {name}\n");
        match *name {
            "start" => start::run(&folder),
            "discovery" => discovery::run(&folder),
            "gateway" => gateway::plain(&folder),
            "gateway-plugins" => gateway::plugins(&folder),
            "gateway-routes" => routes::run(&folder),
            "agent" => agent::run(&folder),
            "agent-watchers" => agent::watchers::run(&folder),
            _ => agent::scale::run(&folder),
        }
    });
    std::fs::remove_dir_all(&folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
    outcome
}

/// `dist` (full link-time optimisation), or what PLINTH_BENCH_PROFILE names for a quick look.
fn profile() -> String {
    std::env::var("PLINTH_BENCH_PROFILE").unwrap_or_else(|_| "dist".to_owned())
}

/// The program as built for images and benchmarks.
fn program(name: &str) -> PathBuf {
    built(&profile(), name)
}

/// Cores, model and memory, as a reader of the figures needs them.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, model)| model);
    let memory = read("/proc/meminfo");
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next());
    let gib = kib.and_then(|kib| kib.parse::<f64>().ok()).map_or(0.0, |kib| kib / 1024.0 / 1024.0);
    format!("{cores} cores, {model}, {gib:.0} GiB")
}

/// `taskset -c <core>` in front of a program, so that the one that is measured does not share its core.
fn pinned(core: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}
