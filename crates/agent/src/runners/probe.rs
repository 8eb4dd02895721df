//! What a registration asks to probe, as a target of core's prober.

use std::time::Duration;

use plinth_core::health::{ProbeOutcome, ProbeTarget};

use crate::state::local::{LocalCheck, Runner};

/// The target and its time limit; `None` for checks that are not probed.
pub(super) fn target(check: &LocalCheck) -> Option<(ProbeTarget, Duration)> {
    let asked = &check.target;
    match check.runner {
        Runner::Http { timeout, .. } => {
            let method = if asked.method.is_empty() { "GET" } else { &asked.method };
            let headers = asked
                .header
                .iter()
                .flat_map(|(name, values)| values.iter().map(|v| (name.clone(), v.clone())));
            let mut headers: Vec<(String, String)> = headers.collect();
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
                headers.push(("User-Agent".to_owned(), "Consul Health Check".to_owned()));
            }
            let target = ProbeTarget::Http {
                url: asked.http.clone(),
                method: method.to_owned(),
                headers,
                body: asked.body.clone(),
                tls_skip_verify: asked.tls_skip_verify,
                ca: None,
            };
            Some((target, timeout))
        }
        Runner::Tcp { timeout, .. } => Some((ProbeTarget::Tcp { addr: asked.tcp.clone() }, timeout)),
        Runner::Grpc { timeout, .. } => {
            let (addr, service) = asked.grpc.split_once('/').unwrap_or((&asked.grpc, ""));
            let target = ProbeTarget::Grpc {
                addr: addr.to_owned(),
                service: service.to_owned(),
                tls: asked.grpc_use_tls,
                tls_skip_verify: asked.tls_skip_verify,
            };
            Some((target, timeout))
        }
        Runner::Ttl(_) | Runner::Alias | Runner::Maintenance => None,
    }
}

/// The output as Consul words it: core's own words where there was an answer, Go's where there was none.
pub(super) fn told(target: &ProbeTarget, seen: &ProbeOutcome) -> String {
    match target {
        ProbeTarget::Http { url, method, .. } if seen.http_status.is_none() => {
            let prefix = format!("HTTP {method} {url}: ");
            let why = seen.output.strip_prefix(&prefix).unwrap_or(&seen.output);
            let verb: String = method
                .chars()
                .enumerate()
                .map(|(at, c)| if at == 0 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
                .collect();
            let why = if seen.timed_out {
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
            } else {
                dialled(&address_of(url), why)
            };
            format!("{verb} {url:?}: {why}")
        }
        ProbeTarget::Tcp { addr } if seen.timed_out => format!("dial tcp {addr}: i/o timeout"),
        ProbeTarget::Tcp { addr } => match seen.output.strip_prefix(&format!("TCP connect {addr}: ")) {
            Some("Success") | None => seen.output.clone(),
            Some(why) => dialled(addr, why),
        },
        _ => seen.output.clone(),
    }
}

/// Host and port of a URL.
fn address_of(url: &str) -> String {
    let Ok(uri) = url.parse::<http::Uri>() else { return String::new() };
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    format!("{}:{port}", uri.host().unwrap_or_default())
}

fn dialled(address: &str, why: &str) -> String {
    if why.contains("refused") {
        format!("dial tcp {address}: connect: connection refused")
    } else if why.contains("unreachable") {
        format!("dial tcp {address}: connect: network is unreachable")
    } else {
        why.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use plinth_core::health::Status;

    use super::*;

    fn seen(output: &str, timed_out: bool) -> ProbeOutcome {
        ProbeOutcome {
            status: Status::Critical,
            output: output.to_owned(),
            latency: Duration::ZERO,
            timed_out,
            http_status: None,
        }
    }

    #[test]
    fn failures_are_told_in_consuls_words() {
        let http = ProbeTarget::http("http://127.0.0.1:1/x");
        let refused = seen("HTTP GET http://127.0.0.1:1/x: Connection refused (os error 111)", false);
        assert_eq!(
            told(&http, &refused),
            "Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection refused"
        );
        let tcp = ProbeTarget::Tcp { addr: "127.0.0.1:1".to_owned() };
        let refused = seen("TCP connect 127.0.0.1:1: Connection refused (os error 111)", false);
        assert_eq!(told(&tcp, &refused), "dial tcp 127.0.0.1:1: connect: connection refused");
        assert_eq!(told(&tcp, &seen("", true)), "dial tcp 127.0.0.1:1: i/o timeout");
        assert_eq!(
            told(&tcp, &seen("TCP connect 127.0.0.1:1: Success", false)),
            "TCP connect 127.0.0.1:1: Success"
        );
    }
}
