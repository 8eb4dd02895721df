//! What an upstream is made of: a plain host of a service, or an upstream of the configuration.

use plinth_core::balance::{Algorithm, PanicPolicy};

use super::extensions::{BadTag, Extensions};

/// One target as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port; a catalog instance's own port wins over it.
    pub port: u16,
    /// Share of the traffic.
    pub weight: u32,
}

impl TargetSpec {
    /// The service name when the host is one of the catalog's: `[tag.]NAME.service[.DC].consul`.
    #[must_use]
    pub fn catalog_name(&self) -> Option<CatalogName> {
        CatalogName::of(&self.host)
    }
}

/// A name of the service catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogName {
    /// The service.
    pub service: String,
    /// Only instances with this tag.
    pub tag: Option<String>,
}

impl CatalogName {
    /// Reads `[tag.]NAME.service[.DC].consul`.
    #[must_use]
    pub fn of(host: &str) -> Option<Self> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = host.strip_suffix(".consul")?.split('.').collect();
        let (front, service) = match labels.as_slice() {
            [front @ .., service, "service"] | [front @ .., service, "service", _] => (front, *service),
            _ => return None,
        };
        let tag = match front {
            [] => None,
            [tag] => Some((*tag).to_owned()),
            _ => return None,
        };
        (!service.is_empty()).then(|| Self { service: service.to_owned(), tag })
    }
}

/// What an upstream is made of. Equal definitions share one running [`Upstream`](super::Upstream).
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The host services name.
    pub name: String,
    /// Its targets.
    pub targets: Vec<TargetSpec>,
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// What happens when too few are healthy.
    pub panic: PanicPolicy,
    /// The Kong upstream behind it; `None` for a plain host.
    pub kong: Option<plinth_kong::Upstream>,
    /// Plinth's own settings of it.
    pub extensions: Extensions,
}

impl Definition {
    /// A plain host of a service.
    #[must_use]
    pub fn host(host: &str, port: u16) -> Self {
        let target = TargetSpec { host: host.to_owned(), port, weight: 100 };
        let panic = if target.catalog_name().is_some() { PanicPolicy::Below(50) } else { PanicPolicy::Off };
        Self {
            name: format!("{host}:{port}"),
            targets: vec![target],
            algorithm: Algorithm::RoundRobin,
            panic,
            kong: None,
            extensions: Extensions::default(),
        }
    }

    /// An upstream of the configuration.
    ///
    /// # Errors
    /// Tags for Plinth's own settings that say nothing usable.
    pub fn kong(upstream: &plinth_kong::Upstream) -> Result<Self, BadTag> {
        let extensions = Extensions::read(&upstream.tags)?;
        let targets = upstream
            .targets
            .iter()
            .map(|target| {
                let (host, port) = target.address();
                TargetSpec { host: host.to_owned(), port, weight: target.weight }
            })
            .collect();
        let algorithm = match upstream.algorithm {
            plinth_kong::Algorithm::RoundRobin => Algorithm::RoundRobin,
            plinth_kong::Algorithm::ConsistentHashing => Algorithm::ConsistentHash,
            plinth_kong::Algorithm::LeastConnections => Algorithm::LeastConnections,
            plinth_kong::Algorithm::Latency => Algorithm::PeakEwma,
        };
        Ok(Self {
            name: upstream.name.clone(),
            targets,
            algorithm: extensions.algorithm(algorithm),
            panic: PanicPolicy::Off,
            kong: Some(upstream.clone()),
            extensions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_names_are_told_from_others() {
        let parse = |host| CatalogName::of(host).map(|name| (name.service, name.tag));
        let plain = |name: &str| Some((name.to_owned(), None));
        assert_eq!(parse("user-service.service.consul"), plain("user-service"));
        assert_eq!(parse("User-Service.Service.Consul."), plain("user-service"));
        assert_eq!(parse("user-service.service.dc1.consul"), plain("user-service"));
        assert_eq!(
            parse("v1.user-service.service.consul"),
            Some(("user-service".to_owned(), Some("v1".to_owned())))
        );
        assert_eq!(parse("example.com"), None);
        assert_eq!(parse("service.consul"), None);
        assert_eq!(parse("node1.node.consul"), None);
    }
}
