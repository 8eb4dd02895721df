//! file-log and prometheus.

use super::PluginSchema;
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::With;
use crate::schema::{NO, any, boolean, string};

const LUA: &str = "custom_fields_by_lua is Lua code, which this gateway cannot run";

pub(super) const FILE_LOG: PluginSchema = PluginSchema {
    name: "file-log",
    per_consumer: true,
    prepare: None,
    rules: Some(no_lua),
    build: |value| serde_json::from_value(value).map(PluginConfig::FileLog),
    fields: &[
        string("path").required().check(&[With(format::file_name)]),
        boolean("reopen").or(NO).required(),
        any("custom_fields_by_lua"),
    ],
};

fn no_lua(config: &Map, scope: &mut Scope<'_, '_>) {
    let empty = match config.get("custom_fields_by_lua") {
        None | Some(Node::Null) => true,
        Some(Node::Map(map)) => map.is_empty(),
        Some(Node::Seq(list)) => list.is_empty(),
        Some(_) => false,
    };
    if !empty {
        scope.fault("custom_fields_by_lua", LUA);
    }
}

pub(super) const PROMETHEUS: PluginSchema = PluginSchema {
    name: "prometheus",
    per_consumer: false,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::Prometheus),
    fields: &[
        boolean("per_consumer").or(NO),
        boolean("status_code_metrics").or(NO),
        boolean("latency_metrics").or(NO),
        boolean("bandwidth_metrics").or(NO),
        boolean("upstream_health_metrics").or(NO),
        boolean("ai_metrics").or(NO).ignored("there are no AI plugins"),
    ],
};
