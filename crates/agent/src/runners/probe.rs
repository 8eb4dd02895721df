//! What a registration asks to probe, as a target of core's prober.

use std::time::Duration;

use plinth_core::health::ProbeTarget;

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
            let target = ProbeTarget::Http {
                url: asked.http.clone(),
                method: method.to_owned(),
                headers: headers.collect(),
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
