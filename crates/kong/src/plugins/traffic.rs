//! rate-limiting, cors, request-termination, correlation-id.

use super::PluginSchema;
use crate::format;
use crate::load::Scope;
use crate::model::{Period, PluginConfig};
use crate::node::{Map, Node};
use crate::schema::Check::{Between, Greater, OneOf, With};
use crate::schema::Literal::{Int, Str};
use crate::schema::{Check, Field, NO, PORT, TEXT, YES, array, boolean, integer, number, record, string};

const POSITIVE: &[Check] = &[Greater(0.0)];
const TIMEOUT: &[Check] = &[Between(0.0, 2_147_483_646.0)];

const REDIS: &[Field] = &[
    string("host").check(&[With(format::host)]),
    integer("port").or(Int(6379)).check(PORT),
    integer("timeout")
        .or(Int(2000))
        .check(TIMEOUT)
        .different("an upper bound: a request waits at most 50 ms for Redis"),
    string("username"),
    string("password").may_be_empty(),
    integer("database").or(Int(0)),
    boolean("ssl").or(NO),
    boolean("ssl_verify").or(NO).ignored("there is no TLS to Redis yet"),
    string("server_name").check(&[With(format::sni)]).ignored("there is no TLS to Redis yet"),
];

/// Old flat names and the member of `redis` each stands for.
const LEGACY: &[(&str, &str)] = &[
    ("redis_host", "host"),
    ("redis_port", "port"),
    ("redis_password", "password"),
    ("redis_username", "username"),
    ("redis_ssl", "ssl"),
    ("redis_ssl_verify", "ssl_verify"),
    ("redis_server_name", "server_name"),
    ("redis_timeout", "timeout"),
    ("redis_database", "database"),
];

pub(super) const RATE_LIMITING: PluginSchema = PluginSchema {
    name: "rate-limiting",
    per_consumer: true,
    prepare: Some(legacy_redis),
    rules: Some(rate_limiting_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::RateLimiting),
    fields: &[
        number("second").check(POSITIVE),
        number("minute").check(POSITIVE),
        number("hour").check(POSITIVE),
        number("day").check(POSITIVE),
        number("month").check(POSITIVE),
        number("year").check(POSITIVE),
        string("limit_by").or(Str("consumer")).required().check(&[OneOf(&[
            "consumer",
            "credential",
            "ip",
            "service",
            "header",
            "path",
        ])]),
        string("header_name").check(&[With(format::header_name)]),
        string("path").check(&[With(format::service_path)]),
        string("policy").or(Str("local")).required().check(&[OneOf(&["local", "redis"])]),
        boolean("fault_tolerant").or(YES).required(),
        boolean("hide_client_headers").or(NO).required(),
        integer("error_code").or(Int(429)).required().check(&[Between(100.0, 599.0)]),
        string("error_message").or(Str("API rate limit exceeded")).required(),
        number("sync_rate").or(Int(-1)).different("every request is counted at once"),
        record("redis", REDIS),
    ],
};

/// `redis_host: x` means `redis: {host: x}`; both given must agree.
fn legacy_redis(config: &mut Map, scope: &mut Scope<'_, '_>) {
    for (old, new) in LEGACY {
        let Some(value) = config.shift_remove(*old) else { continue };
        scope.supported(old);
        if value.is_null() {
            continue;
        }
        let redis = config.entry("redis".to_owned()).or_insert_with(|| Node::Map(Map::new()));
        if redis.is_null() {
            *redis = Node::Map(Map::new());
        }
        // Something other than a record is reported by the table.
        let Node::Map(redis) = redis else { continue };
        match redis.get(*new) {
            Some(given) if !given.is_null() && *given != value => {
                scope.fault(
                    old,
                    &format!(
                        "both deprecated and new field are used but their values mismatch: {old} = {} vs redis.{new} = {}",
                        shown(new, &value),
                        shown(new, given)
                    ),
                );
            }
            _ => {
                redis.insert((*new).to_owned(), value);
            }
        }
    }
}

/// Passwords stay out of messages.
fn shown(field: &str, value: &Node) -> String {
    if field == "password" { "<hidden>".to_owned() } else { value.display() }
}

