//! Discovery over HTTP: registry-service against the real Consul that it reads from, CPU time per request.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::process::Failed;

use super::running::Running;
use super::{cpu, http, median, pinned, program, servers, wrk};

const TURNS: usize = 6;
const SLICE_SECONDS: u32 = 2;
const CONNECTIONS: u32 = 64;
const INSTANCES: u16 = 10;

pub fn run(folder: &Path) -> Result<(), Failed> {
    let registry = SocketAddr::from((Ipv4Addr::LOCALHOST, 18_510));
    let consul = servers::consul(folder, 18_500, Some(0))?;
    let mut command = pinned(0, program("registry-service"));
    command
        .args(["--listen", &registry.to_string(), "--log-level", "error"])
        .env("CONSUL_HTTP_ADDR", consul.address.to_string());
    let mut registry_process = Running::start("registry", command, folder)?;
    registry_process.until("registry-service is ready", || {
        http::ask(registry, "GET", "/health/ready", &[], "").is_some_and(|answer| answer.status == 200)
    })?;
    for number in 1..=INSTANCES {
        let body = format!(
            r#"{{"service_name":"bench","service_id":"bench-{number}","address":"10.0.0.{number}","port":8000,"tags":["a","b"],"metadata":{{"version":"1.2.3","zone":"z1"}}}}"#
        );
        let headers = ["content-type: application/json".to_owned()];
        let answer = http::ask(registry, "POST", "/api/v1/services/register", &headers, &body);
        if answer.as_ref().map(|answer| answer.status) != Some(201) {
            return Err(Failed(format!("register: {:?}", answer.map(|answer| answer.body))));
        }
    }
    let sides = [
        (
            "registry-service",
            format!("http://{registry}/api/v1/services/discover/bench?healthy_only=true"),
            registry_process.id(),
        ),
        (consul.name, consul.url("/v1/health/service/bench?passing"), consul.id()),
    ];
    let mut costs = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0..=TURNS {
        for (side, (_, url, pid)) in sides.iter().enumerate() {
            let before = cpu::seconds(*pid);
            let load = wrk::run(url, CONNECTIONS, SLICE_SECONDS, &[])?;
            if turn > 0 {
                costs[side].push((cpu::seconds(*pid) - before) / load.requests * 1e6);
                rates[side].push(load.requests / f64::from(SLICE_SECONDS));
            }
        }
    }
    println!(
        "{INSTANCES} instances, {CONNECTIONS} connections, {TURNS} turns of {SLICE_SECONDS} s, one core for both\n"
    );
    println!("| | CPU us/request, median | requests/s |\n|---|---|---|");
    for (side, (name, ..)) in sides.iter().enumerate() {
        println!("| {name} | {:.1} | {:.0} |", median(&costs[side]), median(&rates[side]));
    }
    let ratios: Vec<f64> = costs[1].iter().zip(&costs[0]).map(|(consul, own)| consul / own).collect();
    println!(
        "\nrequests per CPU second, registry-service / Consul: {:.1} (bar: at least 5)",
        median(&ratios)
    );
    Ok(())
}
