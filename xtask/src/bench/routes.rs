//! Ten thousand routes: loading them, changing one, what workers notice, what it takes.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::process::Failed;

use super::running::Running;
use super::{cpu, http, median, program};

const SERVICES: usize = 1000;
const ROUTES: usize = 10;
/// Routes changed one after the other.
const CHANGES: usize = 20;

pub fn run(folder: &Path) -> Result<(), Failed> {
    println!(
        "| shape | first load, ms (bar: 500) | one route changed, ms: median, longest (bar: 10) | answer of POST /config, ms | polls over 2 ms (bar: 0) | resident, MB (bar: 60) |"
    );
    println!("|---|---|---|---|---|---|");
    shape("1,000 services with 10 routes each", folder, nested)?;
    shape("10,000 routes beside 1,000 services", folder, flat)
}

fn shape(name: &str, folder: &Path, file: fn(usize) -> String) -> Result<(), Failed> {
    let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let [proxy, admin, status] = [18_800, 18_801, 18_807].map(address);
    let path = folder.join("routes.yml");
    std::fs::write(&path, file(0)).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
    let mut command = Command::new(program("gateway"));
    command.arg("--config").arg(&path).args(["--config-poll", "1h", "--register", "false"]);
    for (flag, address) in [("proxy", proxy), ("admin", admin), ("status", status)] {
        command.args([format!("--{flag}-listen"), address.to_string()]);
    }
    let mut running = Running::start("routes", command, folder)?;
    running.until("the gateway is ready", || {
        http::ask(status, "GET", "/status/ready", &[], "").is_some_and(|answer| answer.status == 200)
    })?;
    let first = metric(status, "gateway_config_apply_seconds")? * 1e3;
    let slow_before = metric(status, "gateway_slow_polls_total")?;
    let (mut applied, mut answered) = (Vec::new(), Vec::new());
    for change in 1..=CHANGES {
        let text = file(change);
        // Something to do for the workers while the configuration is swapped.
        let asked = std::thread::spawn(move || {
            (0..50)
                .filter(|_| {
                    http::ask(proxy, "GET", "/none", &[], "").is_some_and(|answer| answer.status == 404)
                })
                .count()
        });
        let begin = Instant::now();
        let answer = http::ask(admin, "POST", "/config", &["content-type: text/yaml".to_owned()], &text);
        answered.push(begin.elapsed().as_secs_f64() * 1e3);
        match answer {
            Some(answer) if answer.status == 201 => {}
            Some(answer) => return Err(Failed(format!("POST /config: {} {}", answer.status, answer.body))),
            None => return Err(Failed("POST /config: no answer".to_owned())),
        }
        applied.push(metric(status, "gateway_config_apply_seconds")? * 1e3);
        if asked.join().unwrap_or(0) == 0 {
            return Err(Failed("the proxy answered nothing meanwhile".to_owned()));
        }
    }
    let slow = metric(status, "gateway_slow_polls_total")? - slow_before;
    println!(
        "| {name} | {first:.0} | {:.1}, {:.1} | {:.0} | {slow} | {:.0} |",
        median(&applied),
        applied.iter().copied().fold(0.0, f64::max),
        median(&answered),
        cpu::resident_mib(running.id()) * 1.048_576
    );
    Ok(())
}

fn metric(status: SocketAddr, name: &str) -> Result<f64, Failed> {
    let answer = http::ask(status, "GET", "/metrics", &[], "")
        .ok_or_else(|| Failed("/metrics: no answer".to_owned()))?;
    let values: Vec<f64> = answer
        .body
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    if values.is_empty() {
        Err(Failed(format!("{name} is not in /metrics")))
    } else {
        Ok(values.iter().sum())
    }
}

/// The route that changes, in the middle; 0 is the first version.
fn path(service: usize, route: usize, change: usize) -> String {
    let changed = service == SERVICES / 2 && route == 3 && change > 0;
    if changed { format!("/s{service}/changed{change}") } else { format!("/s{service}/r{route}") }
}

fn nested(change: usize) -> String {
    let mut text = head();
    text.push_str("services:\n");
    for service in 0..SERVICES {
        write_service(&mut text, service);
        text.push_str("  routes:\n");
        for route in 0..ROUTES {
            write_route(&mut text, "  ", service, route, change, false);
        }
    }
    text
}

fn flat(change: usize) -> String {
    let mut text = head();
    text.push_str("services:\n");
    (0..SERVICES).for_each(|service| write_service(&mut text, service));
    text.push_str("routes:\n");
    for service in 0..SERVICES {
        for route in 0..ROUTES {
            write_route(&mut text, "", service, route, change, true);
        }
    }
    text
}

fn head() -> String {
    "_format_version: \"3.0\"\nplugins:\n- name: cors\n- name: rate-limiting\n  config: { minute: 100000, policy: local }\n"
        .to_owned()
}

// Writing to a String cannot fail.
fn write_service(text: &mut String, service: usize) {
    let _ = write!(text, "- name: s{service}\n  url: http://127.0.0.1:9/base{service}\n");
}

fn write_route(text: &mut String, pad: &str, service: usize, route: usize, change: usize, flat: bool) {
    let path = path(service, route, change);
    let _ = write!(
        text,
        "{pad}- name: r{service}-{route}\n{pad}  hosts:\n{pad}  - h{}.example.com\n",
        service % 100
    );
    let _ = write!(
        text,
        "{pad}  paths:\n{pad}  - {path}\n{pad}  methods: [GET, POST]\n{pad}  strip_path: false\n"
    );
    if flat {
        let _ = writeln!(text, "{pad}  service: s{service}");
    }
}
