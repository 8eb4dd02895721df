//! Wake-ups: how long until all watchers have the change, what a delivery costs the server, and what a watcher costs
//! while it waits.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::process::Failed;

use super::super::http::Client;
use super::super::servers::{self, Server};
use super::super::{cpu, median};
use super::instance;
use super::watch::Crowd;

/// 10 instances have the answer of every query that is watched.
const INSTANCES: usize = 10;
const ROUNDS: usize = 10;
const MANY: usize = 5000;
const FEW: usize = 200;
const WAITING: usize = 20_000;
/// Server CPU of a delivery, microseconds, and of it how often the last of all may have to wait for it.
const BAR_US: f64 = 15.0;
const BAR_TIMES: f64 = 3.0;

pub fn run(folder: &Path) -> Result<(), Failed> {
    let descriptors = raise_descriptors();
    let agent = servers::agent(folder, &folder.join("agent-watchers"), 18_800, None)?;
    let consul = servers::consul(folder, 18_810, None)?;
    for server in [&agent, &consul] {
        let mut client = Client::connect(server.address)?;
        client.send("PUT", "/v1/kv/watched", "0")?;
        for number in 0..INSTANCES {
            client.send("PUT", "/v1/catalog/register", &instance("watched", number, "passing"))?;
        }
    }
    println!("{INSTANCES} instances, {ROUNDS} changes; CPU of a delivery includes the next question\n");
    println!("| | watchers | of | first ms | p50 | p99 | last | us CPU/delivery |");
    println!("|---|---|---|---|---|---|---|---|");
    for (what, path) in
        [("a key", "/v1/kv/watched"), ("health/service", "/v1/health/service/watched?passing")]
    {
        for server in [&agent, &consul] {
            measure(server, what, path, FEW, ROUNDS)?;
        }
    }
    let (last, cost) = measure(&agent, "health/service", "/v1/health/service/watched?passing", MANY, ROUNDS)?;
    measure(&consul, "health/service", "/v1/health/service/watched?passing", MANY, 2)?;
    let limit = BAR_TIMES * MANY as f64 * BAR_US / 1e3;
    println!(
        "\nagent, {MANY} watchers: {cost:.1} us CPU per delivery (bar: {BAR_US}), last after {last:.0} ms (bar: {limit:.0})\n"
    );
    drop((agent, consul));
    // Each server keeps some for itself.
    let waiting = WAITING.min(descriptors.saturating_sub(200));
    let agent = servers::agent(folder, &folder.join("agent-watchers"), 18_800, None)?;
    println!("{} KiB per waiting watcher, agent, {waiting} waiting", memory(&agent, waiting)?);
    drop(agent);
    let consul = servers::consul(folder, 18_820, None)?;
    println!("{} KiB per waiting watcher, Consul 1.8.7, {MANY} waiting", memory(&consul, MANY)?);
    Ok(())
}

/// The most open files that this machine lets a process have; servers that are started inherit it.
pub fn raise_descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = WAITING as u64 + 1000;
    let before = limit.maximum;
    limit.maximum = before.map(|most| most.max(wanted));
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit.maximum = before;
        limit.current = before;
        let _stays_as_it_was = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize)
}

/// Median of the last answers in milliseconds, and CPU per delivery in microseconds.
fn measure(
    server: &Server,
    what: &str,
    path: &str,
    count: usize,
    rounds: usize,
) -> Result<(f64, f64), Failed> {
    let mut client = Client::connect(server.address)?;
    let mut crowd = Crowd::gather(server.address, path, count)?;
    quiet(server);
    let before = cpu::seconds(server.id());
    let mut seen = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        let since = Instant::now();
        change(&mut client, path, round)?;
        let answers = crowd.round(since)?;
        for (values, share) in seen.iter_mut().zip([0.0, 0.5, 0.99, 1.0]) {
            values.push(answers.at(share));
        }
        quiet(server);
    }
    let cost = (cpu::seconds(server.id()) - before) / (rounds * count) as f64 * 1e6;
    let [first, half, most, last] = seen.map(|values| median(&values));
    println!(
        "| {} | {count} | {what} | {first:.1} | {half:.1} | {most:.1} | {last:.1} | {cost:.1} |",
        server.name
    );
    Ok((last, cost))
}

fn change(client: &mut Client, path: &str, round: usize) -> Result<(), Failed> {
    if path.starts_with("/v1/kv/") {
        client.send("PUT", path, &format!("value of round {round}, {}", std::process::id()))?;
    } else {
        let name = if round.is_multiple_of(2) { "warning" } else { "passing" };
        client.send("PUT", "/v1/catalog/register", &instance("watched", 0, name))?;
    }
    Ok(())
}

/// Until the server has taken in all questions: it then uses no CPU for a while.
fn quiet(server: &Server) {
    let end = Instant::now() + Duration::from_secs(20);
    let mut before = f64::NAN;
    while Instant::now() < end {
        let now = cpu::seconds(server.id());
        // One tick of the clock may go to its timers.
        if now - before < 0.011 {
            return;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn memory(server: &Server, count: usize) -> Result<String, Failed> {
    let mut client = Client::connect(server.address)?;
    for number in 0..INSTANCES {
        client.send("PUT", "/v1/catalog/register", &instance("watched", number, "passing"))?;
    }
    quiet(server);
    let before = cpu::resident_mib(server.id());
    let crowd = Crowd::gather(server.address, "/v1/health/service/watched?passing", count)?;
    quiet(server);
    let after = cpu::resident_mib(server.id());
    drop(crowd);
    Ok(format!("{:.1}", (after - before) * 1024.0 / count as f64))
}
