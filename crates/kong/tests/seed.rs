//! The file this gateway was first written for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::{Claim, Format, LimitBy, PluginConfig, Policy, Protocol, Support, load};

const SEED: &str = include_str!("data/seed.yml");

#[test]
fn loads_completely() {
    let loaded = load(SEED, Format::Yaml).unwrap();
    let config = &loaded.config;
    let users = &config.services[0];
    assert_eq!(
        (users.name.as_deref(), users.host.as_str(), users.port),
        (Some("user-service"), "user-service.service.consul", 8001)
    );
    assert_eq!((users.protocol, users.retries, users.connect_timeout), (Protocol::Http, 3, 5000));
    let route = &config.routes[0];
    assert_eq!(route.service, Some(users.id));
    assert_eq!(route.paths, ["/api/v1/users", "/api/v1/auth"]);
    assert!(!route.strip_path && route.preserve_host);
    assert_eq!(config.jwt_secrets[0].consumer, config.consumers[0].id);
    assert_eq!(config.plugins.len(), 5);
}

#[test]
fn old_redis_fields_become_the_redis_record() {
    let loaded = load(SEED, Format::Yaml).unwrap();
    let limits = loaded.config.plugins.iter().find_map(|plugin| match &plugin.config {
        PluginConfig::RateLimiting(limits) => Some(limits),
        _ => None,
    });
    let limits = limits.unwrap();
    assert_eq!((limits.policy, limits.limit_by), (Policy::Redis, LimitBy::Consumer));
    assert_eq!(
        (limits.redis.host.as_deref(), limits.redis.port, limits.redis.timeout),
        (Some("redis"), 6379, 2000)
    );
    assert_eq!(
        limits.limits().map(|(period, n)| (period.as_str(), n)).collect::<Vec<_>>(),
        [("minute", 100.0), ("hour", 1000.0), ("day", 10000.0)]
    );
}

#[test]
fn says_what_kong_would_refuse() {
    let loaded = load(SEED, Format::Yaml).unwrap();
    let texts: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(
        texts.iter().any(|text| text.starts_with("plugins[0].config.claims_to_verify: Kong refuses 'iat'")),
        "{texts:?}"
    );
    let PluginConfig::Jwt(jwt) = &loaded.config.plugins[0].config else { panic!("jwt first") };
    assert!(jwt.claims_to_verify.contains(&Claim::Exp) && jwt.claims_to_verify.contains(&Claim::Iat));
    let claims =
        loaded.report.fields.iter().find(|field| field.field == "plugins[jwt].config.claims_to_verify");
    let claims = claims.unwrap();
    assert_eq!((claims.support, claims.count), (Support::Different, 1));
    assert_eq!(claims.places, ["plugins[0].config.claims_to_verify"]);
}

#[test]
fn warns_that_preflights_find_no_route() {
    let loaded = load(SEED, Format::Yaml).unwrap();
    let preflight = loaded.warnings.iter().filter(|warning| warning.message.contains("OPTIONS")).count();
    assert_eq!(preflight, 2, "{:?}", loaded.warnings);
}

#[test]
fn reports_every_field_of_the_file() {
    let loaded = load(SEED, Format::Yaml).unwrap();
    let fields: Vec<&str> = loaded.report.fields.iter().map(|field| field.field.as_str()).collect();
    for field in [
        "_format_version",
        "services[].url",
        "services[].tags",
        "routes[].preserve_host",
        "plugins[rate-limiting].config.redis_host",
        "plugins[cors].config.exposed_headers",
        "plugins[prometheus].config.per_consumer",
        "consumers[].custom_id",
        "jwt_secrets[].rsa_public_key",
    ] {
        assert!(fields.contains(&field), "{field} missing in {fields:?}");
    }
}
