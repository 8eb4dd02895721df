//! How fast things are there: `plinth up` to its first routed request, each service's own program to ready and visible.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::process::Failed;

use super::running::Running;
use super::{cpu, http, median, program, servers};

const RUNS: usize = 5;

pub fn run(folder: &Path) -> Result<(), Failed> {
    up(folder)?;
    services(folder)
}

/// A route to a service that is found through the registry, so that the whole chain has to stand.
const KONG: &str = r#"_format_version: "3.0"
services:
  - name: registry
    url: http://registry-service.service.consul:8510
    routes: [{ name: registry, paths: [/registry], strip_path: true }]
"#;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn up(folder: &Path) -> Result<(), Failed> {
    let kong = folder.join("start.yml");
    std::fs::write(&kong, KONG).map_err(|error| Failed(format!("{}: {error}", kong.display())))?;
    let (mut times, mut memory) = (Vec::new(), f64::NAN);
    for run in 0..=RUNS {
        let mut command = Command::new(program("plinth"));
        command.arg("up").arg("--data-dir").arg(folder.join("up")).arg("--config").arg(&kong);
        for (flag, port) in
            ["agent", "registry", "config", "health", "proxy", "admin", "status"].into_iter().zip(18_600..)
        {
            command.args([format!("--{flag}-listen"), at(port).to_string()]);
        }
        let start = Instant::now();
        let mut running = Running::start("up", command, folder)?;
        running.until("the first routed request", || {
            http::ask(at(18_604), "GET", "/registry/health/live", &[], "")
                .is_some_and(|answer| answer.status == 200)
        })?;
        // The first run makes keys and databases.
        if run > 0 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        if run == RUNS {
            std::thread::sleep(std::time::Duration::from_secs(10));
            memory = cpu::resident_mib(running.id());
        }
    }
    println!(
        "`plinth up`: first routed request after {:.0} ms (median of {RUNS}; bar: 1000), longest {:.0} ms",
        median(&times),
        times.iter().copied().fold(0.0, f64::max)
    );
    println!("`plinth up`: resident memory after 10 s idle {memory:.1} MiB (bar: 60 MB)");
    Ok(())
}

fn services(folder: &Path) -> Result<(), Failed> {
    let mut command = Command::new(program("plinth"));
    command.args(["agent", "--in-memory", "--http-port", "18700"]);
    let mut agent = Running::start("agent", command, folder)?;
    agent.listening(at(18_700))?;
    measure("the embedded agent", at(18_700), folder)?;
    drop(agent);

    let consul = servers::consul(folder, 18_710, None)?;
    measure(consul.name, consul.address, folder)
}

fn measure(side: &str, consul: SocketAddr, folder: &Path) -> Result<(), Failed> {
    println!(
        "\nready and in the catalog, against {side} (median of {RUNS}; bar: 300 ms)\n\n| | ms |\n|---|---|"
    );
    for (service, port) in
        ["registry-service", "config-service", "health-aggregator"].into_iter().zip(18_720..)
    {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let mut command = Command::new(program(service));
            command.args(["--listen", &at(port).to_string()]).env("CONSUL_HTTP_ADDR", consul.to_string());
            if service == "config-service" {
                command.arg("--data-dir").arg(folder.join("config-start"));
            }
            let start = Instant::now();
            let mut running = Running::start(service, command, folder)?;
            running.until(&format!("{service} ready and visible"), || {
                let ready = http::ask(at(port), "GET", "/health/ready", &[], "")
                    .is_some_and(|answer| answer.status == 200);
                ready
                    && http::ask(consul, "GET", &format!("/v1/health/service/{service}?passing"), &[], "")
                        .is_some_and(|answer| answer.body.len() > 4)
            })?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        println!("| {service} | {:.0} |", median(&times));
    }
    Ok(())
}
