//! oauth2. Kong needs a database for it and refuses it without one; here tokens live in memory or in Redis.

use super::PluginSchema;
use super::limits::{REDIS, require_redis_host};
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, OneOf, With};
use crate::schema::Literal::{Int, Str};
use crate::schema::{NO, TEXT, array, boolean, integer, record, string};

const EXTENSION: &str = "not in Kong";

pub(super) const OAUTH2: PluginSchema = PluginSchema {
    name: "oauth2",
    per_consumer: false,
    prepare: None,
    rules: Some(oauth2_rules),
    build: |value| serde_json::from_value(value).map(|config| PluginConfig::OAuth2(Box::new(config))),
    fields: &[
        array("scopes", &TEXT),
        boolean("mandatory_scope").or(NO).required(),
        string("provision_key").different("never made up: without one only client credentials are granted"),
        integer("token_expiration").or(Int(7200)).required().check(&[Between(0.0, 31_536_000.0)]),
        boolean("enable_authorization_code").or(NO).required(),
        boolean("enable_implicit_grant").or(NO).required(),
        boolean("enable_client_credentials").or(NO).required(),
        boolean("enable_password_grant").or(NO).required(),
        boolean("enable_introspection").or(NO).required().different(EXTENSION),
        boolean("hide_credentials").or(NO).required(),
        boolean("accept_http_if_already_terminated").or(NO).required(),
        string("anonymous"),
        boolean("global_credentials").or(NO).required(),
        string("auth_header_name").or(Str("authorization")).required().check(&[With(format::header_name)]),
        integer("refresh_token_ttl").or(Int(1_209_600)).required().check(&[Between(0.0, 100_000_000.0)]),
        boolean("reuse_refresh_token").or(NO).required(),
        string("pkce").or(Str("lax")).required().check(&[OneOf(&["none", "lax", "strict"])]),
        string("realm"),
        string("storage")
            .or(Str("memory"))
            .required()
            .check(&[OneOf(&["memory", "redis"])])
            .different(EXTENSION),
        record("redis", REDIS).different(EXTENSION),
    ],
};

const FLOWS: [&str; 4] = [
    "enable_authorization_code",
    "enable_implicit_grant",
    "enable_client_credentials",
    "enable_password_grant",
];

fn oauth2_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let on = |field: &str| config.get(field).and_then(Node::as_bool) == Some(true);
    let missing = |field: &str| config.get(field).is_none_or(Node::is_null);
    if !FLOWS.iter().any(|flow| on(flow)) {
        scope.own(&format!("at least one of these fields must be true: {}", FLOWS.join(", ")));
    }
    if on("mandatory_scope") && missing("scopes") {
        scope.entity("failed conditional validation given value of field 'config.mandatory_scope'");
        scope.fault("scopes", "required field missing");
    }
    if config.get("storage").and_then(Node::as_str) == Some("redis") {
        require_redis_host("config.storage", config, scope);
    }
}
