//! A changed document loaded after another one gives the same as loaded alone, and what did not change stays where it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use plinth_kong::model::PluginConfig;
use plinth_kong::{Config, Format, Reloader, Secrets, load, load_with};
use proptest::prelude::*;
use serde_json::{Value, json};

fn reloader() -> Reloader {
    Reloader::new(Secrets::required(|_| None))
}

/// Block style, as people and decK write it; `inline` lists stand on one line.
fn yaml(value: &Value, indent: usize, inline: bool, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) => {
            for (at, (key, value)) in members.iter().enumerate() {
                if at > 0 {
                    out.push_str(&pad);
                }
                out.push_str(key);
                out.push(':');
                member(value, indent, inline, out);
            }
        }
        other => out.push_str(&format!("{other}\n")),
    }
}

fn member(value: &Value, indent: usize, inline: bool, out: &mut String) {
    match value {
        Value::Array(list) if !list.is_empty() && list[0].is_object() && !inline => {
            out.push('\n');
            for entry in list {
                out.push_str(&" ".repeat(indent));
                out.push_str("- ");
                yaml(entry, indent + 2, inline, out);
                out.push_str("# a comment\n\n");
            }
        }
        Value::Object(members) if !members.is_empty() && !inline => {
            out.push('\n');
            out.push_str(&" ".repeat(indent + 2));
            yaml(value, indent + 2, inline, out);
        }
        other => out.push_str(&format!(" {other}\n")),
    }
}

fn text(document: &Value) -> String {
    let mut out = String::new();
    yaml(document, 0, false, &mut out);
    out
}

fn route() -> impl Strategy<Value = Value> {
    ("[a-e]", "/[a-c]{1,3}", any::<bool>(), prop::option::of(Just(json!([{"name": "cors", "config": {"max_age": 5}}])))).prop_map(
        |(name, path, strip, plugins)| {
            let mut route = json!({"name": format!("r-{name}{path}").replace('/', "_"), "paths": [path], "strip_path": strip});
            if let Some(plugins) = plugins {
                route["plugins"] = plugins;
            }
            route
        },
    )
}

/// Entities that refer to each other, nested and flat, valid or not.
fn document() -> impl Strategy<Value = Value> {
    let service =
        ("[a-d]", prop::collection::vec(route(), 0..3), any::<bool>()).prop_map(|(name, routes, id)| {
            let mut service = json!({"name": name, "host": "h.example", "routes": routes});
            if id {
                service["id"] =
                    json!(format!("00000000-0000-4000-8000-00000000000{:x}", name.as_bytes()[0] % 16));
            }
            service
        });
    let flat = (route(), prop::option::of("[a-f]")).prop_map(|(mut route, service)| {
        route["service"] = json!(service);
        route
    });
    let nameless = "/[x-z]".prop_map(|path| json!({"paths": [path]}));
    let consumer = ("[a-c]", 0..3_u32).prop_map(|(name, keys)| {
        let keys: Vec<Value> = (0..keys).map(|n| json!({"key": format!("{name}{n}")})).collect();
        json!({"username": name, "keyauth_credentials": keys, "acls": [{"group": "g"}]})
    });
    let upstream = ("[u-w]{1,2}", prop::collection::btree_map("[a-c]:[1-3]", 1..4_u32, 0..3), 10..13_u32)
        .prop_map(|(name, targets, slots)| {
            let target = |(target, weight): (&String, &u32)| json!({"target": target, "weight": weight});
            let targets: Vec<Value> = targets.iter().map(target).collect();
            json!({"name": name, "slots": slots, "targets": targets})
        });
    (
        prop::collection::vec(service, 0..4),
        prop::collection::vec(prop_oneof![flat, nameless], 0..4),
        prop::collection::vec(consumer, 0..3),
        prop::collection::vec(upstream, 0..3),
    )
        .prop_map(|(services, routes, consumers, upstreams)| {
            json!({"_format_version": "3.0", "services": services, "routes": routes, "consumers": consumers,
                "upstreams": upstreams, "plugins": [{"name": "rate-limiting", "config": {"minute": 5}}]})
        })
}

