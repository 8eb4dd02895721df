//! Upstreams, targets and their health checks.

use super::core::{CREATED, ID, TAGS, UPDATED};
use super::{Entity, IdFrom, rules};
use crate::format;
use crate::schema::Check::{Between, MinLen, OneOf, With};
use crate::schema::Literal::{Int, Ints, Str};
use crate::schema::{
    COUNT_255, Check, Field, TEXT, YES, array, boolean, children, foreign, integer, map, number, record,
    string,
};

const HASH_INPUTS: &[Check] =
    &[OneOf(&["none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"])];
const KINDS: &[Check] = &[OneOf(&["tcp", "http", "https", "grpc", "grpcs"])];
const STATUS: Field = integer("").check(&[Between(100.0, 999.0)]);
const SECONDS: &[Check] = &[Between(0.0, 65_535.0)];
const PROBE_HEADER: Field = array("", &TEXT).check(&[MinLen(1)]);

const ACTIVE: &[Field] = &[
    string("type").or(Str("http")).check(KINDS),
    number("timeout").or(Int(1)).required().check(SECONDS),
    integer("concurrency").or(Int(10)).required().check(&[Between(1.0, 2_147_483_648.0)]),
    string("http_path").or(Str("/")).required().check(&[With(format::service_path)]),
    string("https_sni").check(&[With(format::sni)]),
    boolean("https_verify_certificate").or(YES).required(),
    map("headers", &PROBE_HEADER),
    record(
        "healthy",
        &[
            number("interval").or(Int(0)).required().check(SECONDS),
            integer("successes").or(Int(0)).required().check(COUNT_255),
            array("http_statuses", &STATUS).or(Ints(&[200, 302])).required(),
        ],
    ),
    record(
        "unhealthy",
        &[
            number("interval").or(Int(0)).required().check(SECONDS),
            array("http_statuses", &STATUS).or(Ints(&[429, 404, 500, 501, 502, 503, 504, 505])).required(),
            integer("tcp_failures").or(Int(0)).required().check(COUNT_255),
            integer("timeouts").or(Int(0)).required().check(COUNT_255),
            integer("http_failures").or(Int(0)).required().check(COUNT_255),
        ],
    ),
];

const PASSIVE_HEALTHY: &[i64] =
    &[200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];

const PASSIVE: &[Field] = &[
    string("type").or(Str("http")).check(KINDS),
    record(
        "healthy",
        &[
            integer("successes").or(Int(0)).required().check(COUNT_255),
            array("http_statuses", &STATUS).or(Ints(PASSIVE_HEALTHY)).required(),
        ],
    ),
    record(
        "unhealthy",
        &[
            array("http_statuses", &STATUS).or(Ints(&[429, 500, 503])).required(),
            integer("tcp_failures").or(Int(0)).required().check(COUNT_255),
            integer("timeouts").or(Int(0)).required().check(COUNT_255),
            integer("http_failures").or(Int(0)).required().check(COUNT_255),
        ],
    ),
];

const HEALTHCHECKS: &[Field] = &[
    number("threshold").or(Int(0)).required().check(&[Between(0.0, 100.0)]),
    record("active", ACTIVE),
    record("passive", PASSIVE),
];

pub(super) const UPSTREAM: Entity = Entity {
    collection: "upstreams",
    key: Some("name"),
    unique: &["name"],
    id_from: IdFrom::Key { per_workspace: true },
    prepare: Some(rules::prepare_upstream),
    rules: Some(rules::upstream),
    fields: &[
        ID,
        string("name").required().check(&[With(format::upstream_name)]),
        string("algorithm").or(Str("round-robin")).required().check(&[OneOf(&[
            "consistent-hashing",
            "least-connections",
            "round-robin",
            "latency",
        ])]),
        integer("slots")
            .or(Int(10_000))
            .required()
            .check(&[Between(10.0, 65_536.0)])
            .different("shares are exact without a slot table"),
        string("hash_on").or(Str("none")).required().check(HASH_INPUTS),
        string("hash_fallback").or(Str("none")).required().check(HASH_INPUTS),
        string("hash_on_header").check(&[With(format::header_name)]),
        string("hash_fallback_header").check(&[With(format::header_name)]),
        string("hash_on_cookie").check(&[With(format::cookie_name)]),
        string("hash_on_cookie_path").or(Str("/")).check(&[With(format::service_path)]),
        string("hash_on_query_arg"),
        string("hash_fallback_query_arg"),
        string("hash_on_uri_capture"),
        string("hash_fallback_uri_capture"),
        string("host_header").check(&[With(format::host_with_port)]),
        boolean("use_srv_name").or(crate::schema::NO).ignored("the target's name is sent as Host"),
        foreign("client_certificate", "certificates"),
        record("healthchecks", HEALTHCHECKS),
        TAGS,
        children("targets", "upstream"),
        CREATED,
        UPDATED,
    ],
};

pub(super) const TARGET: Entity = Entity {
    collection: "targets",
    key: Some("target"),
    unique: &[],
    id_from: IdFrom::Cache(&["upstream", "target"]),
    prepare: Some(rules::prepare_target),
    rules: None,
    fields: &[
        ID,
        foreign("upstream", "upstreams").required(),
        string("target").required().check(&[With(format::target)]),
        integer("weight").or(Int(100)).check(&[Between(0.0, 65_535.0)]),
        TAGS,
        CREATED,
        UPDATED,
    ],
};
