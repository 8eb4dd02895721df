//! What is small: status, the agent about itself, operator views, coordinates.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::decode::{self, Fields, Malformed};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server, VERSION};
use crate::duration;
use crate::feed::Level;
use crate::state::config::ConfigEntry;
use crate::state::local::Runner;
use crate::state::{Command, Outcome, Table};

pub(super) mod shapes;

use shapes::{
    About, Autopilot, Config, Coordinate, DEFAULT_AUTOPILOT_INDEX, Gauge, Metrics, OperatorHealth,
    RaftServer, RaftServers, ServerHealth,
};

/// Where the autopilot's settings are kept: beside the configuration entries, of a kind that those do not have.
const AUTOPILOT: &str = "autopilot";

impl Server {
    pub(super) fn status_leader(&self, call: &Call<'_>) -> Handled {
        Ok(Reply::json(&self.raft_address(), call.pretty))
    }

    pub(super) fn status_peers(&self, call: &Call<'_>) -> Handled {
        Ok(Reply::json(&[self.raft_address()], call.pretty))
    }

    pub(super) fn raft_address(&self) -> String {
        format!("{}:8300", self.identity.address)
    }

    pub(super) fn agent_self(&self, call: &Call<'_>) -> Handled {
        let state = self.engine.state();
        let index = state.index().to_string();
        let answer = About {
            config: Config {
                datacenter: self.datacenter(),
                node_name: &self.identity.node,
                node_id: &self.identity.id,
                revision: "",
                server: true,
                version: VERSION,
            },
            debug_config: json!({
                "Bootstrap": true, "Datacenter": self.datacenter(), "NodeName": self.identity.node,
                "NodeID": self.identity.id, "ServerMode": true, "Version": VERSION, "ACLsEnabled": false,
                "ConnectEnabled": self.connect, "KVMaxValueSize": super::kv::LARGEST_VALUE,
                "HTTPPort": self.identity.http_port,
                "SerfAdvertiseAddrLAN": self.gossip_address(false),
                "SerfAdvertiseAddrWAN": self.gossip_address(true),
            }),
            coord: Coordinate::default(),
            member: self.member(false),
            stats: json!({
                "agent": {
                    "check_monitors": "0",
                    "check_ttls": state.local_checks().filter(|c| matches!(c.runner, Runner::Ttl(_))).count().to_string(),
                    "checks": state.local_checks().count().to_string(),
                    "services": state.local_services().count().to_string(),
                },
                "build": { "prerelease": "", "revision": "", "version": VERSION },
                "consul": {
                    "acl": "disabled", "bootstrap": "true", "known_datacenters": "1", "leader": "true",
                    "leader_addr": self.raft_address(), "server": "true",
                },
                "raft": { "applied_index": index, "commit_index": index, "last_log_index": index, "state": "Leader", "num_peers": "0" },
                "plinth": {
                    "waiting_queries": self.engine.waiting().to_string(),
                    "woken_queries": self.engine.woken().to_string(),
                    "encoded_bodies": self.cache.encoded().to_string(),
                },
            }),
            meta: &self.identity.meta,
        };
        Ok(Reply::json(&answer, call.pretty))
    }