fn outcome(result: Result<plinth_kong::Loaded, plinth_kong::Faults>) -> Result<Config, String> {
    result.map(|loaded| loaded.config).map_err(|faults| faults.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn a_reload_is_as_a_load(documents in prop::collection::vec(document(), 1..5), json in any::<bool>()) {
        let mut reloader = reloader();
        for document in &documents {
            let text = if json { document.to_string() } else { text(document) };
            let format = if json { Format::Json } else { Format::Yaml };
            prop_assert_eq!(outcome(reloader.load(&text, format)), outcome(load(&text, format)), "{}", text);
        }
    }

    /// Small accidents anywhere in a text that comes apart by its lines.
    #[test]
    fn a_damaged_text_is_read_as_a_whole(document in document(), at in any::<prop::sample::Index>(), what in prop::sample::select(vec![
        "\"", "'", "\n", "- ", "routes:\n", "  ", "#", ":", "|", "&a ", "*a", "{", "]", "\t", "services:\n", "---\n", "x: >\n",
    ])) {
        let mut damaged = text(&document);
        damaged.insert_str(at.index(damaged.len()), what);
        let mut reloader = reloader();
        for text in [&text(&document), &damaged, &text(&document), &damaged] {
            prop_assert_eq!(outcome(reloader.load(text, Format::Yaml)), outcome(load(text, Format::Yaml)), "{}", text);
        }
    }
}

/// One place of a text changed, again and again: mostly one entity in itself.
#[test]
fn a_change_within_one_entity_is_as_a_load() {
    let changes: &[(&str, &str)] = &[
        ("[/a]", "[/a2]"),
        ("host: one.example", "host: other.example"),
        ("    - /b\n", "    - /b\n    - /b2\n"),
        ("    - /b\n", ""),
        ("  - name: b\n    paths:\n    - /b\n", ""),
        ("    - /b\n", "    - /b\n    tags: [x]\n"),
        ("    - /b\n", "    - /b\n  tags: [x]\n"),
        ("    - /b\n", "    - /b\n  - name: b2\n    paths: [/b2]\n"),
        ("    - /b\n", "    - /b\n    plugins: [{name: cors}]\n"),
        ("    - /b\n", "    - /b\n    methods: [GET]\n"),
        ("    - /b\n", "    - /b\n    methods: [GET\n"),
        ("  host: two.example\n", "  host: two.example\n  routes: []\n"),
        ("  host: two.example\n", "  host: two.example\n  path: |\n"),
        ("  host: two.example\n", "  host: two.example\nconsumers:\n- username: x\n"),
        ("  # nothing nested\n", "  port: 81\n"),
        ("  # nothing nested\n", ""),
        ("name: two", "name: three"),
        ("name: c", "name: a"),
        ("name: c", "name: d"),
        ("service: two", "service: one"),
        ("paths: [/c]", "paths: c"),
        ("paths: [/c]", "paths: [/c]\n    bad: true"),
        ("paths: [/c]", "paths: [/ü]"),
        ("target: b:2", "target: b:3"),
        ("name: up", "name: up2"),
        ("name: up", "name: up\n  algorithm: least-connections"),
        ("name: up", "name: up\n  client_certificate: {id: 6ba7b810-9dad-41d1-80b4-00c04fd430c8}"),
        ("weight: 5", "weight: 6"),
        ("weight: 5", "weight: 70000"),
        ("weight: 5", "upstream: up"),
        ("group: g", "group: h"),
        ("tags: [of-acl]", "tags: [other]"),
        ("secret: one", "secret: two"),
        ("username: hmac", "username: other"),
        ("client_secret: cs", "client_secret: other"),
        ("client_id: ci", "client_id: other"),
        ("upstreams:\n", "services:\nupstreams:\n"),
        ("3.0", "2.1"),
        ("plugins: [{name: cors}]", "plugins: [{name: bot-detection}]"),
    ];
    for (from, to) in changes {
        let mut reloader = reloader();
        reloader.load(FILE, Format::Yaml).unwrap();
        assert!(FILE.contains(from), "{from}");
        for text in [FILE.replacen(from, to, 1), FILE.to_owned(), FILE.replacen(from, to, 1)] {
            let (again, alone) = (reloader.load(&text, Format::Yaml), load(&text, Format::Yaml));
            assert_eq!(outcome(again), outcome(alone), "{text}");
        }
    }
}

const FILE: &str = r#"_format_version: "3.0"
services:
- name: one
  host: one.example
  routes:
  - name: a
    paths: [/a]
  - name: b
    paths:
    - /b
  plugins: [{name: cors}]
- name: two
  host: two.example
  # nothing nested
routes:
  - name: c
    service: two
    paths: [/c]
upstreams:
- name: up
  targets:
  - target: a:1
    weight: 5
  - target: b:2
consumers:
- username: one
  acls:
  - group: g
    tags: [of-acl]
  hmacauth_credentials:
  - username: hmac
    secret: one
  oauth2_credentials:
  - name: app
    client_id: ci
    client_secret: cs
    redirect_uris: ["https://a.example/"]
"#;

fn same(before: &Config, after: &Config, name: &str) -> bool {
    let find = |config: &Config| {
        config.routes.iter().find(|route| route.name.as_deref() == Some(name)).unwrap().clone()
    };
    Arc::ptr_eq(&find(before), &find(after))
}

#[test]
fn unchanged_entities_keep_their_place_in_memory() {
    let mut reloader = reloader();
    let before = reloader.load(FILE, Format::Yaml).unwrap().config;
    let after = reloader.load(&FILE.replace("[/a]", "[/a2]"), Format::Yaml).unwrap().config;
    assert!(!same(&before, &after, "a") && same(&before, &after, "b") && same(&before, &after, "c"));
    assert!(Arc::ptr_eq(&before.services[0], &after.services[0]), "a nested change leaves the outer entity");
    assert!(Arc::ptr_eq(&before.upstreams[0], &after.upstreams[0]));
    let moved = reloader.load(&FILE.replace("target: b:2", "target: b:3"), Format::Yaml).unwrap().config;
    assert!(!Arc::ptr_eq(&before.upstreams[0], &moved.upstreams[0]));
    assert_eq!(moved.upstreams[0].targets[1].target, "b:3");
}

#[test]
fn what_was_found_by_name_follows_the_name() {
    let mut reloader = reloader();
    reloader.load(FILE, Format::Yaml).unwrap();
    let id = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let other = FILE.replace("- name: two\n", &format!("- name: two\n  id: {id}\n"));
    let after = reloader.load(&other, Format::Yaml).unwrap().config;
    let c = after.routes.iter().find(|route| route.name.as_deref() == Some("c")).unwrap();
    assert_eq!(c.service.unwrap().to_string(), id);
    let gone = FILE.replace("name: two", "name: three");
    let faults = reloader.load(&gone, Format::Yaml).unwrap_err().to_string();
    assert!(faults.contains("invalid reference 'service: two' (no such entry in 'services')"), "{faults}");
    assert_eq!(reloader.load(FILE, Format::Yaml).unwrap().config, load(FILE, Format::Yaml).unwrap().config);
}

#[test]
fn values_from_the_environment_are_used_and_never_shown() {
    let text = r#"
_format_version: "3.0"
vaults:
- {name: env, prefix: app, config: {prefix: APP_}}
certificates:
- cert: "{vault://app/tls/cert}"
  key: "{vault://env/app-tls/key}"
consumers:
- username: "{vault://env/who}"
"#;
    let pem = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
    let value = json!({"cert": pem("CERTIFICATE"), "key": pem("PRIVATE KEY")}).to_string();
    let secrets = Secrets::required(move |name| (name == "APP_TLS").then(|| value.clone()));
    let loaded = load_with(text, Format::Yaml, &secrets).unwrap();
    assert!(loaded.config.certificates[0].key.starts_with("-----BEGIN PRIVATE KEY"));
    let shown = loaded.config.to_document().unwrap().to_string();
    assert!(shown.contains("{vault://env/app-tls/key}") && !shown.contains("AAAA"), "{shown}");
    let again = load_with(&shown, Format::Json, &secrets).unwrap();
    assert_eq!(again.config, loaded.config);
    let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["consumers[0].username: not a field for references, as in Kong: the text is used as it stands"]
    );
    let missing = load_with(text, Format::Yaml, &Secrets::required(|_| None)).unwrap_err().to_string();
    assert!(missing.contains("APP_TLS is not set"), "{missing}");
    assert!(load(text, Format::Yaml).is_ok(), "checking a file elsewhere needs no secrets");
}

