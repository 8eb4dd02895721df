//! From a registration to what is watched about it.

use std::time::Duration;

use plinth_core::health::ProbeTarget;
use plinth_core::registration::{CheckSpec, Registration};

/// How one instance is watched.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// Registered without a check: passing while registered.
    Not,
    /// Alive while its lease is there.
    Lease {
        ttl: Duration,
    },
    Probed(Target),
}

/// An instance that is probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The service that it is an instance of: what its certificate must say in the mesh.
    pub service: String,
    pub probe: ProbeTarget,
    pub interval: Duration,
    pub timeout: Duration,
    /// How long it may be critical until it is removed; `None`: for ever.
    pub deregister_after: Option<Duration>,
}

impl Watched {
    pub fn of(registration: &Registration) -> Self {
        match (target(registration), registration.lease_ttl()) {
            (Some(target), _) => Self::Probed(target),
            (None, Some(ttl)) => Self::Lease { ttl },
            (None, None) => Self::Not,
        }
    }
}

/// The lease of an instance, also of one that is probed as well.
pub fn lease(registration: &Registration) -> Option<Duration> {
    registration.lease_ttl()
}

fn target(registration: &Registration) -> Option<Target> {
    let spec = &registration.check;
    let timing = spec.timing()?;
    let address = spec.target(&registration.address, registration.port)?;
    let probe = match spec {
        CheckSpec::None | CheckSpec::Ttl { .. } => return None,
        CheckSpec::Http { method, headers, tls_skip_verify, .. } => ProbeTarget::Http {
            url: address,
            method: method.clone().unwrap_or_else(|| "GET".to_owned()),
            headers: headers
                .iter()
                .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
                .collect(),
            body: String::new(),
            tls_skip_verify: *tls_skip_verify,
            ca: None,
        },
        CheckSpec::Tcp { .. } => ProbeTarget::Tcp { addr: address },
        CheckSpec::Grpc { service, tls, tls_skip_verify, .. } => ProbeTarget::Grpc {
            addr: address,
            service: service.clone(),
            tls: *tls,
            tls_skip_verify: *tls_skip_verify,
        },
    };
    Some(Target {
        service: registration.service_name.clone(),
        probe,
        interval: timing.interval,
        timeout: timing.timeout,
        deregister_after: timing.deregister_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let mut registration = Registration::new("orders", "orders-1", "::1", 8080);
        assert_eq!(Watched::of(&registration), Watched::Not);
        registration.ttl = Some(Duration::from_secs(10));
        assert_eq!(Watched::of(&registration), Watched::Lease { ttl: Duration::from_secs(10) });
        registration.check = CheckSpec::http("/health");
        let Watched::Probed(target) = Watched::of(&registration) else { panic!("probed") };
        assert_eq!(target.probe, ProbeTarget::http("http://[::1]:8080/health"));
        assert_eq!((target.interval, target.timeout), (Duration::from_secs(10), Duration::from_secs(5)));
        assert_eq!(target.deregister_after, Some(Duration::from_secs(30)));
    }
}
