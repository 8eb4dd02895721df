//! cors, request-termination, correlation-id, ip-restriction, bot-detection, request-size-limiting, proxy-cache.

use super::PluginSchema;
use super::limits::{REDIS, require_redis_host};
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, Greater, MinLen, OneOf, With};
use crate::schema::Literal::{Int, Ints, Str, Strs};
use crate::schema::{Check, Field, NO, TEXT, YES, array, boolean, integer, number, record, string};

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
        boolean("preflight_any_method").different(
            "an extension of this gateway, which Kong refuses: preflights of routes without the method OPTIONS are answered",
        ),
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
    rules: Some(correlation_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::CorrelationId),
    fields: &[
        string("header_name").or(Str("Kong-Request-ID")).required().check(HEADERS),
        string("generator").or(Str("uuid#counter")).required().check(GENERATORS),
        boolean("echo_downstream").or(NO).required(),
    ],
};

fn correlation_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    if config.get("generator").and_then(Node::as_str) == Some("tracker") {
        scope.different(
            "generator",
            "the client's address and port and a count of this process, where Kong has the server's address and the numbers of nginx's connection",
        );
    }
}

const RANGE: Field = TEXT.check(&[With(format::ip_or_cidr)]);

pub(super) const IP_RESTRICTION: PluginSchema = PluginSchema {
    name: "ip-restriction",
    per_consumer: true,
    prepare: None,
    rules: Some(allow_or_deny),
    build: |value| serde_json::from_value(value).map(PluginConfig::IpRestriction),
    fields: &[
        array("allow", &RANGE),
        array("deny", &RANGE),
        integer("status").check(&[Between(100.0, 599.0)]),
        string("message"),
    ],
};

fn allow_or_deny(config: &Map, scope: &mut Scope<'_, '_>) {
    let empty = |field: &str| config.get(field).and_then(Node::as_seq).is_none_or(<[Node]>::is_empty);
    if empty("allow") && empty("deny") {
        scope.entity("at least one of these fields must be non-empty: 'config.allow', 'config.deny'");
    }
}

const REGEX: Field = TEXT.check(&[With(format::regex)]);

pub(super) const BOT_DETECTION: PluginSchema = PluginSchema {
    name: "bot-detection",
    per_consumer: false,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::BotDetection),
    fields: &[array("allow", &REGEX).or(Strs(&[])), array("deny", &REGEX).or(Strs(&[]))],
};

pub(super) const REQUEST_SIZE_LIMITING: PluginSchema = PluginSchema {
    name: "request-size-limiting",
    per_consumer: true,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::RequestSizeLimiting),
    fields: &[
        integer("allowed_payload_size").or(Int(128)).required().check(&[Check::Between(0.0, 9e15)]),
        string("size_unit").or(Str("megabytes")).required().check(&[OneOf(&[
            "megabytes",
            "kilobytes",
            "bytes",
        ])]),
        boolean("require_content_length").or(NO).required(),
    ],
};

const STATUS: Field = integer("").check(&[Between(100.0, 900.0)]);
const CACHED_METHOD: Field = TEXT.check(&[OneOf(&["HEAD", "GET", "POST", "PATCH", "PUT"])]);
const SECONDS: &[Check] = &[Greater(0.0)];

const MEMORY: &[Field] = &[string("dictionary_name")
    .or(Str("kong_db_cache"))
    .required()
    .ignored("entries are kept in this gateway's own memory, 128 MiB at most")];
const ABOUT_CACHE: &[Field] =
    &[boolean("age").or(YES), boolean("X-Cache-Status").or(YES), boolean("X-Cache-Key").or(YES)];

pub(super) const PROXY_CACHE: PluginSchema = PluginSchema {
    name: "proxy-cache",
    per_consumer: true,
    prepare: None,
    rules: Some(cache_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::ProxyCache),
    fields: &[
        array("response_code", &STATUS).or(Ints(&[200, 301, 404])).required().check(&[MinLen(1)]),
        array("request_method", &CACHED_METHOD).or(Strs(&["GET", "HEAD"])).required(),
        array("content_type", &TEXT).or(Strs(&["text/plain", "application/json"])).required(),
        integer("cache_ttl").or(Int(300)).required().check(SECONDS),
        string("strategy").required().check(&[OneOf(&["memory", "redis"])]),
        boolean("cache_control").or(NO).required(),
        boolean("ignore_uri_case").or(NO),
        integer("storage_ttl").check(SECONDS),
        record("memory", MEMORY),
        array("vary_query_params", &TEXT),
        array("vary_headers", &TEXT),
        record("response_headers", ABOUT_CACHE),
        record("redis", REDIS),
    ],
};

fn cache_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    if config.get("strategy").and_then(Node::as_str) == Some("redis") {
        scope.different("strategy", "an extension of this gateway: Kong knows 'memory' only");
        require_redis_host("config.strategy", config, scope);
    }
}
