//! Kong's words for what is wrong, one small file each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::{Format, load};

/// The printed tree of a faulty document (format 3.0 put in front).
fn fault(body: &str) -> String {
    let text = format!("_format_version: \"3.0\"\n{body}");
    load(&text, Format::Yaml).expect_err(body).to_string()
}

#[test]
fn the_tree_is_kongs() {
    let expected = "in 'services':\n  - in entry 1 of 'services':\n    in 'host': required field missing\n    in 'port': value should be between 0 and 65535";
    assert_eq!(fault("services: [{name: a, port: 70000}]"), expected);
}

#[test]
fn single_faults() {
    for (body, path, message) in [
        ("services: [{host: h, port: x}]", "services[0].port", "expected an integer"),
        (
            "services: [{host: h, protocol: smtp}]",
            "services[0].protocol",
            "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp",
        ),
        ("services: [{host: h, path: a}]", "services[0].path", "should start with: /"),
        ("services: [{host: h, path: /a//b}]", "services[0].path", "must not have empty segments"),
        ("services: [{host: h, colour: red}]", "services[0].colour", "unknown field"),
        ("services: [{host: h, name: ''}]", "services[0].name", "length must be at least 1"),
        ("services: [{host: h, enabled: null}]", "services[0].enabled", "required field missing"),
        ("services: [{host: h, tls_verify: true}]", "services[0].tls_verify", "value must be null"),
        ("servces: []", "servces", "unknown field"),
        (
            "routes: [{paths: [/a], service: x}]",
            "routes[0].service",
            "invalid reference 'service: x' (no such entry in 'services')",
        ),
        (
            "routes: [{paths: [a]}]",
            "routes[0].paths[0]",
            "should start with: / (fixed path) or ~/ (regex path)",
        ),
        (
            "routes: [{paths: ['/%7eu']}]",
            "routes[0].paths[0]",
            "non-normalized path, consider use '/~u' instead",
        ),
        (
            "routes: [{name: r}]",
            "routes[0].@entity[0]",
            "must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https'",
        ),
        ("routes: [{paths: [/a], methods: [get]}]", "routes[0].methods[0]", "invalid value: get"),
        (
            "routes: [{hosts: ['a.*.b']}]",
            "routes[0].hosts[0]",
            "invalid wildcard: must be placed at leftmost or rightmost label",
        ),
        (
            "services: [{host: h, name: a}, {host: h, name: a}]",
            "services[1].name",
            "uniqueness violation: 'services' entity with name set to 'a' already declared",
        ),
        (
            "services: [{host: h, name: a, routes: [{paths: [/a], service: a}]}]",
            "services[0].routes[0].service",
            "value must be null",
        ),
        (
            "consumers: [{tags: [x]}]",
            "consumers[0].@entity[0]",
            "at least one of these fields must be non-empty: 'custom_id', 'username'",
        ),
        (
            "plugins: [{name: nonsense}]",
            "plugins[0].name",
            "plugin 'nonsense' not enabled; add it to the 'plugins' configuration property",
        ),
        ("plugins: [{name: statsd}]", "plugins[0].name", "plugin 'statsd' is not supported yet"),
        (
            "plugins: [{name: pre-function, config: {access: [x]}}]",
            "plugins[0].name",
            "plugin 'pre-function' runs Lua code, which this gateway cannot run; remove it or replace it by another plugin",
        ),
        (
            "plugins: [{name: jwt, config: {claims_to_verify: [exp, sub]}}]",
            "plugins[0].config.claims_to_verify[1]",
            "expected one of: exp, nbf",
        ),
        (
            "plugins: [{name: rate-limiting, config: {minute: 0}}]",
            "plugins[0].config.minute",
            "value must be greater than 0",
        ),
        (
            "plugins: [{name: rate-limiting, config: {second: 20, hour: 10}}]",
            "plugins[0].config",
            "The limit for hour(10.0) cannot be lower than the limit for second(20.0)",
        ),
        (
            "plugins: [{name: rate-limiting, config: {minute: 1, policy: cluster}}]",
            "plugins[0].config.policy",
            "expected one of: local, redis",
        ),
        (
            "plugins: [{name: rate-limiting, config: {minute: 1, policy: redis}}]",
            "plugins[0].config.redis.host",
            "required field missing",
        ),
        (
            "plugins: [{name: rate-limiting, config: {minute: 1, redis_host: a, redis: {host: b}}}]",
            "plugins[0].config.redis_host",
            "both deprecated and new field are used but their values mismatch: redis_host = a vs redis.host = b",
        ),
        (
            "plugins: [{name: cors}, {name: cors}]",
            "plugins[1]",
            "uniqueness violation: 'plugins' entity with name set to 'cors' already declared (scope: global)",
        ),
        (
            "consumers: [{username: a, plugins: [{name: jwt}]}]",
            "consumers[0].plugins[0].consumer",
            "value must be null",
        ),
        (
            "plugins: [{name: file-log, config: {path: /a, custom_fields_by_lua: {a: 'return 1'}}}]",
            "plugins[0].config.custom_fields_by_lua",
            "custom_fields_by_lua is Lua code, which this gateway cannot run",
        ),
        (
            "upstreams: [{name: 10.0.0.1}]",
            "upstreams[0].name",
            "Invalid name ('10.0.0.1'); no ip addresses allowed",
        ),
        ("upstreams: [{name: u, hash_on: header}]", "upstreams[0].hash_on_header", "required field missing"),
        (
            "jwt_secrets: [{consumer: x, key: k, secret: s}]",
            "jwt_secrets[0].consumer",
            "invalid reference 'consumer: x' (no such entry in 'consumers')",
        ),
        (
            "consumers: [{username: a, jwt_secrets: [{key: k, algorithm: RS256}]}]",
            "consumers[0].jwt_secrets[0].rsa_public_key",
            "required field missing",
        ),
        ("services: [{host: '{vault://env/h}'}]", "services[0].host", "invalid value: {vault://env/h}"),
    ] {
        let text = format!("_format_version: \"3.0\"\n{body}");
        let faults = load(&text, Format::Yaml).expect_err(body);
        let found: Vec<(String, &str)> =
            faults.list().iter().map(|f| (f.path_text(), f.message.as_str())).collect();
        assert!(
            found.contains(&(path.to_owned(), message)),
            "{body}\nexpected {path}: {message}\nfound {found:?}"
        );
    }
}

