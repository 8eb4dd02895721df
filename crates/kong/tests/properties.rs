//! Nothing panics, and what was loaded loads again to the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::{Format, load};
use proptest::prelude::*;
use serde_json::{Value, json};

const SEED: &str = include_str!("data/seed.yml");

/// Any JSON, with field names of the real format so that the tables are reached.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("name".to_owned()),
        Just("id".to_owned()),
        Just("config".to_owned()),
        Just("paths".to_owned()),
        Just("routes".to_owned()),
        Just("plugins".to_owned()),
        Just("redis".to_owned()),
        Just("jwt".to_owned()),
        Just("cors".to_owned()),
        Just("rate-limiting".to_owned()),
        Just("url".to_owned()),
        Just("host".to_owned()),
        Just("target".to_owned()),
        Just("headers".to_owned()),
        Just("redis_host".to_owned()),
        "\\PC{0,12}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn collection() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "services",
        "routes",
        "upstreams",
        "targets",
        "consumers",
        "plugins",
        "certificates",
        "snis",
        "jwt_secrets",
        "keyauth_credentials",
        "acls",
        "vaults",
    ])
}

/// Small but valid files of many shapes.
fn valid() -> impl Strategy<Value = Value> {
    let route = ("/[a-z]{1,8}", any::<bool>(), prop::option::of("[a-z]{1,8}\\.example")).prop_map(|(path, strip, host)| {
        json!({"paths": [path], "strip_path": strip, "hosts": host.map(|host| vec![host])})
    });
    let service = ("[a-z]{1,12}", prop::collection::vec(route, 0..4), prop::option::of(1..60_000u32))
        .prop_map(|(host, routes, timeout)| {
            let mut service = json!({"host": host, "routes": routes});
            if let Some(timeout) = timeout {
                service["read_timeout"] = timeout.into();
            }
            service
        });
    let upstream = ("[a-z]{3,9}", prop::collection::btree_set("[a-z]{1,6}:[1-9][0-9]{1,3}", 0..3)).prop_map(
        |(name, targets)| {
            let targets: Vec<Value> = targets.into_iter().map(|target| json!({"target": target})).collect();
            json!({"name": name, "targets": targets})
        },
    );
    (prop::collection::vec(service, 0..5), prop::option::of(upstream), prop::option::of(1..100u32)).prop_map(
        |(services, upstream, minute)| {
            let mut file = json!({"_format_version": "3.0", "services": services});
            if let Some(upstream) = upstream {
                file["upstreams"] = json!([upstream]);
            }
            if let Some(minute) = minute {
                file["plugins"] =
                    json!([{"name": "rate-limiting", "config": {"minute": minute}}, {"name": "cors"}]);
                file["consumers"] =
                    json!([{"username": "u", "jwt_secrets": [{"key": "k"}], "acls": [{"group": "g"}]}]);
            }
            file
        },
    )
}

fn reloads_equal(text: &str, format: Format) {
    let first = load(text, format).unwrap_or_else(|faults| panic!("{faults}\n{text}")).config;
    let dump = first.to_document().unwrap().to_string();
    let mut second = load(&dump, Format::Json).unwrap_or_else(|faults| panic!("{faults}\n{dump}")).config;
    second.format_version.clone_from(&first.format_version);
    assert_eq!(first, second);
    let yaml = load(&dump, Format::Yaml).unwrap_or_else(|faults| panic!("{faults}\n{dump}")).config;
    assert_eq!(second.services, yaml.services);
}

#[test]
fn the_seed_reloads_equal() {
    reloads_equal(SEED, Format::Yaml);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        let _ = load(&text, Format::Yaml);
        let _ = load(&text, Format::Json);
    }

    #[test]
    fn any_yaml_like_text_is_survived(text in "[a-z:\\-\\[\\]{}&*<>|'\"#~ \n0-9.]{0,200}") {
        let _ = load(&format!("_format_version: \"3.0\"\n{text}"), Format::Yaml);
    }

    #[test]
    fn any_tree_is_survived(name in collection(), value in any_json()) {
        let mut file = json!({"_format_version": "3.0"});
        file[name] = json!([value]);
        let faulty = load(&file.to_string(), Format::Json);
        if let Err(faults) = faulty {
            prop_assert!(!faults.list().is_empty());
            prop_assert!(!faults.to_string().is_empty());
            let _ = faults.fields();
        }
    }

    #[test]
    fn valid_files_reload_equal(file in valid()) {
        let text = file.to_string();
        // Equal random names are faults, not this test's business.
        prop_assume!(load(&text, Format::Json).is_ok());
        reloads_equal(&text, Format::Json);
    }

    #[test]
    fn ids_are_the_same_at_every_load(file in valid()) {
        let text = file.to_string();
        prop_assume!(load(&text, Format::Json).is_ok());
        let ids = || load(&text, Format::Json).unwrap().config.routes.iter().map(|route| route.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(), ids());
    }
}
