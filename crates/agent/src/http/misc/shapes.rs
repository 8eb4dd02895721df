//! What the small answers look like, field by field in Consul's order.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use crate::state::coordinates::DIMENSIONS;

/// A member of the gossip pool; this agent is the only one.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member<'a> {
    pub name: String,
    pub addr: IpAddr,
    pub port: u16,
    pub tags: BTreeMap<&'a str, String>,
    pub status: u8,
    pub protocol_min: u8,
    pub protocol_max: u8,
    pub protocol_cur: u8,
    pub delegate_min: u8,
    pub delegate_max: u8,
    pub delegate_cur: u8,
}

/// `agent/self`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct About<'a> {
    pub config: Config<'a>,
    pub debug_config: Value,
    pub coord: Coordinate,
    pub member: Member<'a>,
    pub stats: Value,
    pub meta: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config<'a> {
    pub datacenter: &'a str,
    pub node_name: &'a str,
    #[serde(rename = "NodeID")]
    pub node_id: &'a str,
    pub revision: &'a str,
    pub server: bool,
    pub version: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Coordinate {
    pub vec: Vec<f64>,
    pub error: f64,
    pub adjustment: f64,
    pub height: f64,
}

impl Default for Coordinate {
    /// The origin, of a node that is not measured.
    fn default() -> Coordinate {
        Coordinate { vec: vec![0.0; DIMENSIONS], error: 1.5, adjustment: 0.0, height: 0.00001 }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeCoordinate {
    pub node: String,
    pub segment: String,
    pub coord: Coordinate,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DatacenterCoordinates<'a> {
    pub datacenter: &'a str,
    #[serde(rename = "AreaID")]
    pub area_id: &'a str,
    pub coordinates: [NodeCoordinate; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metrics {
    pub timestamp: String,
    pub gauges: Vec<Gauge>,
    pub points: [u8; 0],
    pub counters: [u8; 0],
    pub samples: [u8; 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Gauge {
    pub name: &'static str,
    pub value: u64,
    pub labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RaftServers<'a> {
    pub servers: [RaftServer<'a>; 1],
    pub index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RaftServer<'a> {
    #[serde(rename = "ID")]
    pub id: &'a str,
    pub node: &'a str,
    pub address: String,
    pub leader: bool,
    pub protocol_version: &'a str,
    pub voter: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Autopilot {
    pub cleanup_dead_servers: bool,
    pub last_contact_threshold: String,
    pub max_trailing_logs: u64,
    pub min_quorum: u64,
    pub server_stabilization_time: String,
    pub redundancy_zone_tag: String,
    pub disable_upgrade_migration: bool,
    pub upgrade_version_tag: String,
    pub create_index: u64,
    pub modify_index: u64,
}

/// That of settings which nobody made.
pub const DEFAULT_AUTOPILOT_INDEX: u64 = 4;

impl Default for Autopilot {
    /// What a server has that nobody configured.
    fn default() -> Autopilot {
        Autopilot {
            cleanup_dead_servers: true,
            last_contact_threshold: "200ms".to_owned(),
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time: "10s".to_owned(),
            redundancy_zone_tag: String::new(),
            disable_upgrade_migration: false,
            upgrade_version_tag: String::new(),
            create_index: DEFAULT_AUTOPILOT_INDEX,
            modify_index: DEFAULT_AUTOPILOT_INDEX,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperatorHealth<'a> {
    pub healthy: bool,
    pub failure_tolerance: u8,
    pub servers: [ServerHealth<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServerHealth<'a> {
    #[serde(rename = "ID")]
    pub id: &'a str,
    pub name: &'a str,
    pub address: String,
    pub serf_status: &'a str,
    pub version: &'a str,
    pub leader: bool,
    pub last_contact: &'a str,
    pub last_term: u64,
    pub last_index: u64,
    pub healthy: bool,
    pub voter: bool,
    pub stable_since: &'a str,
}
