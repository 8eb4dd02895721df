//! The members of a cluster of one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::misc::shapes::Member;
use super::reply::{Handled, Reply};
use super::{Call, Server, VERSION};

/// What Consul's gossip would listen on; nothing does here, but clients print it and join it.
const LAN_PORT: u16 = 8301;
const WAN_PORT: u16 = 8302;

impl Server {
    pub(super) fn member(&self, wide: bool) -> Member<'_> {
        let name = &self.identity.node;
        let datacenter = self.datacenter();
        let mut tags: BTreeMap<&str, String> = [
            ("acls", "0"),
            ("bootstrap", "1"),
            ("dc", datacenter),
            ("ft_fs", "1"),
            ("id", &self.identity.id),
            ("port", "8300"),
            ("raft_vsn", "3"),
            ("role", "consul"),
            ("segment", ""),
            ("vsn", "2"),
            ("vsn_max", "3"),
            ("vsn_min", "2"),
        ]
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
        tags.insert("build", format!("{VERSION}:"));
        if !wide {
            tags.insert("wan_join_port", WAN_PORT.to_string());
        }
        Member {
            name: if wide { format!("{name}.{datacenter}") } else { name.clone() },
            addr: self.identity.address,
            port: if wide { WAN_PORT } else { LAN_PORT },
            tags,
            status: 1,
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
        }
    }

    pub(super) fn gossip_address(&self, wide: bool) -> String {
        let port = if wide { WAN_PORT } else { LAN_PORT };
        format!("tcp://{}", SocketAddr::new(self.identity.address, port))
    }

    pub(super) fn agent_members(&self, call: &Call<'_>) -> Handled {
        if call.query.filled("segment").is_some_and(|segment| segment != "_all") {
            return Err(Reply::internal("Network segments are not supported in this version of Consul"));
        }
        Ok(Reply::json(&[self.member(call.query.filled("wan").is_some())], call.pretty))
    }

    /// Joining oneself succeeds, as in Consul; there is nobody else to join.
    pub(super) fn agent_join(&self, call: &Call<'_>) -> Handled {
        let (wanted, own) = (call.rest, self.identity.address);
        let itself = match wanted.parse::<SocketAddr>() {
            Ok(address) => address.ip() == own && [LAN_PORT, WAN_PORT].contains(&address.port()),
            Err(_) => {
                wanted.parse().is_ok_and(|ip: IpAddr| ip == own)
                    || (wanted.eq_ignore_ascii_case("localhost") && own.is_loopback())
            }
        };
        if itself {
            return Ok(Reply::ok());
        }
        let fault = format!("Failed to join {wanted}: this agent is single-node and has no cluster");
        Err(Reply::internal(&super::several(&[fault])))
    }

    /// The agent itself refuses to be gone, which Consul tells nobody.
    pub(super) fn agent_force_leave(&self, call: &Call<'_>) -> Handled {
        if call.rest == self.identity.node {
            return Ok(Reply::ok());
        }
        Err(Reply::internal(&format!("agent: No node found with name '{}'", call.rest)))
    }
}
