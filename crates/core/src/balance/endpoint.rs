//! What a balancer chooses between.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Live;
use super::hash::stable_hash;

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Resolved already: nothing to look up on the request path.
    Socket(SocketAddr),
    /// A host name that the caller resolves when it connects.
    Name { host: Arc<str>, port: u16 },
}

impl Address {
    /// Takes an IPv4 or IPv6 literal (with or without brackets) as a socket address, anything else as a name.
    pub fn new(host: &str, port: u16) -> Self {
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        match literal.parse() {
            Ok(ip) => Self::Socket(SocketAddr::new(ip, port)),
            Err(_) => Self::Name { host: host.into(), port },
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Socket(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// One target of an upstream. Immutable but for `live`, which outlives it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Names the endpoint across snapshots: live state and hash-ring places hang on it.
    pub id: Arc<str>,
    pub address: Address,
    /// Share of the traffic relative to the others; 0 = none at all, not even when every other one is down.
    pub weight: u32,
    pub live: Arc<Live>,
}

impl Endpoint {
    pub fn new(id: impl Into<Arc<str>>, address: impl Into<Address>, weight: u32, live: Arc<Live>) -> Self {
        Self { id: id.into(), address: address.into(), weight, live }
    }

    /// What a sticky cookie carries: the same in every replica and after every restart.
    pub fn token(&self) -> u64 {
        stable_hash(self.id.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_sockets_and_the_rest_are_names() {
        assert_eq!(Address::new("10.0.0.1", 80).to_string(), "10.0.0.1:80");
        assert_eq!(Address::new("::1", 80).to_string(), "[::1]:80");
        assert_eq!(Address::new("[::1]", 80).to_string(), "[::1]:80");
        assert!(matches!(Address::new("db.internal", 80), Address::Name { port: 80, .. }));
        assert_eq!(Address::new("db.internal", 80).to_string(), "db.internal:80");
    }
}
