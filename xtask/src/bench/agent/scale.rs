//! The agent at 100,000 instances of 2,000 services: start from disk, memory, and latency beside an agent that has 1,000.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::process::Failed;

use super::super::http::Client;
use super::super::servers::{self, Server};
use super::super::{cpu, median, wrk};
use super::{CONNECTIONS, script};

const PER_SERVICE: usize = 50;
const KEYS: usize = 1000;
/// Instances of one transaction: three operations each, 64 at most.
const BATCH: usize = 21;
const LOADERS: usize = 4;
const TURNS: usize = 8;
const REQUESTS: usize = 2000;
const WRITES: usize = 300;
const STARTS: usize = 5;

pub fn run(folder: &Path) -> Result<(), Failed> {
    let (large, small) = (folder.join("agent-large"), folder.join("agent-small"));
    let server = servers::agent(folder, &large, 18_800, None)?;
    let since = Instant::now();
    fill(&server, 2000)?;
    println!(
        "loaded 100,000 instances of 2,000 services through /v1/txn in {:.1} s",
        since.elapsed().as_secs_f64()
    );
    println!("resident after loading: {:.0} MiB", cpu::resident_mib(server.id()));
    drop(server);
    println!("data folder: {:.0} MiB", size(&large)?);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let since = Instant::now();
        let server = servers::agent(folder, &large, 18_800, Some(0))?;
        times.push(since.elapsed().as_secs_f64());
        drop(server);
    }
    println!(
        "start from disk until it answers, on one core: {:.2} s, longest {:.2} s (median of {STARTS}; bar: 3 s)",
        median(&times),
        times.iter().copied().fold(0.0, f64::max)
    );
    let first = servers::agent(folder, &small, 18_810, Some(0))?;
    fill(&first, 20)?;
    drop(first);
    let sides = [
        (servers::agent(folder, &large, 18_800, Some(0))?, 2000),
        (servers::agent(folder, &small, 18_810, Some(0))?, 20),
    ];
    for (side, services) in &sides {
        println!("resident after the start, {services} services: {:.0} MiB", cpu::resident_mib(side.id()));
    }
    latencies(&sides)?;
    costs(folder, &sides)?;
    for (side, services) in &sides {
        println!("resident at the end, {services} services: {:.0} MiB", cpu::resident_mib(side.id()));
    }
    Ok(())
}

/// `services` services of 50 instances on a node each, and some keys.
fn fill(server: &Server, services: usize) -> Result<(), Failed> {
    let instances = services * PER_SERVICE;
    let load = |from: usize| -> Result<(), Failed> {
        let mut client = Client::connect(server.address)?;
        for batch in (from * BATCH..instances).step_by(BATCH * LOADERS) {
            let operations: Vec<Value> =
                (batch..instances.min(batch + BATCH)).flat_map(|n| operations(n, services)).collect();
            client.send("PUT", "/v1/txn", &Value::from(operations).to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS).map(|from| scope.spawn(move || load(from))).collect();
        loaders
            .into_iter()
            .try_for_each(|loader| loader.join().unwrap_or_else(|_| Err(Failed("a loader panicked".into()))))
    })?;
    let mut client = Client::connect(server.address)?;
    (0..KEYS)
        .try_for_each(|key| client.send("PUT", &format!("/v1/kv/scale/{key}"), &"v".repeat(100)).map(drop))
}

fn operations(number: usize, services: usize) -> [Value; 3] {
    let (service, node) = (format!("svc-{}", number % services), format!("n-{number}"));
    let id = format!("{service}-{number}");
    let address = format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255);
    [
        json!({"Node": {"Verb": "set", "Node": {"Node": node, "Address": address, "Meta": {"plinth": "true"}}}}),
        json!({"Service": {"Verb": "set", "Node": node, "Service": {
            "ID": id, "Service": service, "Address": address, "Port": 8000, "Tags": ["a", "b"],
            "Meta": {"version": "1.2.3", "zone": "z1"},
        }}}),
        json!({"Check": {"Verb": "set", "Check": {
            "Node": node, "CheckID": format!("service:{id}"), "Name": "http", "Status": "passing", "ServiceID": id,
            "Output": format!("HTTP GET http://{address}:8000/health: 200 OK"),
        }}}),
    ]
}

