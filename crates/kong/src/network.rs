//! Address ranges: ip-restriction's lists and the gateway's trusted peers.

use std::net::IpAddr;
use std::str::FromStr;

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
            Some((address, bits)) => {
                let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
                (address, Some(bits.parse::<u8>().ok().filter(|_| digits).ok_or_else(bad)?))
            }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        for bad in ["10.0.0.0/33", "example.com", "", "/8", "1.2.3.4/", "1.2.3.4/+8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Against counting the equal leading bits by hand.
        #[test]
        fn an_address_is_in_a_range_when_the_leading_bits_are_equal(own: u32, other: u32, bits in 0..=32_u8) {
            let range = format!("{}/{bits}", std::net::Ipv4Addr::from(own));
            let equal = (own ^ other).leading_zeros() >= u32::from(bits);
            let network: Network = range.parse().unwrap();
            prop_assert_eq!(network.contains(std::net::Ipv4Addr::from(other).into()), equal);
        }

        #[test]
        fn v6_ranges_too(own: u128, flip in 0..128_u32, bits in 0..=128_u8) {
            let network: Network = format!("{}/{bits}", std::net::Ipv6Addr::from(own)).parse().unwrap();
            // An own address that happens to be a mapped IPv4 one is compared as such.
            prop_assume!(std::net::Ipv6Addr::from(own ^ (1 << flip)).to_ipv4_mapped().is_none());
            let other = std::net::Ipv6Addr::from(own ^ (1 << flip));
            prop_assert_eq!(network.contains(other.into()), u32::from(bits) <= 127 - flip);
        }

        #[test]
        fn any_text_is_survived(text in "[0-9a-f:./ ]{0,24}") {
            let _ = text.parse::<Network>();
        }
    }
}
