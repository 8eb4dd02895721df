//! The tables of the plugins: Kong's words for what is wrong, its defaults, and what is refused by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::{Format, PluginConfig, Support, load};

fn file(plugin: &str) -> String {
    format!("_format_version: \"3.0\"\nplugins: [{{name: {plugin}}}]")
}

#[test]
fn faults() {
    for (plugin, path, message) in [
        (
            "acl, config: {}",
            "plugins[0].@entity[0]",
            "at least one of these fields must be non-empty: 'config.allow', 'config.deny'",
        ),
        (
            "acl, config: {allow: [a], deny: [b]}",
            "plugins[0].@entity[0]",
            "only one of these fields must be non-empty: 'config.allow', 'config.deny'",
        ),
        (
            "ip-restriction",
            "plugins[0].@entity[0]",
            "at least one of these fields must be non-empty: 'config.allow', 'config.deny'",
        ),
        (
            "ip-restriction, config: {allow: [10.0.0.0/40]}",
            "plugins[0].config.allow[0]",
            "invalid ip or cidr range: '10.0.0.0/40'",
        ),
        (
            "hmac-auth, config: {algorithms: [hmac-md5]}",
            "plugins[0].config.algorithms[0]",
            "expected one of: hmac-sha1, hmac-sha256, hmac-sha384, hmac-sha512",
        ),
        (
            "hmac-auth, config: {clock_skew: 0}",
            "plugins[0].config.clock_skew",
            "value must be greater than 0",
        ),
        (
            "request-size-limiting, config: {size_unit: miles}",
            "plugins[0].config.size_unit",
            "expected one of: megabytes, kilobytes, bytes",
        ),
        ("proxy-cache", "plugins[0].config.strategy", "required field missing"),
        ("proxy-cache, config: {strategy: redis}", "plugins[0].config.redis.host", "required field missing"),
        (
            "proxy-cache, config: {strategy: memory, request_method: [TRACE]}",
            "plugins[0].config.request_method[0]",
            "expected one of: HEAD, GET, POST, PATCH, PUT",
        ),
        (
            "proxy-cache, config: {strategy: memory, response_code: []}",
            "plugins[0].config.response_code",
            "length must be at least 1",
        ),
        (
            "proxy-cache, config: {strategy: memory, response_code: [99]}",
            "plugins[0].config.response_code[0]",
            "value should be between 100 and 900",
        ),
        ("response-ratelimiting", "plugins[0].config.limits", "required field missing"),
        (
            "response-ratelimiting, config: {limits: {}}",
            "plugins[0].config.limits",
            "length must be at least 1",
        ),
        (
            "response-ratelimiting, config: {limits: {video: {}}}",
            "plugins[0].config.limits.video",
            "at least one of these fields must be non-empty: 'second', 'minute', 'hour', 'day', 'month', 'year'",
        ),
        (
            "response-ratelimiting, config: {limits: {video: {second: 20, hour: 10}}}",
            "plugins[0].config.limits.video",
            "The limit for hour(10.0) cannot be lower than the limit for second(20.0)",
        ),
        (
            "response-ratelimiting, config: {limits: {a: {day: 1}}, policy: redis}",
            "plugins[0].config.redis.host",
            "required field missing",
        ),
        (
            "response-ratelimiting, config: {limits: {a b: {day: 1}}}",
            "plugins[0].config.limits.a b",
            "must be usable in a header's name",
        ),
        (
            "request-transformer, config: {add: {headers: [x]}}",
            "plugins[0].config.add.headers[0]",
            "invalid value: x",
        ),
        (
            "request-transformer, config: {add: {headers: ['x y:1']}}",
            "plugins[0].config.add.headers[0]",
            "'x y' is not a valid header",
        ),
        (
            "request-transformer, config: {rename: {headers: ['a:b c']}}",
            "plugins[0].config.rename.headers[0]",
            "'b c' is not a valid header",
        ),
        (
            "request-transformer, config: {http_method: get}",
            "plugins[0].config.http_method",
            "invalid value: get",
        ),
        (
            "request-transformer, config: {add: {headers: ['x:$(os.getenv(\"A\"))']}}",
            "plugins[0].config.add.headers[0]",
            "cannot evaluate the template expression 'os.getenv(\"A\")': 'os' is not supported; there are headers, query_params, \
             uri_captures and their string methods sub, lower, upper",
        ),
        (
            "request-transformer, config: {replace: {uri: '/$(headers.x:rep(2))'}}",
            "plugins[0].config.replace.uri",
            "cannot evaluate the template expression 'headers.x:rep(2)': the method ':rep()' is not supported; there are sub, lower, upper",
        ),
        (
            "response-transformer, config: {add: {json_types: [integer]}}",
            "plugins[0].config.add.json_types[0]",
            "expected one of: boolean, number, string",
        ),
        (
            "response-transformer, config: {add: {json: ['a:1'], json_types: [number, string]}}",
            "plugins[0].config.add.json_types",
            "more types than values in 'json'",
        ),
        ("bot-detection, config: {deny: ['(']}", "plugins[0].config.deny[0]", "not a valid regex: ( ("),
        (
            "request-termination, config: {echo: true, message: x}",
            "plugins[0].config",
            "echo cannot be used with message or body",
        ),
        (
            "rate-limiting, config: {minute: 1, sync_rate: 1}",
            "plugins[0].config",
            "sync_rate can only be used with the redis policy",
        ),
        (
            "rate-limiting, config: {minute: 1, on_redis_failure: open}",
            "plugins[0].config.on_redis_failure",
            "only with policy redis",
        ),
        (
            "rate-limiting, config: {minute: 1, limit_by: header}",
            "plugins[0].config.header_name",
            "required field missing",
        ),
        (
            "rate-limiting, config: {minute: 1, limit_by: path}",
            "plugins[0].config.path",
            "required field missing",
        ),
        ("acl, consumer: a, config: {allow: [a]}", "plugins[0].consumer", "value must be null"),
    ] {
        let text = format!("{}\nconsumers: [{{username: a}}]", file(plugin));
        let faults = load(&text, Format::Yaml).expect_err(plugin);
        let found: Vec<(String, &str)> =
            faults.list().iter().map(|f| (f.path_text(), f.message.as_str())).collect();
        assert!(
            found.iter().any(|(at, said)| at == path && said.starts_with(message)),
            "{plugin}\nexpected {path}: {message}\nfound {found:?}"
        );
    }
}

