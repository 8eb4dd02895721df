//! wrk as the load generator.

use std::path::Path;

use crate::process::{Failed, output};

use super::pinned;

pub struct Load {
    pub requests: f64,
    pub p99_ms: f64,
}

/// `seconds` of load on `url` from core 1 with `connections` and one thread. Answers other than 2xx are a failure: a
/// fast error page is no result.
pub fn run(url: &str, connections: u32, seconds: u32, headers: &[String]) -> Result<Load, Failed> {
    load(url, connections, seconds, "5s", headers, None)
}

/// The same without a limit on how long an answer may take, and with requests that a Lua script makes, if it is given one.
pub fn patient(url: &str, connections: u32, seconds: u32, script: Option<&Path>) -> Result<Load, Failed> {
    load(url, connections, seconds, "120s", &[], script)
}

fn load(
    url: &str,
    connections: u32,
    seconds: u32,
    timeout: &str,
    headers: &[String],
    script: Option<&Path>,
) -> Result<Load, Failed> {
    let mut command = pinned(1, "wrk");
    command.args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-d{seconds}s"),
        "--latency",
        "--timeout",
        timeout,
    ]);
    for header in headers {
        command.args(["-H", header]);
    }
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    command.arg(url);
    let text = output(command)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(Failed(format!("{url}:\n{text}")));
    }
    let parsed = || {
        let requests = text
            .lines()
            .find(|line| line.contains(" requests in "))?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        let percentile = |name: &str| {
            let line = text.lines().map(str::trim).find(|line| line.starts_with(name))?;
            milliseconds(line.split_whitespace().nth(1)?)
        };
        Some(Load { requests, p99_ms: percentile("99%")? })
    };
    parsed().ok_or_else(|| Failed(format!("wrk printed something else than expected:\n{text}")))
}

fn milliseconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|character: char| character.is_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    match unit {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        "m" => Some(number * 6e4),
        _ => None,
    }
}
