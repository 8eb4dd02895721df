//! Whose `X-Forwarded-*` headers are believed, and who the client is behind them.

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Not an address range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IP address or CIDR range")]
pub struct BadNetwork(String);

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| bad())?)),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(most) {
            bits if bits <= most => Ok(Self { address, bits }),
            _ => Err(bad()),
        }
    }
}

impl Network {
    /// The address lies in the range. IPv4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(own) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(own) & mask == u128::from(other) & mask
            }
            _ => false,
        }
    }
}

/// Kong's `trusted_ips`, `real_ip_header` and `real_ip_recursive`.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Peers believed.
    pub networks: Vec<Network>,
    /// Where they put the client's address.
    pub header: HeaderName,
    /// The PROXY protocol says who the client is, not a header (`real_ip_header` is `proxy_protocol`).
    pub proxy_protocol: bool,
    /// Walk the list from its end to the first address that is not trusted.
    pub recursive: bool,
}

impl Default for Trust {
    /// Nobody; `X-Real-IP`.
    fn default() -> Self {
        Self {
            networks: Vec::new(),
            header: HeaderName::from_static("x-real-ip"),
            proxy_protocol: false,
            recursive: false,
        }
    }
}

impl Trust {
    /// The address is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The client behind a trusted peer, which named `proxied` in the PROXY protocol; the peer itself when nothing
    /// usable is said.
    #[must_use]
    pub fn client(&self, peer: IpAddr, proxied: Option<IpAddr>, headers: &HeaderMap) -> IpAddr {
        if self.proxy_protocol {
            return proxied.unwrap_or(peer);
        }
        let mut found = None;
        let values: Vec<&str> =
            headers.get_all(&self.header).iter().filter_map(|value| value.to_str().ok()).collect();
        for part in values.iter().rev().flat_map(|value| value.rsplit(',')) {
            let Some(address) = address_of(part.trim()) else { break };
            found = Some(address);
            if !self.recursive || !self.trusts(address) {
                break;
            }
        }
        found.unwrap_or(peer)
    }
}

/// An address, perhaps with a port.
fn address_of(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_should() {
        let holds = |range: &str, ip: &str| range.parse::<Network>().unwrap().contains(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4"));
        assert!(holds("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(holds("fd00::/8", "fd12::1"));
        assert!(holds("::/0", "::1"));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("example.com".parse::<Network>().is_err());
    }

    #[test]
    fn the_client_is_found_behind_trusted_peers() {
        let mut trust = Trust {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            header: HeaderName::from_static("x-forwarded-for"),
            ..Trust::default()
        };
        let peer: IpAddr = "10.0.0.9".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(trust.client(peer, None, &headers), peer);
        headers.insert("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.1".parse().unwrap());
        assert_eq!(trust.client(peer, None, &headers).to_string(), "10.0.0.1");
        trust.recursive = true;
        assert_eq!(trust.client(peer, None, &headers).to_string(), "2.2.2.2");
        headers.insert("x-forwarded-for", "nonsense".parse().unwrap());
        assert_eq!(trust.client(peer, None, &headers), peer);
        let proxied = "3.3.3.3".parse().ok();
        assert_eq!(trust.client(peer, proxied, &headers), peer, "not asked for");
        trust.proxy_protocol = true;
        assert_eq!(trust.client(peer, proxied, &headers).to_string(), "3.3.3.3");
        assert_eq!(trust.client(peer, None, &headers), peer);
    }
}