/// What a plugin's configuration is when the file says only what it must.
#[test]
fn defaults() {
    for (plugin, expected) in [
        ("basic-auth", r#"{"hide_credentials":false,"anonymous":null,"realm":"service"}"#),
        (
            "hmac-auth",
            r#"{"hide_credentials":false,"clock_skew":300.0,"anonymous":null,"validate_request_body":false,"enforce_headers":[],
                "algorithms":["hmac-sha1","hmac-sha256","hmac-sha384","hmac-sha512"],"realm":null}"#,
        ),
        (
            "acl, config: {allow: [a]}",
            r#"{"allow":["a"],"deny":null,"hide_groups_header":false,"always_use_authenticated_groups":false}"#,
        ),
        (
            "ip-restriction, config: {deny: [::1]}",
            r#"{"allow":null,"deny":["::1"],"status":null,"message":null}"#,
        ),
        ("bot-detection", r#"{"allow":[],"deny":[]}"#),
        (
            "request-size-limiting",
            r#"{"allowed_payload_size":128,"size_unit":"megabytes","require_content_length":false}"#,
        ),
        (
            "proxy-cache, config: {strategy: memory}",
            r#"{"response_code":[200,301,404],"request_method":["GET","HEAD"],"content_type":["text/plain","application/json"],
                "cache_ttl":300,"strategy":"memory","cache_control":false,"ignore_uri_case":false,"storage_ttl":null,
                "memory":{"dictionary_name":"kong_db_cache"},"vary_query_params":null,"vary_headers":null,
                "response_headers":{"age":true,"X-Cache-Status":true,"X-Cache-Key":true}}"#,
        ),
        (
            "response-ratelimiting, config: {limits: {v: {minute: 3}}}",
            r#"{"header_name":"x-kong-limit","limit_by":"consumer","policy":"local","fault_tolerant":true,
                "redis":{"host":null,"port":6379,"timeout":2000,"username":null,"password":null,"database":0,"ssl":false,"ssl_verify":false,
                "server_name":null},"block_on_first_violation":false,"hide_client_headers":false,
                "limits":{"v":{"second":null,"minute":3.0,"hour":null,"day":null,"month":null,"year":null}}}"#,
        ),
        (
            "request-transformer",
            r#"{"http_method":null,"remove":{"body":[],"headers":[],"querystring":[]},"rename":{"body":[],"headers":[],"querystring":[]},
                "replace":{"body":[],"headers":[],"querystring":[],"uri":null},"add":{"body":[],"headers":[],"querystring":[]},
                "append":{"body":[],"headers":[],"querystring":[]}}"#,
        ),
        (
            "response-transformer",
            r#"{"remove":{"json":[],"headers":[]},"rename":{"json":[],"headers":[]},"replace":{"json":[],"json_types":[],"headers":[]},
                "add":{"json":[],"json_types":[],"headers":[]},"append":{"json":[],"json_types":[],"headers":[]}}"#,
        ),
    ] {
        let loaded = load(&file(plugin), Format::Yaml).unwrap_or_else(|faults| panic!("{plugin}: {faults}"));
        let config = serde_json::to_value(&loaded.config.plugins[0].config).unwrap();
        assert_eq!(config, serde_json::from_str::<serde_json::Value>(expected).unwrap(), "{plugin}");
        let dump = loaded.config.to_document().unwrap().to_string();
        let again = load(&dump, Format::Json).unwrap_or_else(|faults| panic!("{plugin}: {faults}"));
        assert_eq!(again.config.plugins, loaded.config.plugins, "{plugin} reloads");
    }
}

