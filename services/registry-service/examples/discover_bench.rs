//! Requests per CPU second: discover of a 10-instance service against real Consul's `/v1/health/service`, same data,
//! same run, slices taken in turn.
//!
//! ```text
//! cargo build --release -p registry-service
//! cargo run --release -p registry-service --example discover_bench -- target/release/registry-service [rounds] [seconds]
//! ```
//! Needs `wrk` on PATH. The figure is requests answered / (user + system time of the server's process tree, from
//! /proc). Prints a Markdown table. A program, not a test: figures depend on the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::{eventually, free_port, holds, http_client};

const CONNECTIONS: u32 = 64;
const INSTANCES: u32 = 10;

/// One thing measured: a URL, the process that answers it, and what came out per slice.
struct Subject {
    name: &'static str,
    url: String,
    pid: u32,
    slices: Vec<Slice>,
}

struct Slice {
    requests: f64,
    seconds: f64,
    cpu_seconds: f64,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let binary = arguments.next().expect("path of the registry-service binary");
    let rounds: usize = arguments.next().map_or(6, |text| text.parse().expect("rounds"));
    let seconds: u32 = arguments.next().map_or(4, |text| text.parse().expect("seconds"));

    let consul = RealConsul::start_with(&["limits { http_max_conns_per_client = 1000 }"]).await;
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = Command::new(binary);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--consul-address", &consul.addr.to_string()]);
    let mut registry = Process::spawn("registry-service", command, folder.path());
    let base = format!("http://127.0.0.1:{port}");
    register_all(&base, &mut registry).await;

    let consul_pid = consul.id().expect("Consul runs");
    let subject = |name, url, pid| Subject { name, url, pid, slices: Vec::new() };
    let discover = format!("{base}/api/v1/services/discover/user-service");
    let health = format!("http://{}/v1/health/service/user-service", consul.addr);
    let mut subjects = [
        subject("Consul /v1/health/service", health.clone(), consul_pid),
        subject("registry discover", discover.clone(), registry.id()),
        subject("Consul /v1/health/service?passing", format!("{health}?passing"), consul_pid),
        subject(
            "registry discover?healthy_only=true",
            format!("{discover}?healthy_only=true"),
            registry.id(),
        ),
    ];
    for subject in &mut subjects {
        let answer = http_client::get(&subject.url).await.unwrap();
        assert_eq!(answer.status(), 200, "{}", subject.name);
        println!("{}: {} bytes", subject.name, answer.body().len());
        measure(subject, 1);
    }
    for _ in 0..rounds {
        subjects.iter_mut().for_each(|subject| measure(subject, seconds));
    }
    for subject in &mut subjects {
        // The warm-up.
        subject.slices.remove(0);
    }
    report(&subjects, rounds, seconds);
}

async fn register_all(base: &str, registry: &mut Process) {
    for n in 1..=INSTANCES {
        let body = serde_json::json!({
            "service_name": "user-service", "service_id": format!("user-service-{n}"), "address": format!("10.0.0.{n}"),
            "port": 8001, "health_check": "/health", "tags": ["v1", "eu"],
            "metadata": {"version": "1.4.2", "zone": format!("eu-{}", n % 3)},
            "check": {"type": "http", "initial_status": "healthy"},
        });
        eventually("the registry takes registrations", Duration::from_secs(10), || {
            registry.assert_running();
            let (url, body) = (format!("{base}/api/v1/services/register"), Bytes::from(body.to_string()));
            async move {
                let headers = [("content-type", "application/json")];
                let answer = http_client::send(Method::POST, &url, &headers, body).await;
                let answer = answer.map_err(|error| error.to_string())?;
                holds(answer.status() == 201, format!("{} {:?}", answer.status(), answer.body()))
            }
        })
        .await;
    }
}

fn measure(subject: &mut Subject, seconds: u32) {
    let before = cpu_ticks(subject.pid);
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), &subject.url])
        .output()
        .expect("wrk on PATH");
    let ticks = cpu_ticks(subject.pid) - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "not all answered well:\n{text}");
    let line = text.lines().find(|line| line.contains(" requests in ")).expect("wrk's summary");
    let mut words = line.split_whitespace();
    let requests: f64 = words.next().unwrap().parse().unwrap();
    let took: f64 = words.nth(2).unwrap().trim_end_matches(['s', ',']).parse().unwrap();
    let cpu_seconds = ticks as f64 / ticks_per_second();
    subject.slices.push(Slice { requests, seconds: took, cpu_seconds });
}

/// User and system time of the process and all its descendants, in clock ticks.
fn cpu_ticks(root: u32) -> u64 {
    let mut parents = Vec::new();
    let mut own = std::collections::HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The command's name may hold blanks; fields are counted behind its closing parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        parents.push((pid, fields[1].parse::<u32>().unwrap()));
        own.insert(pid, fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap());
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    tree.iter().filter_map(|pid| own.get(pid)).sum()
}

fn ticks_per_second() -> f64 {
    let output = Command::new("getconf").arg("CLK_TCK").output().expect("getconf");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("ticks per second")
}

fn report(subjects: &[Subject], rounds: usize, seconds: u32) {
    println!("\n{rounds} rounds of {seconds} s each, {CONNECTIONS} connections, {INSTANCES} instances\n");
    println!(
        "| | requests/s | CPU us/request | requests per CPU second | ratio to Consul (median of rounds) |"
    );
    println!("|---|---|---|---|---|");
    for pair in subjects.chunks(2) {
        let ratios =
            pair[0].slices.iter().zip(&pair[1].slices).map(|(base, own)| per_cpu(own) / per_cpu(base));
        let ratio = median(ratios.collect());
        for (subject, ratio) in pair.iter().zip([1.0, ratio]) {
            let rate = median(subject.slices.iter().map(|slice| slice.requests / slice.seconds).collect());
            let per_cpu = median(subject.slices.iter().map(per_cpu).collect());
            println!("| {} | {rate:.0} | {:.1} | {per_cpu:.0} | {ratio:.2} |", subject.name, 1e6 / per_cpu);
        }
    }
}

fn per_cpu(slice: &Slice) -> f64 {
    slice.requests / slice.cpu_seconds
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
