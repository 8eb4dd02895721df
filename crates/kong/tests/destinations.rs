//! Plugins that send entries elsewhere or give out tokens: old names, conditions between fields, what is refused and what is
//! reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::{Format, HeaderType, Inject, PluginConfig, Support, TraceFormat, load};

fn file(name: &str, config: &str) -> String {
    format!("_format_version: \"3.0\"\nplugins: [{{name: {name}, config: {config}}}]\n")
}

fn plugin(name: &str, config: &str) -> PluginConfig {
    let loaded =
        load(&file(name, config), Format::Yaml).unwrap_or_else(|faults| panic!("{name} {config}: {faults}"));
    loaded.config.plugins[0].config.clone()
}

#[test]
fn old_names_of_queue_fields_are_understood() {
    for (config, batch, delay) in [
        ("{http_endpoint: 'http://h/'}", 1, 1.0),
        ("{http_endpoint: 'http://h/', queue_size: 7, flush_timeout: 3, retry_count: 2}", 7, 3.0),
        ("{http_endpoint: 'http://h/', queue_size: 1, queue: {max_batch_size: 5}}", 5, 1.0),
        ("{http_endpoint: 'http://h/', queue: null}", 1, 1.0),
    ] {
        let PluginConfig::HttpLog(log) = plugin("http-log", config) else { panic!() };
        assert_eq!((log.queue.max_batch_size, log.queue.max_coalescing_delay), (batch, delay), "{config}");
    }
    let PluginConfig::Opentelemetry(spans) =
        plugin("opentelemetry", "{endpoint: 'https://h/v1/traces', batch_span_count: 50}")
    else {
        panic!()
    };
    assert_eq!(
        (spans.traces_endpoint.as_deref(), spans.queue.max_batch_size),
        (Some("https://h/v1/traces"), 50)
    );
    assert_eq!(spans.header_type, Some(HeaderType::Preserve));
}

#[test]
fn propagation_wins_over_the_old_header_types() {
    let effective = |config: &str| {
        let PluginConfig::Zipkin(zipkin) = plugin("zipkin", config) else { panic!() };
        zipkin.propagation.effective(zipkin.header_type, Some(zipkin.default_header_type))
    };
    let kept = effective("{}");
    assert_eq!(
        (kept.extract.len(), kept.inject, kept.default_format),
        (7, vec![Inject::Preserve], TraceFormat::B3)
    );
    let both = effective("{header_type: jaeger, default_header_type: w3c}");
    assert_eq!(both.inject, [Inject::Preserve, Inject::Format(TraceFormat::Jaeger)]);
    let ignored = effective("{header_type: ignore, default_header_type: w3c}");
    assert_eq!((ignored.extract.len(), ignored.inject), (0, vec![Inject::Format(TraceFormat::W3c)]));
    let own = effective("{header_type: ignore, propagation: {extract: [b3], inject: [b3-single]}}");
    assert_eq!(
        (own.extract, own.inject),
        (vec![TraceFormat::B3], vec![Inject::Format(TraceFormat::B3Single)])
    );
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (name, config, said) in [
        ("http-log", "{}", "in 'http_endpoint': required field missing"),
        ("http-log", "{http_endpoint: 'ftp://h'}", "unsupported scheme in url"),
        ("http-log", "{http_endpoint: 'http:///x'}", "missing host in url"),
        ("http-log", "{http_endpoint: 'http://h', headers: {Host: x}}", "cannot contain 'Host' header"),
        (
            "http-log",
            "{http_endpoint: 'http://u:p@h', headers: {authorization: x}}",
            "specifying both an 'Authorization' header and user info in 'http_endpoint' is not allowed",
        ),
        ("http-log", "{http_endpoint: 'http://h', custom_fields_by_lua: {a: return 1}}", "Lua code"),
        ("tcp-log", "{host: h}", "in 'port': required field missing"),
        ("udp-log", "{host: h, port: 1, keepalive: 1}", "unknown field"),
        ("syslog", "{facility: local9}", "expected one of: auth, authpriv"),
        ("opentelemetry", "{}", "at least one of these fields must be non-empty"),
        ("opentelemetry", "{endpoint: 'http://a', traces_endpoint: 'http://b'}", "values mismatch"),
        ("zipkin", "{traceid_byte_count: 4}", "expected one of: 8, 16"),
        ("zipkin", "{static_tags: [{name: lc, value: x}]}", "must not be one of"),
        (
            "zipkin",
            "{static_tags: [{name: a, value: x}, {name: a, value: y}]}",
            "repeated tags are not allowed: a",
        ),
        ("zipkin", "{queue: {concurrency_limit: 2}}", "expected one of: -1, 1"),
        ("oauth2", "{}", "at least one of these fields must be true"),
        (
            "oauth2",
            "{enable_client_credentials: true, mandatory_scope: true}",
            "in 'scopes': required field missing",
        ),
        ("oauth2", "{enable_client_credentials: true, storage: redis}", "in 'host': required field missing"),
        ("session", "{storage: kong}", "needs a database"),
        ("session", "{cookie_path: '/; Secure'}", "must not contain ';'"),
        ("jwks-auth", "{issuer: 'https://i'}", "in 'audience': required field missing"),
        ("grpc-web", "{}", "plugin 'grpc-web' is not supported"),
        ("pre-function", "{}", "runs Lua code"),
        ("my-plugin", "{}", "plugin 'my-plugin' not enabled"),
    ] {
        let faults =
            load(&file(name, config), Format::Yaml).expect_err(&format!("{name} {config}")).to_string();
        assert!(faults.contains(said), "{name} {config}: {faults}");
    }
}

/// Whatever Kong does not have is reported, so that nobody takes it for Kong's.
#[test]
fn extensions_are_reported_as_different() {
    for (name, config, field) in [
        ("oauth2", "{enable_client_credentials: true, storage: memory}", "storage"),
        ("oauth2", "{enable_client_credentials: true, enable_introspection: true}", "enable_introspection"),
        ("jwks-auth", "{issuer: 'https://i', audience: [a]}", "issuer"),
        ("opentelemetry", "{logs_endpoint: 'http://h'}", "logs_endpoint"),
    ] {
        let report = load(&file(name, config), Format::Yaml).unwrap().report;
        let wanted = format!("plugins[{name}].config.{field}");
        let found = report.fields.iter().find(|one| one.field == wanted);
        assert_eq!(found.map(|one| one.support), Some(Support::Different), "{wanted} in {report:?}");
    }
}