#[test]
fn priorities_are_kongs() {
    for (plugin, priority) in [
        ("correlation-id", 100_001),
        ("bot-detection", 2500),
        ("cors", 2000),
        ("jwt", 1450),
        ("key-auth", 1250),
        ("basic-auth", 1100),
        ("hmac-auth", 1030),
        ("ip-restriction, config: {deny: [::1]}", 990),
        ("request-size-limiting", 951),
        ("acl, config: {deny: [a]}", 950),
        ("rate-limiting, config: {day: 1}", 910),
        ("oas-validation, config: {api_spec: 'openapi: 3.0.0\npaths: {}'}", 850),
        ("response-ratelimiting, config: {limits: {a: {day: 1}}}", 900),
        ("request-transformer", 801),
        ("response-transformer", 800),
        ("proxy-cache, config: {strategy: memory}", 100),
        ("request-termination", 2),
    ] {
        let config = load(&file(plugin), Format::Yaml).unwrap().config;
        assert_eq!(config.plugins[0].config.priority(), priority, "{plugin}");
    }
}

#[test]
fn extensions_and_fields_without_effect_are_reported() {
    let text = "_format_version: \"3.0\"
plugins:
- {name: proxy-cache, config: {strategy: redis, redis: {host: r}, memory: {dictionary_name: d}}}
- {name: cors, config: {preflight_any_method: true}}
- {name: acl, config: {allow: [a], always_use_authenticated_groups: true}}
- name: rate-limiting
  config: {minute: 5, policy: redis, redis: {host: r}, window_type: sliding, on_redis_failure: local, local_share: 0.25}";
    let report = load(text, Format::Yaml).unwrap().report;
    for (field, support) in [
        ("plugins[proxy-cache].config.strategy", Support::Different),
        ("plugins[proxy-cache].config.memory.dictionary_name", Support::Ignored),
        ("plugins[cors].config.preflight_any_method", Support::Different),
        ("plugins[acl].config.always_use_authenticated_groups", Support::Ignored),
        ("plugins[rate-limiting].config.window_type", Support::Different),
        ("plugins[rate-limiting].config.on_redis_failure", Support::Different),
        ("plugins[rate-limiting].config.local_share", Support::Different),
        ("plugins[rate-limiting].config.minute", Support::Supported),
    ] {
        let found = report.fields.iter().find(|found| found.field == field);
        assert_eq!(found.map(|found| found.support), Some(support), "{field}");
    }
}

