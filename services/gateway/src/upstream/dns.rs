//! DNS towards targets: A, AAAA and SRV records by a resolver that keeps answers for their time to live. Kong's settings
//! mean the same: `KONG_DNS_RESOLVER` (servers in place of the system's) and `KONG_DNS_ORDER` (kinds to ask for).

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};

/// A name that does not exist is believed not to for at most this long.
const NEGATIVE: Duration = Duration::from_secs(1);
/// A name is not asked for more often than this, whatever its records' time to live.
const LEAST: Duration = Duration::from_secs(1);

/// A kind of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hosts with ports, weights and priorities.
    Srv,
    /// IPv4 addresses (aliases are followed).
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// Which kinds are asked for, in this order; the first that has records counts. What a name had last is asked for first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order(pub Vec<Kind>);

impl Default for Order {
    /// Kong's `LAST,SRV,A,CNAME`, and IPv6 addresses of names that have no others.
    fn default() -> Self {
        Self(vec![Kind::Srv, Kind::A, Kind::Aaaa])
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut kinds = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.to_ascii_uppercase().as_str() {
                "SRV" => kinds.push(Kind::Srv),
                "A" => kinds.push(Kind::A),
                "AAAA" => kinds.push(Kind::Aaaa),
                // the last kind is always asked for first, aliases are always followed
                "LAST" | "CNAME" => {}
                _ => return Err(format!("{name:?} is none of LAST, SRV, A, AAAA, CNAME")),
            }
        }
        if kinds.is_empty() { Err("none of SRV, A, AAAA is among them".to_owned()) } else { Ok(Self(kinds)) }
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.0.iter().map(|kind| match kind {
            Kind::Srv => "SRV",
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
        });
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

/// A DNS server: an address, perhaps with a port (53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server(pub SocketAddr);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = text.parse().ok().or_else(|| Some(SocketAddr::new(bare.parse().ok()?, 53)));
        address.map(Self).ok_or_else(|| format!("{text:?} is not an IP address, perhaps with a port"))
    }
}

/// Who is asked and for what.
#[derive(Clone, Debug, Default)]
pub struct DnsSettings {
    /// DNS servers; none = the system's.
    pub servers: Vec<SocketAddr>,
    /// Kinds of records.
    pub order: Order,
}

/// One address of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address.
    pub ip: IpAddr,
    /// SRV: the port, the weight (at least 1) and the host.
    pub srv: Option<(u16, u32, Arc<str>)>,
}

/// What a name led to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its addresses, sorted.
    pub found: Vec<Found>,
    /// The kind of records it had.
    pub kind: Kind,
    /// When to ask again.
    pub until: Instant,
}

/// Asks. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    resolver: Arc<TokioResolver>,
    order: Arc<Order>,
    timeout: Duration,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("order", &self.order).finish_non_exhaustive()
    }
}

impl Dns {
    /// A resolver with a cache of its own.
    ///
    /// # Errors
    /// Settings the resolver does not take.
    pub fn new(settings: &DnsSettings, timeout: Duration) -> Result<Self, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if settings.servers.is_empty() {
            match TokioResolver::builder(provider.clone()) {
                Ok(builder) => builder,
                Err(error) => {
                    // what resolv.conf(5) says happens without the file
                    tracing::warn!(%error, "no DNS settings of the system: the server on this machine is asked");
                    let local = NameServerConfig::udp_and_tcp(IpAddr::from([127, 0, 0, 1]));
                    let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
                    TokioResolver::builder_with_config(config, provider)
                }
            }
        } else {
            let servers = settings.servers.iter().map(|server| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut config.connections {
                    connection.port = server.port();
                }
                config
            });
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers.collect()),
                provider,
            )
        };
        let options = builder.options_mut();
        options.timeout = timeout;
        options.negative_max_ttl = Some(NEGATIVE);
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver: Arc::new(resolver), order: Arc::new(settings.order.clone()), timeout })
    }

    /// Asks for a name's addresses; `last` is the kind it had before.
    ///
    /// # Errors
    /// Why there is none, of the kind asked for last.
    pub async fn resolve(&self, host: &str, last: Option<Kind>) -> Result<Answer, String> {
        let others = self.order.0.iter().copied().filter(|kind| Some(*kind) != last);
        let mut why = "no address".to_owned();
        for kind in last.into_iter().chain(others) {
            match tokio::time::timeout(self.timeout, self.ask(host, kind)).await {
                Ok(Ok(answer)) if !answer.found.is_empty() => return Ok(answer),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => why = error,
                Err(_) => why = format!("no answer from DNS within {:?}", self.timeout),
            }
        }
        Err(why)
    }

    async fn ask(&self, host: &str, kind: Kind) -> Result<Answer, String> {
        let record = match kind {
            Kind::Srv => RecordType::SRV,
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
        };
        let looked = self.resolver.lookup(host, record).await.map_err(|error| error.to_string())?;
        let mut until = looked.valid_until();
        let mut found = Vec::new();
        let mut services = Vec::new();
        for record in looked.answers() {
            match &record.data {
                RData::A(ip) => found.push(Found { ip: IpAddr::V4(ip.0), srv: None }),
                RData::AAAA(ip) => found.push(Found { ip: IpAddr::V6(ip.0), srv: None }),
                RData::SRV(service) => services.push(service),
                _ => {}
            }
        }
        // only the most important ones take part, as long as there are any
        let best = services.iter().map(|service| service.priority).min();
        for service in services.into_iter().filter(|service| Some(service.priority) == best) {
            until = until.min(self.addresses_of(service, &mut found).await);
        }
        found.sort_unstable_by(|one, other| {
            let key = |found: &Found| (found.ip, found.srv.as_ref().map(|(port, ..)| *port));
            key(one).cmp(&key(other))
        });
        found.dedup();
        Ok(Answer { found, kind, until: until.max(Instant::now() + LEAST) })
    }

    /// The addresses of an SRV record's host; one that has none is left out.
    async fn addresses_of(&self, service: &SRV, found: &mut Vec<Found>) -> Instant {
        let host: Arc<str> = service.target.to_utf8().trim_end_matches('.').into();
        match self.resolver.lookup_ip(service.target.clone()).await {
            Ok(addresses) => {
                let weight = u32::from(service.weight.max(1));
                found.extend(
                    addresses.iter().map(|ip| Found { ip, srv: Some((service.port, weight, host.clone())) }),
                );
                addresses.valid_until()
            }
            Err(error) => {
                tracing::warn!(%host, %error, "the host of an SRV record cannot be resolved");
                Instant::now() + LEAST
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kongs_order_is_read() {
        assert_eq!("LAST,SRV,A,CNAME".parse::<Order>().unwrap().0, [Kind::Srv, Kind::A]);
        assert_eq!("aaaa, a".parse::<Order>().unwrap().to_string(), "AAAA,A");
        assert!("MX".parse::<Order>().unwrap_err().contains("AAAA"));
        assert!("LAST".parse::<Order>().is_err());
    }

    #[test]
    fn servers_may_leave_out_their_port() {
        let read = |text: &str| text.parse::<Server>().map(|server| server.0.to_string());
        assert_eq!(read("10.0.0.2").unwrap(), "10.0.0.2:53");
        assert_eq!(read("10.0.0.2:8600").unwrap(), "10.0.0.2:8600");
        assert_eq!(read("[::1]:5353").unwrap(), "[::1]:5353");
        assert_eq!(read("::1").unwrap(), "[::1]:53");
        assert!(read("ns.example.com").is_err());
    }
}
