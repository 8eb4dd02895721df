//! The embedded agent against real Consul on the same requests: CPU time per request and requests per second, both
//! servers with a data folder, 64 connections, in turns.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::process::Failed;

use super::http::Client;
use super::servers::{self, Server};
use super::{cpu, median, wrk};

pub mod scale;
pub mod watch;
pub mod watchers;

const TURNS: usize = 6;
const SLICE_SECONDS: u32 = 2;
/// For answers of 1,000 instances, of which Consul gives some tens in a second.
const SLOW_TURNS: usize = 2;
const SLOW_SECONDS: u32 = 12;
const CONNECTIONS: u32 = 64;
/// Keys of the KV cases and ids of the registration case.
const KEYS: usize = 1000;
const IDS: usize = 200;

/// A kind of request, and how many times Consul's requests per CPU second it is meant to reach.
struct Case {
    name: &'static str,
    path: &'static str,
    script: Option<PathBuf>,
    bar: f64,
    /// Of one turn: long enough for the slower side to answer all connections more than once.
    seconds: u32,
    turns: usize,
}

pub fn run(folder: &Path) -> Result<(), Failed> {
    let cases = cases(folder)?;
    println!(
        "{CONNECTIONS} connections, {TURNS} turns of {SLICE_SECONDS} s each, compact JSON, data folder on disk"
    );
    // On one core each like the proxies, then free to use both beside the load.
    for (core, what) in [(Some(0), "server on one core"), (None, "server on all cores, shared with the load")]
    {
        let sides = [
            servers::agent(folder, &folder.join(format!("agent-{}", core.is_some())), 18_800, core)?,
            servers::consul(folder, if core.is_some() { 18_810 } else { 18_820 }, core)?,
        ];
        for side in &sides {
            fill(side)?;
        }
        println!("\n{what}\n");
        println!(
            "| | agent, us CPU/request | Consul | requests per CPU second, times Consul's | bar | agent, requests/s | Consul | times | agent, p99 ms | Consul |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for case in &cases {
            compare(case, &sides)?;
        }
    }
    Ok(())
}

fn cases(folder: &Path) -> Result<Vec<Case>, Failed> {
    let put = script(
        folder,
        "put.lua",
        &format!(
            "local n = 0\nlocal pad = string.rep('x', 100)\nrequest = function()\n n = n + 1\n return wrk.format('PUT', '/v1/kv/bench/' .. (n % {KEYS}), nil, n .. pad)\nend\n"
        ),
    )?;
    let register = script(
        folder,
        "register.lua",
        &format!(
            "local n = 0\nrequest = function()\n n = n + 1\n local id = n % {IDS}\n return wrk.format('PUT', '/v1/agent/service/register', nil, '{{\"ID\":\"reg-' .. id .. '\",\"Name\":\"reg-' .. (id % 20) .. '\",\"Address\":\"10.1.0.1\",\"Port\":' .. (n % 60000 + 1) .. ',\"Tags\":[\"a\",\"b\"],\"Meta\":{{\"version\":\"1.2.3\"}},\"Check\":{{\"TTL\":\"1h\",\"Status\":\"passing\"}}}}')\nend\n"
        ),
    )?;
    let case =
        |name, path, script, bar| Case { name, path, script, bar, seconds: SLICE_SECONDS, turns: TURNS };
    let read = |name, path, bar| case(name, path, None, bar);
    let write = |name, script, bar| case(name, "/", Some(script), bar);
    Ok(vec![
        read("KV get, 100 bytes", "/v1/kv/bench/key", 6.0),
        read("health/service, 10 instances", "/v1/health/service/ten?passing", 20.0),
        Case {
            seconds: SLOW_SECONDS,
            turns: SLOW_TURNS,
            ..read("health/service, 1,000 instances", "/v1/health/service/thousand?passing", 100.0)
        },
        write("durable KV put, 100 bytes", put, 3.0),
        write("durable agent/service/register", register, 20.0),
    ])
}

fn script(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Failed> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn fill(server: &Server) -> Result<(), Failed> {
    let mut client = Client::connect(server.address)?;
    client.send("PUT", "/v1/kv/bench/key", &"v".repeat(100))?;
    for (service, instances) in [("ten", 10), ("thousand", 1000)] {
        for number in 0..instances {
            client.send("PUT", "/v1/catalog/register", &instance(service, number, "passing"))?;
        }
    }
    Ok(())
}

/// A node with one instance and its check, as the registry has them.
pub fn instance(service: &str, number: usize, status: &str) -> String {
    let mut text = String::new();
    let (third, fourth) = (number / 250, number % 250 + 1);
    let _into_string = write!(
        text,
        r#"{{"Node":"n-{service}-{number}","Address":"10.0.{third}.{fourth}","NodeMeta":{{"plinth":"true"}},"Service":{{"ID":"{service}-{number}","Service":"{service}","Address":"10.0.{third}.{fourth}","Port":8000,"Tags":["a","b"],"Meta":{{"version":"1.2.3","zone":"z1"}}}},"Check":{{"CheckID":"service:{service}-{number}","Name":"http","Status":"{status}","ServiceID":"{service}-{number}","Output":"HTTP GET http://10.0.{third}.{fourth}:8000/health: 200 OK"}}}}"#
    );
    text
}

fn compare(case: &Case, sides: &[Server; 2]) -> Result<(), Failed> {
    let mut costs = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    let mut slowest = [Vec::new(), Vec::new()];
    for turn in 0..=case.turns {
        for (side, server) in sides.iter().enumerate() {
            let url = server.url(case.path);
            let before = cpu::seconds(server.id());
            let load = wrk::patient(&url, CONNECTIONS, case.seconds, case.script.as_deref())?;
            if load.requests < 1.0 {
                return Err(Failed(format!(
                    "{} answered nothing to {url} in {} s",
                    server.name, case.seconds
                )));
            }
            // The first turn warms up.
            if turn > 0 {
                costs[side].push((cpu::seconds(server.id()) - before) / load.requests * 1e6);
                rates[side].push(load.requests / f64::from(case.seconds));
                slowest[side].push(load.p99_ms);
            }
        }
    }
    let of_turns = |own: &[f64], other: &[f64]| {
        let ratios: Vec<f64> = own.iter().zip(other).map(|(own, other)| other / own).collect();
        median(&ratios)
    };
    println!(
        "| {} | {:.1} | {:.1} | {:.1} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} |",
        case.name,
        median(&costs[0]),
        median(&costs[1]),
        of_turns(&costs[0], &costs[1]),
        case.bar,
        median(&rates[0]),
        median(&rates[1]),
        of_turns(&rates[1], &rates[0]),
        median(&slowest[0]),
        median(&slowest[1]),
    );
    Ok(())
}
