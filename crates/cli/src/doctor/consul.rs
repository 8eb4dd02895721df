//! Consul itself.

use plinth_core::consul::Client;
use plinth_core::consul::wire::AgentSelf;

use super::finding::Finding;

const CONSUL: &str = "consul";
/// Connections of one client address that a process of Plinth may need: its blocking queries and a few more.
const CONNECTIONS: u64 = 200;

pub async fn look(client: &Client, address: &str) -> Vec<Finding> {
    let status = client.status();
    let leader = match status.leader().await {
        Ok(leader) => leader,
        Err(error) => {
            let message = format!("{address} cannot be asked: {}", plinth_kit::problem::chain(&error));
            let remedy = "give its address (--consul-address), and CONSUL_HTTP_TOKEN or CONSUL_CACERT where it wants \
                          them; services go on with what they know, registrations are refused";
            return vec![Finding::problem(CONSUL, "reachable", message).with(remedy)];
        }
    };
    let peers = status.peers().await.map_or(0, |peers| peers.len());
    let mut findings = leadership(leader.as_deref(), peers);
    match client.agent().self_().await {
        Ok(about) => findings.extend(judge(&about, peers)),
        Err(error) => {
            let message = format!("/v1/agent/self: {}", plinth_kit::problem::chain(&error));
            findings.push(
                Finding::warning(CONSUL, "agent", message)
                    .with("give a token with agent:read to have it looked at"),
            );
        }
    }
    findings
}

fn leadership(leader: Option<&str>, peers: usize) -> Vec<Finding> {
    let Some(leader) = leader else {
        let remedy = "most of its servers must be up and see each other: `consul operator raft list-peers`";
        return vec![
            Finding::problem(CONSUL, "leader", "has no leader; nothing can be written").with(remedy),
        ];
    };
    let mut findings = vec![Finding::ok(CONSUL, "leader", leader)];
    match peers {
        0 | 3 | 5 | 7 => {}
        1 => findings.push(
            Finding::warning(CONSUL, "servers", "is one server: its loss stops registrations and writes")
                .with("run three or five servers in production"),
        ),
        odd => findings.push(
            Finding::warning(CONSUL, "servers", format!("has {odd} servers"))
                .with("three or five servers: an even number survives no more losses than one less"),
        ),
    }
    findings
}

/// What the agent says about itself. The embedded agent is one node on purpose and has no limit of connections.
pub fn judge(about: &AgentSelf, peers: usize) -> Vec<Finding> {
    let version = format!("{} in datacenter {}", about.version(), about.datacenter());
    let mut findings = vec![Finding::ok(CONSUL, "version", version)];
    let limit = about.debug_config.get("HTTPMaxConnsPerClient").and_then(serde_json::Value::as_u64);
    if let Some(limit) = limit.filter(|limit| (1..=CONNECTIONS).contains(limit) && peers > 0) {
        findings.push(
            Finding::warning(
                CONSUL,
                "limits",
                format!(
                    "takes {limit} connections of one client address, which replicas behind one address share"
                ),
            )
            .with("raise limits.http_max_conns_per_client, as infrastructure/consul does"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn no_leader_is_a_problem_and_one_server_a_warning() {
        assert_eq!(leadership(None, 3)[0].level, Level::Problem);
        assert_eq!(leadership(Some("10.0.0.1:8300"), 1)[1].level, Level::Warning);
        assert_eq!(leadership(Some("10.0.0.1:8300"), 3).len(), 1);
        assert_eq!(leadership(Some("10.0.0.1:8300"), 4)[1].level, Level::Warning);
    }

    #[test]
    fn a_low_limit_of_connections_is_a_warning() {
        let about = |limit: u64| AgentSelf {
            debug_config: [("HTTPMaxConnsPerClient".to_owned(), limit.into())].into(),
            ..AgentSelf::default()
        };
        assert_eq!(judge(&about(200), 3).len(), 2);
        assert_eq!(judge(&about(4096), 3).len(), 1);
        assert_eq!(judge(&about(0), 3).len(), 1, "0 is no limit");
    }
}
