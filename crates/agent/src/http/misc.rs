//! What is small: status, the agent about itself, operator views, coordinates, events.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server, VERSION};
use crate::state::Table;

/// Events kept.
const MOST_EVENTS: usize = 256;

/// A user event as fired.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    payload: Option<String>,
    node_filter: String,
    service_filter: String,
    tag_filter: String,
    version: u32,
    #[serde(rename = "LTime")]
    l_time: u64,
}

impl Server {
    pub(super) fn status_leader(&self, call: &Call<'_>) -> Handled {
        Ok(Reply::json(&self.raft_address(), call.pretty))
    }

    pub(super) fn status_peers(&self, call: &Call<'_>) -> Handled {
        Ok(Reply::json(&[self.raft_address()], call.pretty))
    }

    fn raft_address(&self) -> String {
        format!("{}:8300", self.identity.address)
    }

    fn member(&self, wide: bool) -> Value {
        let name = &self.identity.node;
        let datacenter = self.datacenter();
        json!({
            "Name": if wide { format!("{name}.{datacenter}") } else { name.clone() },
            "Addr": self.identity.address,
            "Port": if wide { 8302 } else { 8301 },
            "Tags": {
                "acls": "0", "bootstrap": "1", "build": format!("{VERSION}:"), "dc": datacenter, "ft_fs": "1",
                "id": self.identity.id, "port": "8300", "raft_vsn": "3", "role": "consul", "segment": "",
                "vsn": "2", "vsn_max": "3", "vsn_min": "2", "wan_join_port": "8302",
            },
            "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2,
            "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
        })
    }

    pub(super) fn agent_members(&self, call: &Call<'_>) -> Handled {
        Ok(Reply::json(&[self.member(call.query.filled("wan").is_some())], call.pretty))
    }