fn size(folder: &Path) -> Result<f64, Failed> {
    let failed = |error: std::io::Error| Failed(format!("{}: {error}", folder.display()));
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(failed)?.len();
    }
    Ok(bytes as f64 / 1024.0 / 1024.0)
}

/// One request after the other on one connection, so that nothing queues: what a client waits.
fn latencies(sides: &[(Server, usize); 2]) -> Result<(), Failed> {
    println!("\none connection, {TURNS} turns\n");
    println!(
        "| | large, p50 us | small | times (bar: 1.3) | large, p99 us | small |\n|---|---|---|---|---|---|"
    );
    for (what, count) in
        [("health/service, any of them", REQUESTS), ("KV get", REQUESTS), ("durable KV put", WRITES)]
    {
        let mut seen = [Vec::new(), Vec::new()];
        let mut high = [Vec::new(), Vec::new()];
        for turn in 0..=TURNS {
            for (side, (server, services)) in sides.iter().enumerate() {
                let times = sequence(server, what, *services, count, turn)?;
                if turn > 0 {
                    seen[side].push(times[times.len() / 2]);
                    high[side].push(times[times.len() * 99 / 100]);
                }
            }
        }
        let ratios: Vec<f64> = seen[0].iter().zip(&seen[1]).map(|(large, small)| large / small).collect();
        println!(
            "| {what} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} |",
            median(&seen[0]),
            median(&seen[1]),
            median(&ratios),
            median(&high[0]),
            median(&high[1])
        );
    }
    Ok(())
}

/// Microseconds of each request, sorted.
fn sequence(
    server: &Server,
    what: &str,
    services: usize,
    count: usize,
    turn: usize,
) -> Result<Vec<f64>, Failed> {
    let mut client = Client::connect(server.address)?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        // A stride without a common factor visits all.
        let place = number * 1_009 + turn * 7;
        let since = Instant::now();
        match what {
            "KV get" => client.send("GET", &format!("/v1/kv/scale/{}", place % KEYS), "")?,
            "durable KV put" => {
                client.send("PUT", &format!("/v1/kv/scale/{}", place % KEYS), &format!("{turn} {number}"))?
            }
            _ => client.send("GET", &format!("/v1/health/service/svc-{}?passing", place % services), "")?,
        };
        times.push(since.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The same under load: CPU per request.
fn costs(folder: &Path, sides: &[(Server, usize); 2]) -> Result<(), Failed> {
    println!("\n{CONNECTIONS} connections\n");
    println!(
        "| | large, us CPU/request | small | times | large, p99 ms | small |\n|---|---|---|---|---|---|"
    );
    for what in ["health/service, any of them", "KV get"] {
        let mut seen = [Vec::new(), Vec::new()];
        let mut high = [Vec::new(), Vec::new()];
        for turn in 0..=3 {
            for (side, (server, services)) in sides.iter().enumerate() {
                let path = match what {
                    "KV get" => format!("/v1/kv/scale/' .. (n % {KEYS})"),
                    _ => format!("/v1/health/service/svc-' .. (n % {services}) .. '?passing'"),
                };
                let mut text = String::from("local n = 0\nrequest = function()\n n = n + 1009\n");
                let _into_string = write!(text, " return wrk.format('GET', '{path}, nil, nil)\nend\n");
                let script = script(folder, "scale.lua", &text)?;
                let before = cpu::seconds(server.id());
                let load = wrk::patient(&server.url("/"), CONNECTIONS, 2, Some(&script))?;
                if turn > 0 {
                    seen[side].push((cpu::seconds(server.id()) - before) / load.requests * 1e6);
                    high[side].push(load.p99_ms);
                }
            }
        }
        let ratios: Vec<f64> = seen[0].iter().zip(&seen[1]).map(|(large, small)| large / small).collect();
        println!(
            "| {what} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} |",
            median(&seen[0]),
            median(&seen[1]),
            median(&ratios),
            median(&high[0]),
            median(&high[1])
        );
    }
    Ok(())
}
