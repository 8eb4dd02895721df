//! `cargo xtask bench`: programs with a result table, never timed assertions. Everything on loopback, bounded in time,
//! ended by id.

mod cpu;
mod discovery;
mod gateway;
mod http;
mod kongfile;
mod running;
mod start;
pub mod upstream;
mod wrk;

use std::path::PathBuf;
use std::process::Command;

use crate::process::{Failed, built, cargo, step};
use crate::provision;

/// Names of the benchmarks, in the order of a whole run.
const ALL: [&str; 4] = ["start", "discovery", "gateway", "gateway-plugins"];

pub fn run(names: &[String]) -> Result<(), Failed> {
    if let Some(unknown) = names.iter().find(|name| !ALL.contains(&name.as_str())) {
        return Err(Failed(format!("no benchmark {unknown}; there are {}", ALL.join(", "))));
    }
    provision::for_benchmarks()?;
    let programs = [
        "-p",
        "plinth",
        "-p",
        "gateway",
        "-p",
        "registry-service",
        "-p",
        "health-aggregator",
        "-p",
        "config-service",
    ];
    let arguments: Vec<&str> = ["build", "--profile", "dist"].into_iter().chain(programs).collect();
    step("build with full link-time optimisation", cargo(&arguments))?;
    let folder = std::env::temp_dir().join(format!("plinth-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
    println!("\nmachine: {}", machine());
    let outcome = ALL
        .iter()
        .filter(|name| names.is_empty() || names.iter().any(|wanted| wanted == *name))
        .try_for_each(|name| {
            println!("\n## {name}\n");
            match *name {
                "start" => start::run(&folder),
                "discovery" => discovery::run(&folder),
                "gateway" => gateway::plain(&folder),
                _ => gateway::plugins(&folder),
            }
        });
    std::fs::remove_dir_all(&folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
    outcome
}

/// The program as built for images and benchmarks.
fn program(name: &str) -> PathBuf {
    built("dist", name)
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