    pub(super) fn agent_metrics(&self, call: &Call<'_>) -> Handled {
        if call.query.get("format") == Some("prometheus") {
            let text = "Prometheus is not enabled since its retention time is not positive";
            return Err(Reply::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let gauge = |name, value| Gauge { name, value, labels: BTreeMap::new() };
        let state = self.engine.state();
        let resident = resident_bytes().unwrap_or(0);
        let with_ttl = state.sessions().filter(|session| !session.ttl.is_empty()).count() as u64;
        let answer = Metrics {
            timestamp: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
            gauges: vec![
                gauge("consul.raft.applied_index", state.index()),
                gauge("consul.raft.last_index", state.index()),
                // there is no garbage to collect: what the process holds is what it uses
                gauge("consul.runtime.alloc_bytes", resident),
                gauge("consul.runtime.sys_bytes", resident),
                gauge("consul.session_ttl.active", with_ttl),
                gauge("plinth.agent.nodes", state.nodes().count() as u64),
                gauge("plinth.agent.waiting_queries", self.engine.waiting() as u64),
                gauge("plinth.agent.read_only", u64::from(self.engine.read_only().is_some())),
            ],
            points: [],
            counters: [],
            samples: [],
        };
        Ok(Reply::json(&answer, call.pretty))
    }

    /// A stream that goes on until the client leaves.
    pub(super) fn agent_monitor(&self, call: &Call<'_>) -> Handled {
        let given = call.query.get("loglevel").unwrap_or_default();
        let Some(level) = Level::parse(if given.is_empty() { "INFO" } else { given }) else {
            return Err(Reply::bad(&format!("Bad request: Unknown log level: {given}")));
        };
        let mut reply = Reply::ok();
        reply.lines = Some(self.engine.feed().read(level, call.query.has("logjson")));
        Ok(reply)
    }

    pub(super) fn operator_raft(&self, call: &Call<'_>) -> Handled {
        let server = RaftServer {
            id: &self.identity.id,
            node: &self.identity.node,
            address: self.raft_address(),
            leader: true,
            protocol_version: "3",
            voter: true,
        };
        Ok(Reply::json(&RaftServers { servers: [server], index: 0 }, call.pretty))
    }

    /// One server, and it cannot be removed by itself: every other one is unknown.
    pub(super) fn operator_raft_peer(&self, call: &Call<'_>) -> Handled {
        let (id, address) = (call.query.filled("id"), call.query.filled("address"));
        let text = match (id, address) {
            (Some(_), Some(_)) => {
                return Err(Reply::bad("Bad request: Must specify only one of ?id or ?address"));
            }
            (None, None) => {
                let text = "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of peer to remove";
                return Err(Reply::bad(text));
            }
            (Some(id), None) if id == self.identity.id => {
                "this agent is single-node: its only server stays".to_owned()
            }
            (Some(id), None) => format!("id {id:?} was not found in the Raft configuration"),
            (None, Some(address)) if address == self.raft_address() => {
                "this agent is single-node: its only server stays".to_owned()
            }
            (None, Some(address)) => format!("address {address:?} was not found in the Raft configuration"),
        };
        self.same_datacenter(call)?;
        Err(Reply::internal(&text))
    }

    /// Nothing is gossiped, so there is no key.
    pub(super) fn operator_keyring(&self, call: &Call<'_>) -> Handled {
        keyring_asked(call).map_err(|why| Reply::bad(&format!("Bad request: {why}")))?;
        let (node, datacenter) = (&self.identity.node, self.datacenter());
        let all = [
            "WAN error: 1/1 nodes reported failure".to_owned(),
            format!("{node}.{datacenter}: Keyring is empty (encryption not enabled)"),
            format!("{datacenter} (LAN) error: 1/1 nodes reported failure"),
            format!("{node}: Keyring is empty (encryption not enabled)"),
        ];
        let local = call.query.get("local-only").and_then(super::prepared::go_bool) == Some(true);
        Err(Reply::internal(&super::several(&all[if local { 2 } else { 0 }..])))
    }

    /// Kept and shown: with one server there is nothing to pilot.
    pub(super) async fn operator_autopilot(&self, call: &Call<'_>) -> Handled {
        if *call.method == Method::PUT {
            return self.operator_autopilot_set(call).await;
        }
        let state = self.engine.state();
        let entry = state.config_entry(AUTOPILOT, "global");
        let time = |nanos: u64| duration::format(Duration::from_nanos(nanos));
        let shown = match entry {
            None => Autopilot::default(),
            Some(entry) => {
                let text = |name: &str| entry.fields.get(name).and_then(Value::as_str).unwrap_or_default();
                let number = |name: &str| entry.fields.get(name).and_then(Value::as_u64).unwrap_or(0);
                let flag = |name: &str| entry.fields.get(name).and_then(Value::as_bool).unwrap_or(false);
                Autopilot {
                    cleanup_dead_servers: flag("CleanupDeadServers"),
                    last_contact_threshold: time(number("LastContactThreshold")),
                    max_trailing_logs: number("MaxTrailingLogs"),
                    min_quorum: number("MinQuorum"),
                    server_stabilization_time: time(number("ServerStabilizationTime")),
                    redundancy_zone_tag: text("RedundancyZoneTag").to_owned(),
                    disable_upgrade_migration: flag("DisableUpgradeMigration"),
                    upgrade_version_tag: text("UpgradeVersionTag").to_owned(),
                    create_index: entry.create_index,
                    modify_index: entry.modify_index,
                }
            }
        };
        Ok(Reply::json(&shown, call.pretty))
    }

    async fn operator_autopilot_set(&self, call: &Call<'_>) -> Handled {
        let failed =
            |Malformed(why)| Reply::bad(&format!("Bad request: Error parsing autopilot config: {why}"));
        let decoded = || -> Result<Map<String, Value>, Malformed> {
            let mut given = Fields::new(decode::json(&call.body)?)?;
            let mut fields = Map::new();
            for name in ["CleanupDeadServers", "DisableUpgradeMigration"] {
                fields.insert(name.to_owned(), Value::from(given.flag(&[name])?));
            }
            for name in ["MaxTrailingLogs", "MinQuorum"] {
                fields.insert(name.to_owned(), Value::from(given.unsigned(&[name])?));
            }
            for name in ["LastContactThreshold", "ServerStabilizationTime"] {
                let time = given.duration(&[name])?.unwrap_or_default();
                fields
                    .insert(name.to_owned(), Value::from(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
            }
            for name in ["RedundancyZoneTag", "UpgradeVersionTag"] {
                fields.insert(name.to_owned(), Value::from(given.text(&[name])?));
            }
            given.ignore(&["CreateIndex", "ModifyIndex"]);
            given.finish()?;
            Ok(fields)
        };
        let fields = decoded().map_err(failed)?;
        let cas = match call.query.get("cas") {
            None => None,
            Some(text) => {
                let failed = || {
                    let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
                    Reply::bad(&format!("Bad request: Error parsing cas value: {why}"))
                };
                Some(text.parse::<u64>().map_err(|_| failed())?)
            }
        };
        // the defaults are shown with an index and stored nowhere
        let unset = self.engine.state().config_entry(AUTOPILOT, "global").is_none();
        let cas = match cas {
            Some(index) if unset => Some(if index == DEFAULT_AUTOPILOT_INDEX { 0 } else { u64::MAX }),
            other => other,
        };
        let entry = ConfigEntry {
            kind: AUTOPILOT.to_owned(),
            name: "global".to_owned(),
            fields,
            create_index: 0,
            modify_index: 0,
        };
        let written = self.engine.write(Command::ConfigSet { entry: Box::new(entry), cas }).await?;
        Ok(Reply::json(&(written.outcome == Outcome::Flag(true)), call.pretty))
    }

    pub(super) fn operator_health(&self, call: &Call<'_>) -> Handled {
        let server = ServerHealth {
            id: &self.identity.id,
            name: &self.identity.node,
            address: self.raft_address(),
            serf_status: "alive",
            version: VERSION,
            leader: true,
            last_contact: "0s",
            last_term: 2,
            last_index: self.engine.state().index(),
            healthy: true,
            voter: true,
            stable_since: &self.identity.started,
        };
        Ok(Reply::json(
            &OperatorHealth { healthy: true, failure_tolerance: 0, servers: [server] },
            call.pretty,
        ))
    }

    pub(super) fn catalog_datacenters(&self, call: &Call<'_>) -> Handled {
        self.cached(call, || "datacenters".to_owned(), Reply::json(&[self.datacenter()], call.pretty))
    }

    pub(super) async fn wait_table(
        &self,
        options: &ReadOptions,
        table: Table,
    ) -> std::sync::Arc<crate::state::State> {
        let interest = || crate::engine::watch::Interest::One(crate::state::Topic::Table(table));
        self.wait(options, interest, |s| s.table_index(table)).await
    }
}

/// Whether the keyring is asked for as Consul wants it; there is none.
fn keyring_asked(call: &Call<'_>) -> Result<(), String> {
    if *call.method != Method::GET {
        decode::json(&call.body).map_err(|Malformed(why)| format!("Request decode failed: {why}"))?;
    }
    if let Some(text) = call.query.filled("relay-factor") {
        let factor: i64 = text.parse().map_err(|_| {
            format!("Error parsing relay factor: strconv.Atoi: parsing {text:?}: invalid syntax")
        })?;
        if !(0..=5).contains(&factor) {
            return Err("Invalid relay-factor: Relay factor must be in range: [0, 5]".to_owned());
        }
    }
    let Some(text) = call.query.filled("local-only") else { return Ok(()) };
    match super::prepared::go_bool(text) {
        None => Err(format!("Error parsing local-only: strconv.ParseBool: parsing {text:?}: invalid syntax")),
        Some(true) if *call.method != Method::GET => {
            Err("Invalid use of local-only: local-only can only be set for list requests".to_owned())
        }
        Some(_) => Ok(()),
    }
}

/// Of this process; none where the system does not say.
fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
