//! file-log, http-log, tcp-log, udp-log, syslog and prometheus.

use super::PluginSchema;
use super::queue::{self, QUEUE, no_lua};
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, OneOf, With};
use crate::schema::Literal::{Int, Str};
use crate::schema::{Check, Field, NO, PORT, any, boolean, integer, map, number, record, string};

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

/// A time in milliseconds that may be a fraction.
const MILLISECONDS: &[Check] = &[Between(0.0, 2_147_483_646.0)];
const HEADER_VALUE: Field = string("");

pub(super) const HTTP_LOG: PluginSchema = PluginSchema {
    name: "http-log",
    per_consumer: true,
    prepare: Some(old_http_log),
    rules: Some(http_log_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::HttpLog),
    fields: &[
        string("http_endpoint").required().check(&[With(queue::url)]),
        string("method").or(Str("POST")).required().check(&[OneOf(&["POST", "PUT", "PATCH"])]),
        string("content_type")
            .or(Str("application/json"))
            .required()
            .check(&[OneOf(&["application/json", "application/json; charset=utf-8"])]),
        number("timeout").or(Int(10_000)).required().check(MILLISECONDS),
        number("keepalive").or(Int(60_000)).required().check(MILLISECONDS),
        integer("retry_count").ignored("it has no effect in Kong either: see queue.max_retry_time"),
        map("headers", &HEADER_VALUE).check(&[With(header_names)]),
        record("queue", QUEUE),
        any("custom_fields_by_lua"),
    ],
};

fn old_http_log(config: &mut Map, scope: &mut Scope<'_, '_>) {
    queue::old_queue_field(config, scope, "queue_size", "max_batch_size", 1.0);
    queue::old_queue_field(config, scope, "flush_timeout", "max_coalescing_delay", 2.0);
}

fn header_names(node: &Node) -> Result<(), String> {
    for name in node.as_map().into_iter().flat_map(Map::keys) {
        format::header_name(&Node::Str(name.clone()))?;
        for own in ["Host", "Content-Length", "Content-Type"] {
            if name.eq_ignore_ascii_case(own) {
                return Err(format!("cannot contain '{own}' header"));
            }
        }
    }
    Ok(())
}

fn http_log_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    no_lua(config, scope);
    queue::many_at_once(config, scope);
    let endpoint = config.get("http_endpoint").and_then(Node::as_str).unwrap_or_default();
    let authority = endpoint.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    let headers = config.get("headers").and_then(Node::as_map);
    let authorization =
        headers.is_some_and(|headers| headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")));
    if authorization && authority.is_some_and(|authority| authority.contains('@')) {
        scope
            .own("specifying both an 'Authorization' header and user info in 'http_endpoint' is not allowed");
    }
}

pub(super) const TCP_LOG: PluginSchema = PluginSchema {
    name: "tcp-log",
    per_consumer: true,
    prepare: None,
    rules: Some(no_lua),
    build: |value| serde_json::from_value(value).map(PluginConfig::TcpLog),
    fields: &[
        string("host").required().check(&[With(format::host)]),
        integer("port").required().check(PORT),
        number("timeout").or(Int(10_000)).required().check(MILLISECONDS),
        number("keepalive").or(Int(60_000)).required().check(MILLISECONDS),
        boolean("tls").or(NO).required(),
        string("tls_sni").check(&[With(format::host)]),
        any("custom_fields_by_lua"),
    ],
};

pub(super) const UDP_LOG: PluginSchema = PluginSchema {
    name: "udp-log",
    per_consumer: true,
    prepare: None,
    rules: Some(no_lua),
    build: |value| serde_json::from_value(value).map(PluginConfig::UdpLog),
    fields: &[
        string("host").required().check(&[With(format::host)]),
        integer("port").required().check(PORT),
        number("timeout").or(Int(10_000)).required().check(MILLISECONDS),
        any("custom_fields_by_lua"),
    ],
};

const SEVERITIES: &[Check] =
    &[OneOf(&["debug", "info", "notice", "warning", "err", "crit", "alert", "emerg"])];
const FACILITIES: &[Check] = &[OneOf(&[
    "auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
])];

const fn severity(name: &'static str) -> Field {
    string(name).or(Str("info")).required().check(SEVERITIES)
}

pub(super) const SYSLOG: PluginSchema = PluginSchema {
    name: "syslog",
    per_consumer: true,
    prepare: None,
    rules: Some(no_lua),
    build: |value| serde_json::from_value(value).map(PluginConfig::Syslog),
    fields: &[
        severity("log_level"),
        severity("successful_severity"),
        severity("client_errors_severity"),
        severity("server_errors_severity"),
        string("facility").or(Str("user")).required().check(FACILITIES),
        any("custom_fields_by_lua"),
    ],
};

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
        boolean("wasm_metrics").or(NO).ignored("there are no Wasm filters"),
    ],
};
