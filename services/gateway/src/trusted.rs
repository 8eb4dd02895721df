//! Whose `X-Forwarded-*` headers are believed, and who the client is behind them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
pub use plinth_kong::Network;

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
