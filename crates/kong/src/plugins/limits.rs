//! rate-limiting and response-ratelimiting, and the Redis record that plugins share.

use super::PluginSchema;
use crate::format;
use crate::load::Scope;
use crate::model::{Period, PluginConfig};
use crate::node::{Map, Node};
use crate::schema::Check::{Between, Greater, MinLen, OneOf, With};
use crate::schema::Literal::{Int, Str};
use crate::schema::{Check, Field, NO, PORT, YES, boolean, integer, map, number, record, string};

const POSITIVE: &[Check] = &[Greater(0.0)];
const SECOND: Field = number("second").check(POSITIVE);
const MINUTE: Field = number("minute").check(POSITIVE);
const HOUR: Field = number("hour").check(POSITIVE);
const DAY: Field = number("day").check(POSITIVE);
const MONTH: Field = number("month").check(POSITIVE);
const YEAR: Field = number("year").check(POSITIVE);
const TIMEOUT: &[Check] = &[Between(0.0, 2_147_483_646.0)];

/// How to reach Redis; also of proxy-cache.
pub(super) const REDIS: &[Field] = &[
    string("host").check(&[With(format::host)]).referenceable(),
    integer("port").or(Int(6379)).check(PORT),
    integer("timeout")
        .or(Int(2000))
        .check(TIMEOUT)
        .different("an upper bound: limits and caches wait at most the gateway's redis_deadline for Redis, 50 ms by default"),
    string("username").referenceable(),
    string("password").may_be_empty().referenceable(),
    integer("database").or(Int(0)),
    boolean("ssl").or(NO),
    boolean("ssl_verify").or(NO),
    string("server_name").check(&[With(format::sni)]),
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

const EXTENSION: &str = "an extension of this gateway, which Kong refuses";

pub(super) const RATE_LIMITING: PluginSchema = PluginSchema {
    name: "rate-limiting",
    per_consumer: true,
    prepare: Some(legacy_redis),
    rules: Some(rate_limiting_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::RateLimiting),
    fields: &[
        SECOND,
        MINUTE,
        HOUR,
        DAY,
        MONTH,
        YEAR,
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
        number("sync_rate").or(Int(-1)),
        record("redis", REDIS),
        string("window_type").check(&[OneOf(&["fixed", "sliding"])]).different(EXTENSION),
        string("on_redis_failure").check(&[OneOf(&["open", "closed", "local"])]).different(EXTENSION),
        number("local_share").check(&[Between(0.0, 1.0)]).different(EXTENSION),
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
    let given =
        Period::ALL.iter().any(|period| config.get(period.as_str()).is_some_and(|limit| !limit.is_null()));
    if !given {
        let names: Vec<String> =
            Period::ALL.iter().map(|period| format!("'config.{}'", period.as_str())).collect();
        scope.entity(&format!("at least one of these fields must be non-empty: {}", names.join(", ")));
    }
    if let Some(message) = disorder(config) {
        scope.own(&message);
    }
    let is = |field: &str, value: &str| config.get(field).and_then(Node::as_str) == Some(value);
    let missing = |field: &str| config.get(field).is_none_or(Node::is_null);
    if is("policy", "redis") {
        require_redis_host("config.policy", config, scope);
    }
    for field in ["on_redis_failure", "local_share"] {
        if !is("policy", "redis") && !missing(field) {
            scope.fault(field, "only with policy redis");
        }
    }
    if !missing("local_share") && !is("on_redis_failure", "local") {
        scope.fault("local_share", "only with on_redis_failure local");
    }
    let rate = config.get("sync_rate").and_then(Node::as_f64).unwrap_or(-1.0);
    if rate != -1.0 && !is("policy", "redis") {
        scope.own("sync_rate can only be used with the redis policy");
    }
    if rate != -1.0 && is("window_type", "sliding") {
        scope.fault("window_type", "sliding windows are counted at once: not with sync_rate");
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

/// A longer window that allows less than a shorter one.
fn disorder(limits: &Map) -> Option<String> {
    let limit = |period: Period| Some((period, limits.get(period.as_str()).and_then(Node::as_f64)?));
    let given: Vec<(Period, f64)> = Period::ALL.into_iter().filter_map(limit).collect();
    given.windows(2).find_map(|pair| match pair {
        [(short, few), (long, many)] if many < few => Some(format!(
            "The limit for {}({many:.1}) cannot be lower than the limit for {}({few:.1})",
            long.as_str(),
            short.as_str()
        )),
        _ => None,
    })
}

/// The policy or strategy `given` needs `redis.host`.
pub(super) fn require_redis_host(given: &str, config: &Map, scope: &mut Scope<'_, '_>) {
    let host = config.get("redis").and_then(Node::as_map).and_then(|redis| redis.get("host"));
    if host.is_none_or(Node::is_null) {
        scope.entity(&format!("failed conditional validation given value of field '{given}'"));
        scope.fault_in("redis", "host", "required field missing");
    }
}

const LIMIT: Field = record("", &[SECOND, MINUTE, HOUR, DAY, MONTH, YEAR]);

pub(super) const RESPONSE_RATELIMITING: PluginSchema = PluginSchema {
    name: "response-ratelimiting",
    per_consumer: true,
    prepare: Some(legacy_redis),
    rules: Some(response_ratelimiting_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::ResponseRateLimiting),
    fields: &[
        string("header_name").or(Str("x-kong-limit")).required().check(&[With(format::header_name)]),
        string("limit_by").or(Str("consumer")).required().check(&[OneOf(&["consumer", "credential", "ip"])]),
        string("policy").or(Str("local")).required().check(&[OneOf(&["local", "redis"])]),
        boolean("fault_tolerant").or(YES).required(),
        record("redis", REDIS),
        boolean("block_on_first_violation").or(NO).required(),
        boolean("hide_client_headers").or(NO).required(),
        map("limits", &LIMIT).required().check(&[MinLen(1)]),
    ],
};

fn response_ratelimiting_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    for (name, limit) in config.get("limits").and_then(Node::as_map).into_iter().flatten() {
        let Some(limit) = limit.as_map() else { continue };
        if limit.values().all(Node::is_null) {
            let names: Vec<String> =
                Period::ALL.iter().map(|period| format!("'{}'", period.as_str())).collect();
            let message = format!("at least one of these fields must be non-empty: {}", names.join(", "));
            scope.fault_in("limits", name, &message);
        }
        if let Some(message) = disorder(limit) {
            scope.fault_in("limits", name, &message);
        }
        if http_token(name).is_err() {
            scope.fault_in("limits", name, "must be usable in a header's name");
        }
    }
    if config.get("policy").and_then(Node::as_str) == Some("redis") {
        require_redis_host("config.policy", config, scope);
    }
}

fn http_token(name: &str) -> Result<(), String> {
    format::header_name(&Node::Str(name.to_owned()))
}