fn rate_limiting_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let limit = |period: Period| config.get(period.as_str()).and_then(Node::as_f64);
    let given: Vec<(Period, f64)> =
        Period::ALL.into_iter().filter_map(|period| limit(period).map(|limit| (period, limit))).collect();
    if given.is_empty() {
        let names: Vec<String> =
            Period::ALL.iter().map(|period| format!("'config.{}'", period.as_str())).collect();
        scope.entity(&format!("at least one of these fields must be non-empty: {}", names.join(", ")));
    }
    for pair in given.windows(2) {
        if let [(short, few), (long, many)] = pair
            && many < few
        {
            scope.own(&format!(
                "The limit for {}({many:.1}) cannot be lower than the limit for {}({few:.1})",
                long.as_str(),
                short.as_str()
            ));
        }
    }
    let is = |field: &str, value: &str| config.get(field).and_then(Node::as_str) == Some(value);
    let missing = |field: &str| config.get(field).is_none_or(Node::is_null);
    let redis_host = config.get("redis").and_then(Node::as_map).and_then(|redis| redis.get("host"));
    if is("policy", "redis") && redis_host.is_none_or(Node::is_null) {
        scope.entity("failed conditional validation given value of field 'config.policy'");
        scope.fault_in("redis", "host", "required field missing");
    }
    let ssl = config.get("redis").and_then(Node::as_map).and_then(|redis| redis.get("ssl"));
    if is("policy", "redis") && ssl == Some(&Node::Bool(true)) {
        scope.fault_in("redis", "ssl", "TLS to Redis is not supported yet");
    }
    for (by, field) in [("header", "header_name"), ("path", "path")] {
        if is("limit_by", by) && missing(field) {
            scope.entity("failed conditional validation given value of field 'config.limit_by'");
            scope.fault(field, "required field missing");
        }
    }
    if config.get("sync_rate").and_then(Node::as_f64).is_some_and(|rate| rate != -1.0 && rate < 0.02) {
        scope.own(
            "Config option 'sync_rate' must not be a value between 0 and 0.02, or below zero other than -1",
        );
    }
}

const METHODS: &[&str] = &["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
const METHOD: Field = TEXT.check(&[OneOf(METHODS)]);
const ORIGIN: Field = TEXT.check(&[With(format::origin)]);

pub(super) const CORS: PluginSchema = PluginSchema {
    name: "cors",
    per_consumer: false,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::Cors),
    fields: &[
        array("origins", &ORIGIN),
        array("headers", &TEXT),
        array("exposed_headers", &TEXT),
        array("methods", &METHOD).or(crate::schema::Literal::Strs(&[
            "GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT",
        ])),
        number("max_age"),
        boolean("credentials").or(NO).required(),
        boolean("private_network").or(NO).required(),
        boolean("preflight_continue").or(NO).required(),
    ],
};

pub(super) const REQUEST_TERMINATION: PluginSchema = PluginSchema {
    name: "request-termination",
    per_consumer: true,
    prepare: None,
    rules: Some(termination_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::RequestTermination),
    fields: &[
        integer("status_code").or(Int(503)).required().check(&[Between(100.0, 599.0)]),
        string("message"),
        boolean("echo").or(NO).required(),
        string("content_type"),
        string("body"),
        string("trigger").check(&[With(format::header_name)]),
    ],
};

fn termination_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let given = |field: &str| config.get(field).is_some_and(|value| !value.is_null());
    if given("message") && (given("content_type") || given("body")) {
        scope.own("message cannot be used with content_type or body");
    }
    if given("content_type") && !given("body") {
        scope.own("content_type requires a body");
    }
    let echo = config.get("echo").and_then(Node::as_bool).unwrap_or(false);
    if echo {
        scope.fault("echo", "not supported yet");
    }
    if echo && (given("message") || given("body")) {
        scope.own("echo cannot be used with message or body");
    }
}

const GENERATORS: &[Check] = &[OneOf(&["uuid", "uuid#counter", "tracker"])];
const HEADERS: &[Check] = &[With(format::header_name)];

pub(super) const CORRELATION_ID: PluginSchema = PluginSchema {
    name: "correlation-id",
    per_consumer: true,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::CorrelationId),
    fields: &[
        string("header_name").or(Str("Kong-Request-ID")).required().check(HEADERS),
        string("generator").or(Str("uuid#counter")).required().check(GENERATORS),
        boolean("echo_downstream").or(NO).required(),
    ],
};