#[test]
fn format_version_must_be_a_known_string() {
    for (head, message) in [
        ("_format_version: 3.0", "in '_format_version': expected a string"),
        ("_format_version: '4.0'", "in '_format_version': expected one of: 1.1, 2.1, 3.0"),
        ("services: []", "in '_format_version': required field missing"),
    ] {
        assert_eq!(load(head, Format::Yaml).unwrap_err().to_string(), message);
    }
}

#[test]
fn all_faults_at_once() {
    let text = fault(
        "services: [{name: a}, {host: h, port: -1}]\nroutes: [{service: b, paths: [x]}]\nplugins: [{name: x}]",
    );
    for part in [
        "in 'host': required",
        "in 'port': value should",
        "invalid reference 'service: b'",
        "should start with: /",
        "'x' not enabled",
    ] {
        assert!(text.contains(part), "{part} missing in\n{text}");
    }
}

#[test]
fn secrets_stay_out_of_messages() {
    let body = "consumers: [{username: a, keyauth_credentials: [{key: s3cret}, {key: s3cret}]}]";
    assert!(!fault(body).contains("s3cret"));
    let body = "plugins: [{name: rate-limiting, config: {minute: 1, redis_password: s3cret, redis: {password: other}}}]";
    let text = fault(body);
    assert!(!text.contains("s3cret") && !text.contains("other"), "{text}");
}

#[test]
fn syntax_faults_have_a_place() {
    assert!(load("a: [1,\nb: }", Format::Yaml).unwrap_err().to_string().contains("line"));
    assert!(
        load("{\"a\": 1, \"a\": 2}", Format::Json).unwrap_err().to_string().contains("duplicate key 'a'")
    );
}
