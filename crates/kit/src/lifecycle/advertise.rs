//! Under which address others reach this process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use plinth_core::consul::Address;

/// No address to advertise: the message says which setting to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "listens on every address of this machine ({listen}), so the address under which others reach it is ambiguous; \
     give `advertise` (or POD_IP)"
)]
pub struct AdvertiseError {
    listen: SocketAddr,
}

/// The host to advertise, from `advertise`, else `POD_IP`; without either, the address a listener is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertise {
    host: Option<String>,
}

impl Advertise {
    /// An explicit host: an IP address or a name.
    pub fn host(host: impl Into<String>) -> Advertise {
        Advertise { host: Some(host.into()) }
    }

    /// Follow the listener's own address.
    pub fn listener() -> Advertise {
        Advertise::default()
    }

    /// `advertise = auto`: the address from which this machine reaches Consul, so the one under which the platform's other
    /// members reach it too.
    ///
    /// # Errors
    /// Consul's host cannot be resolved, or is not reached over a network. The message is for the setting.
    pub fn auto(consul: &Address) -> Result<Advertise, String> {
        route(consul).map(|ip| Advertise::host(ip.to_string()))
    }

    /// `given` is the setting, `pod_ip` the variable of Kubernetes.
    pub(crate) fn decide(given: Option<String>, pod_ip: Option<&str>) -> Advertise {
        Advertise { host: given.or_else(|| pod_ip.map(str::to_owned)) }
    }

    /// The host (no brackets around IPv6) and port under which others reach what listens on `listen`. A process
    /// on loopback advertises loopback, whatever `POD_IP` says: nothing else would reach it.
    ///
    /// # Errors
    /// `listen` is unspecified (0.0.0.0 or ::) and no host is given.
    pub fn endpoint(&self, listen: SocketAddr) -> Result<(String, u16), AdvertiseError> {
        let ip = listen.ip();
        match &self.host {
            Some(host) if !ip.is_loopback() => Ok((host.clone(), listen.port())),
            None if ip.is_unspecified() => Err(AdvertiseError { listen }),
            Some(_) | None => Ok((canonical(ip).to_string(), listen.port())),
        }
    }
}

/// `::ffff:10.0.0.1` is 10.0.0.1 to everybody else.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Nothing is sent: a datagram socket is asked which way it would take.
fn route(consul: &Address) -> Result<IpAddr, String> {
    let host = match consul {
        Address::Http(host) | Address::Https(host) => host,
        Address::Unix(_) => {
            return Err("auto needs a Consul that is reached over the network; give the address".to_owned());
        }
    };
    let failed = |error| format!("auto: no way to Consul at {host} ({error}); give the address");
    let target = host.to_socket_addrs().map_err(failed)?.next();
    let target = target.ok_or_else(|| format!("auto: {host} has no address; give the address"))?;
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).map_err(failed)?;
    socket.connect(target).map_err(failed)?;
    Ok(canonical(socket.local_addr().map_err(failed)?.ip()))
}

/// A fault in an `advertise` setting: nobody can be reached under an unspecified address.
pub(crate) fn fault_in(host: &str) -> Option<&'static str> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return (ip.is_unspecified() || ip.is_multicast()).then_some(
            "nobody can reach that address; give the address or name under which others reach this process",
        );
    }
    let name_ok = !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    (!name_ok).then_some("is neither an IP address nor a host name; give it without scheme and port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn follows_the_rules() {
        let open = Advertise::decide(None, None);
        assert_eq!(open.endpoint(at("127.0.0.1:8510")), Ok(("127.0.0.1".into(), 8510)));
        assert_eq!(open.endpoint(at("[::ffff:10.1.2.3]:80")), Ok(("10.1.2.3".into(), 80)));
        assert!(open.endpoint(at("0.0.0.0:8510")).is_err());
        assert!(open.endpoint(at("[::]:8510")).is_err());

        let pod = Advertise::decide(None, Some("10.0.0.7"));
        assert_eq!(pod.endpoint(at("0.0.0.0:8510")), Ok(("10.0.0.7".into(), 8510)));
        assert_eq!(pod.endpoint(at("127.0.0.1:8510")), Ok(("127.0.0.1".into(), 8510)));

        let given = Advertise::decide(Some("registry.local".into()), Some("10.0.0.7"));
        assert_eq!(given.endpoint(at("[::]:1")), Ok(("registry.local".into(), 1)));
    }

    #[test]
    fn auto_is_the_address_on_the_way_to_consul() {
        assert_eq!(route(&"127.0.0.1:8500".parse().unwrap()), Ok(IpAddr::from([127, 0, 0, 1])));
        assert!(route(&"unix:///run/consul.sock".parse().unwrap()).unwrap_err().contains("over the network"));
        let fault = route(&"no-such-host.invalid:8500".parse().unwrap()).unwrap_err();
        assert!(fault.contains("no-such-host.invalid") && fault.contains("give the address"), "{fault}");
    }

    #[test]
    fn refuses_hosts_that_nobody_can_reach() {
        for bad in ["0.0.0.0", "::", "[::]", "http://a", "a:80", "", "-a", "a..b", "224.0.0.1"] {
            assert!(fault_in(bad).is_some(), "{bad:?}");
        }
        for good in ["10.0.0.1", "::1", "registry", "registry.prod.svc.cluster.local", "127.0.0.1"] {
            assert!(fault_in(good).is_none(), "{good:?}");
        }
    }
}