    pub(super) fn agent_self(&self, call: &Call<'_>) -> Handled {
        let state = self.engine.state();
        let index = state.index().to_string();
        let answer = json!({
            "Config": {
                "Datacenter": self.datacenter(), "NodeName": self.identity.node, "NodeID": self.identity.id,
                "Revision": "", "Server": true, "Version": VERSION,
            },
            "DebugConfig": {
                "Bootstrap": true, "Datacenter": self.datacenter(), "NodeName": self.identity.node,
                "NodeID": self.identity.id, "ServerMode": true, "Version": VERSION, "ACLsEnabled": false,
                "ConnectEnabled": false, "KVMaxValueSize": super::kv::LARGEST_VALUE,
                "HTTPPort": self.identity.http_port,
            },
            "Coord": coordinate(),
            "Member": self.member(false),
            "Stats": {
                "agent": {
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
            },
            "Meta": self.identity.meta,
        });
        Ok(Reply::json(&answer, call.pretty))
    }

    pub(super) fn agent_metrics(&self, call: &Call<'_>) -> Handled {
        if call.query.get("format") == Some("prometheus") {
            let text = "Prometheus is not enabled since its retention time is not positive";
            return Err(Reply::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let gauge = |name: &str, value: usize| json!({"Name": name, "Value": value, "Labels": {}});
        let state = self.engine.state();
        let answer = json!({
            "Timestamp": "", "Points": [], "Counters": [], "Samples": [],
            "Gauges": [
                gauge("plinth.agent.waiting_queries", self.engine.waiting()),
                gauge("plinth.agent.nodes", state.nodes().count()),
                gauge("plinth.agent.read_only", usize::from(self.engine.read_only().is_some())),
            ],
        });
        Ok(Reply::json(&answer, call.pretty))
    }

    pub(super) fn operator_raft(&self, call: &Call<'_>) -> Handled {
        let server = json!({
            "ID": self.identity.id, "Node": self.identity.node, "Address": self.raft_address(),
            "Leader": true, "ProtocolVersion": "3", "Voter": true,
        });
        Ok(Reply::json(&json!({"Servers": [server], "Index": 0}), call.pretty))
    }

    pub(super) fn operator_autopilot(&self, call: &Call<'_>) -> Handled {
        let answer = json!({
            "CleanupDeadServers": true, "LastContactThreshold": "200ms", "MaxTrailingLogs": 250, "MinQuorum": 0,
            "ServerStabilizationTime": "10s", "RedundancyZoneTag": "", "DisableUpgradeMigration": false,
            "UpgradeVersionTag": "", "CreateIndex": 1, "ModifyIndex": 1,
        });
        Ok(Reply::json(&answer, call.pretty))
    }

    pub(super) fn operator_health(&self, call: &Call<'_>) -> Handled {
        let index = self.engine.state().index();
        let server = json!({
            "ID": self.identity.id, "Name": self.identity.node, "Address": self.raft_address(),
            "SerfStatus": "alive", "Version": VERSION, "Leader": true, "LastContact": "0s", "LastTerm": 1,
            "LastIndex": index, "Healthy": true, "Voter": true, "StableSince": self.identity.started,
        });
        Ok(Reply::json(&json!({"Healthy": true, "FailureTolerance": 0, "Servers": [server]}), call.pretty))
    }

    pub(super) fn coordinate_datacenters(&self, call: &Call<'_>) -> Handled {
        let answer = json!([{
            "Datacenter": self.datacenter(), "AreaID": "wan", "Coordinates": [self.own_coordinate()],
        }]);
        Ok(Reply::json(&answer, call.pretty))
    }

    fn own_coordinate(&self) -> Value {
        json!({"Node": self.identity.node, "Segment": "", "Coord": coordinate()})
    }

    pub(super) fn coordinate_nodes(&self, call: &Call<'_>) -> Handled {
        ReadOptions::parse(&call.query)?;
        Ok(Reply::json(&[self.own_coordinate()], call.pretty).at(1))
    }

    pub(super) fn coordinate_node(&self, call: &Call<'_>) -> Handled {
        ReadOptions::parse(&call.query)?;
        if !call.rest.eq_ignore_ascii_case(&self.identity.node) {
            return Err(Reply::empty(StatusCode::NOT_FOUND).at(1));
        }
        Ok(Reply::json(&[self.own_coordinate()], call.pretty).at(1))
    }

    pub(super) fn event_fire(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing name"));
        }
        let text = |name: &str| call.query.get(name).unwrap_or_default().to_owned();
        let fired = Event {
            id: uuid::Uuid::new_v4().to_string(),
            name: call.rest.to_owned(),
            payload: (!call.body.is_empty()).then(|| STANDARD.encode(&call.body)),
            node_filter: text("node"),
            service_filter: text("service"),
            tag_filter: text("tag"),
            version: 1,
            l_time: 0,
        };
        self.events.send_modify(|events| {
            let l_time = events.last().map_or(2, |e| e.l_time + 1);
            events.push(Event { l_time, ..fired.clone() });
            let excess = events.len().saturating_sub(MOST_EVENTS);
            events.drain(..excess);
        });
        Ok(Reply::json(&fired, call.pretty))
    }

    /// The index is the last event's id, its halves xor-ed; it blocks only while that is the one given.
    pub(super) async fn event_list(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let name = call.query.filled("name").map(str::to_owned);
        let chosen = |events: &[Event]| -> Vec<Event> {
            events.iter().filter(|e| name.as_ref().is_none_or(|n| *n == e.name)).cloned().collect()
        };
        let mut changes = self.events.subscribe();
        let moved =
            changes.wait_for(|events| options.index == 0 || event_index(&chosen(events)) != options.index);
        // whether in time or not, the answer is what there is now
        let _ = tokio::time::timeout(options.wait, moved).await;
        let events = chosen(&self.events.borrow());
        let index = event_index(&events).to_string();
        Ok(Reply::json(&events, call.pretty).with_header("x-consul-index", &index))
    }

    pub(super) fn catalog_datacenters(&self, call: &Call<'_>) -> Handled {
        Ok(Reply::json(&[self.datacenter()], call.pretty))
    }

    pub(super) fn connect_disabled(&self) -> Handled {
        Err(Reply::internal("Connect must be enabled in order to use this endpoint"))
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

fn event_index(events: &[Event]) -> u64 {
    let Some(id) = events.last().and_then(|e| uuid::Uuid::try_parse(&e.id).ok()) else { return 1 };
    let (high, low) = id.as_u64_pair();
    high ^ low
}

fn coordinate() -> Value {
    json!({"Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.00001})
}
