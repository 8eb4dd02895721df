//! opentelemetry and zipkin.

use super::PluginSchema;
use super::queue::{self, QUEUE, SPAN_QUEUE, TIMEOUT};
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, OneOf, OneOfInts, With};
use crate::schema::Literal::{Int, Number, Str};
use crate::schema::{Check, Field, TEXT, YES, array, boolean, integer, map, number, record, string};

const READ: Field = TEXT.check(&[OneOf(&["w3c", "b3", "jaeger", "ot", "aws", "datadog", "gcp"])]);
const WRITTEN: &[&str] = &["w3c", "b3", "b3-single", "jaeger", "ot", "aws", "datadog", "gcp"];
const WRITE: Field =
    TEXT.check(&[OneOf(&["preserve", "w3c", "b3", "b3-single", "jaeger", "ot", "aws", "datadog", "gcp"])]);
const HEADER_TYPE: &[Check] =
    &[OneOf(&["preserve", "ignore", "b3", "b3-single", "w3c", "jaeger", "ot", "aws", "gcp", "datadog"])];
const NAME: Field = TEXT.check(&[With(format::header_name)]);

const fn propagation(default: &'static str) -> [Field; 4] {
    [
        array("extract", &READ),
        array("clear", &NAME),
        array("inject", &WRITE),
        string("default_format").or(Str(default)).required().check(&[OneOf(WRITTEN)]),
    ]
}
const W3C: &[Field] = &propagation("w3c");
const B3: &[Field] = &propagation("b3");

const HEADER_VALUE: Field = string("");
const TIMEOUT_1: Field = integer("connect_timeout").required().check(TIMEOUT);
const LOGS: &str =
    "one record for each request, with the log entry; Kong sends the lines of its error log instead";

pub(super) const OPENTELEMETRY: PluginSchema = PluginSchema {
    name: "opentelemetry",
    per_consumer: true,
    prepare: Some(old_opentelemetry),
    rules: Some(opentelemetry_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::Opentelemetry),
    fields: &[
        string("traces_endpoint").check(&[With(queue::url)]),
        string("logs_endpoint").check(&[With(queue::url)]).different(LOGS),
        map("headers", &HEADER_VALUE).check(&[With(header_names)]),
        map("resource_attributes", &HEADER_VALUE),
        record("queue", SPAN_QUEUE),
        TIMEOUT_1.or(Int(1000)),
        integer("send_timeout").or(Int(5000)).required().check(TIMEOUT),
        integer("read_timeout").or(Int(5000)).required().check(TIMEOUT),
        string("http_response_header_for_traceid").check(&[With(format::header_name)]),
        string("header_type").or(Str("preserve")).check(HEADER_TYPE),
        number("sampling_rate").check(&[Between(0.0, 1.0)]),
        record("propagation", W3C),
    ],
};

fn header_names(node: &Node) -> Result<(), String> {
    let names = node.as_map().into_iter().flat_map(Map::keys);
    names.into_iter().try_for_each(|name| format::header_name(&Node::Str(name.clone())))
}

fn old_opentelemetry(config: &mut Map, scope: &mut Scope<'_, '_>) {
    if let Some(value) = config.shift_remove("endpoint")
        && !value.is_null()
    {
        scope.supported("endpoint");
        match config.get("traces_endpoint") {
            Some(given) if !given.is_null() && *given != value => scope.fault(
                "endpoint",
                &format!(
                    "both deprecated and new field are used but their values mismatch: endpoint = {} vs traces_endpoint = {}",
                    value.display(),
                    given.display()
                ),
            ),
            _ => {
                config.insert("traces_endpoint".to_owned(), value);
            }
        }
    }
    queue::old_queue_field(config, scope, "batch_span_count", "max_batch_size", 200.0);
    queue::old_queue_field(config, scope, "batch_flush_delay", "max_coalescing_delay", 3.0);
}

fn opentelemetry_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let missing = |field: &str| config.get(field).is_none_or(Node::is_null);
    if missing("traces_endpoint") && missing("logs_endpoint") {
        scope.entity(
            "at least one of these fields must be non-empty: 'config.traces_endpoint', 'config.logs_endpoint'",
        );
    }
    queue::many_at_once(config, scope);
}

const PROTECTED: &[&str] = &[
    "error",
    "http.method",
    "http.path",
    "http.status_code",
    "kong.balancer.state",
    "kong.balancer.try",
    "kong.consumer",
    "kong.credential",
    "kong.node.id",
    "kong.route",
    "kong.service",
    "lc",
    "peer.hostname",
];

fn tag_name(node: &Node) -> Result<(), String> {
    match node.as_str() {
        Some(name) if PROTECTED.contains(&name) => {
            Err(format!("must not be one of: {}", PROTECTED.join(", ")))
        }
        _ => Ok(()),
    }
}

const TAG: Field =
    record("", &[string("name").required().check(&[With(tag_name)]), string("value").required()]);

fn no_repetition(node: &Node) -> Result<(), String> {
    let names =
        node.as_seq().unwrap_or_default().iter().filter_map(|tag| tag.as_map()?.get("name")?.as_str());
    let names: Vec<&str> = names.collect();
    match names.iter().enumerate().find(|(at, name)| names.iter().take(*at).any(|before| before == *name)) {
        Some((_, name)) => Err(format!("repeated tags are not allowed: {name}")),
        None => Ok(()),
    }
}

pub(super) const ZIPKIN: PluginSchema = PluginSchema {
    name: "zipkin",
    per_consumer: true,
    prepare: None,
    rules: Some(queue::many_at_once),
    build: |value| serde_json::from_value(value).map(PluginConfig::Zipkin),
    fields: &[
        string("local_service_name").or(Str("kong")).required(),
        string("http_endpoint").check(&[With(queue::url)]),
        number("sample_ratio").or(Number(0.001)).check(&[Between(0.0, 1.0)]),
        string("default_service_name"),
        boolean("include_credential").or(YES).required(),
        integer("traceid_byte_count").or(Int(16)).required().check(&[OneOfInts(&[8, 16])]),
        string("header_type").or(Str("preserve")).required().check(HEADER_TYPE),
        string("default_header_type").or(Str("b3")).required().check(&[OneOf(WRITTEN)]),
        string("tags_header").or(Str("Zipkin-Tags")).required().check(&[With(format::header_name)]),
        array("static_tags", &TAG).check(&[With(no_repetition)]),
        string("http_span_name").or(Str("method")).required().check(&[OneOf(&["method", "method_path"])]),
        TIMEOUT_1.or(Int(2000)),
        integer("send_timeout").or(Int(5000)).required().check(TIMEOUT),
        integer("read_timeout").or(Int(5000)).required().check(TIMEOUT),
        string("http_response_header_for_traceid").check(&[With(format::header_name)]),
        string("phase_duration_flavor")
            .or(Str("annotations"))
            .required()
            .check(&[OneOf(&["annotations", "tags"])]),
        record("queue", QUEUE),
        record("propagation", B3),
    ],
};