#[test]
fn plugins_take_their_secrets_from_the_environment() {
    let text = r#"
_format_version: "3.0"
plugins:
- name: rate-limiting
  config:
    minute: 5
    policy: redis
    redis: {host: "{vault://env/redis-host}", username: "{vault://env/redis-user}", password: "{vault://env/redis-password}"}
- name: http-log
  config: {http_endpoint: "{vault://env/log-endpoint}", headers: {X-Api-Key: "{vault://env/log-key}"}}
"#;
    let secrets = || {
        Secrets::required(|name| {
            let value = match name {
                "REDIS_HOST" => "redis.test",
                "REDIS_USER" => "gateway",
                "REDIS_PASSWORD" => "s3cret",
                "LOG_ENDPOINT" => "http://logs.test/in",
                "LOG_KEY" => "k3y",
                _ => return None,
            };
            Some(value.to_owned())
        })
    };
    let loaded = load_with(text, Format::Yaml, &secrets()).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let PluginConfig::RateLimiting(limits) = &loaded.config.plugins[0].config else {
        panic!("another plugin")
    };
    assert_eq!(limits.redis.password.as_deref(), Some("s3cret"));
    let shown = loaded.config.to_document().unwrap().to_string();
    for value in ["redis.test", "s3cret", "http://logs.test/in", "k3y"] {
        assert!(!shown.contains(value), "{value} is in {shown}");
    }
    assert_eq!(load_with(&shown, Format::Json, &secrets()).unwrap().config, loaded.config);
    let missing = load_with(text, Format::Yaml, &Secrets::required(|_| None)).unwrap_err().to_string();
    assert!(missing.contains("REDIS_PASSWORD") && missing.contains("LOG_KEY"), "{missing}");
}