#[test]
fn preflights_without_a_route_are_no_longer_warned_of_when_they_are_answered() {
    let text = |flag: bool| {
        format!(
            "_format_version: \"3.0\"\nroutes: [{{paths: [/], methods: [GET]}}]\nplugins: [{{name: cors, config: {{preflight_any_method: {flag}}}}}]"
        )
    };
    let warnings = |flag| load(&text(flag), Format::Yaml).unwrap().warnings.len();
    assert_eq!((warnings(false), warnings(true)), (1, 0));
}

#[test]
fn old_redis_fields_of_response_ratelimiting_map_too() {
    let text = file(
        "response-ratelimiting, config: {limits: {a: {day: 1}}, policy: redis, redis_host: r, redis_database: 2}",
    );
    let config = load(&text, Format::Yaml).unwrap().config;
    let PluginConfig::ResponseRateLimiting(config) = &config.plugins[0].config else {
        panic!("other plugin")
    };
    assert_eq!((config.redis.host.as_deref(), config.redis.database), (Some("r"), 2));
}

#[test]
fn values_that_mean_something_else_here_are_reported() {
    let text = "_format_version: \"3.0\"
upstreams:
- {name: u, tags: [team-a, 'plinth.breaker:volume=5', 'plinth.sticky-cookie:place']}
services:
- {name: s, host: u, protocol: tcp, routes: [{name: r, protocols: [tcp], snis: [a.test], destinations: [{port: 1}]}]}
plugins:
- {name: correlation-id, config: {generator: tracker}}
- {name: http-log, config: {http_endpoint: 'http://h', queue: {concurrency_limit: -1}}}
- {name: oas-validation, config: {api_spec: '{\"openapi\": \"3.0.0\", \"paths\": {}}'}}
- {name: session, config: {remember: true}}";
    let loaded = load(text, Format::Yaml).unwrap_or_else(|faults| panic!("{faults}"));
    let report = loaded.report;
    for (field, support, why) in [
        ("upstreams[].tags", Support::Different, "a circuit breaker for each target"),
        ("upstreams[].tags", Support::Different, "a cookie keeps clients at their target"),
        ("services[].protocol", Support::Ignored, "proxies HTTP and gRPC only"),
        ("services[].routes[].protocols", Support::Ignored, "the route is not served"),
        ("services[].routes[].destinations", Support::Ignored, "tcp and udp routes are not proxied"),
        ("plugins[correlation-id].config.generator", Support::Different, "the client's address and port"),
        ("plugins[http-log].config.queue.concurrency_limit", Support::Different, "sixteen batches"),
        ("plugins[oas-validation].config.api_spec", Support::Different, "Enterprise"),
        ("plugins[session].config.remember", Support::Supported, ""),
    ] {
        let found = report
            .fields
            .iter()
            .any(|one| one.field == field && one.support == support && one.why.contains(why));
        assert!(found, "{field}: {why} in {report:#?}");
    }
    // a stream's route is named, so that nobody waits for it to answer
    let said = loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(
        said.contains(
            "routes[0].protocols: this gateway proxies HTTP and gRPC only; the route is not served"
        ),
        "{said}"
    );
    assert!(!said.contains("plinth."), "who writes such a tag knows: {said}");
}

#[test]
fn a_document_that_cannot_be_checked_against_is_a_fault() {
    let fault = |config: &str| {
        load(&file(&format!("oas-validation, config: {config}")), Format::Yaml).unwrap_err().to_string()
    };
    let told = fault("{api_spec: 'openapi: 3.0.0'}");
    assert!(told.contains("in 'api_spec': 'paths' is missing"), "{told}");
    let told = fault("{api_spec: '{\"openapi\": \"3.0.0\", \"paths\": {}}', validate_response_body: true}");
    assert!(told.contains("in 'validate_response_body': answers are not validated here"), "{told}");
    assert!(fault("{}").contains("in 'api_spec': required field missing"));
}
