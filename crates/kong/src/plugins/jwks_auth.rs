//! jwks-auth: tokens of an identity provider, by its published keys. Not in Kong.

use super::PluginSchema;
use super::queue;
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::Map;
use crate::schema::Check::{Between, MinLen, OneOf, With};
use crate::schema::Literal::{Int, Str, Strs};
use crate::schema::{Field, NO, TEXT, YES, array, boolean, integer, set, string};

const HEADER: Field = TEXT.check(&[With(format::header_name)]);
const BY: Field = TEXT.check(&[OneOf(&["username", "custom_id"])]);
const EXTENSION: &str = "the plugin is not in Kong";

pub(super) const JWKS_AUTH: PluginSchema = PluginSchema {
    name: "jwks-auth",
    per_consumer: false,
    prepare: None,
    rules: Some(rules),
    build: |value| serde_json::from_value(value).map(|config| PluginConfig::JwksAuth(Box::new(config))),
    fields: &[
        string("issuer").required().check(&[With(queue::url)]).different(EXTENSION),
        string("jwks_uri").check(&[With(queue::url)]).different(EXTENSION),
        array("audience", &TEXT).required().check(&[MinLen(1)]).different(EXTENSION),
        array("scopes_required", &TEXT).different(EXTENSION),
        set("uri_param_names", &TEXT).or(Strs(&[])).different(EXTENSION),
        set("cookie_names", &TEXT).or(Strs(&[])).different(EXTENSION),
        set("header_names", &HEADER).or(Strs(&["authorization"])).different(EXTENSION),
        string("consumer_claim").or(Str("sub")).required().different(EXTENSION),
        array("consumer_by", &BY).or(Strs(&["username", "custom_id"])).different(EXTENSION),
        boolean("consumer_optional").or(NO).required().different(EXTENSION),
        integer("leeway").or(Int(0)).required().check(&[Between(0.0, 300.0)]).different(EXTENSION),
        integer("refresh_interval")
            .or(Int(300))
            .required()
            .check(&[Between(1.0, 86_400.0)])
            .different(EXTENSION),
        integer("refresh_cooldown")
            .or(Int(10))
            .required()
            .check(&[Between(1.0, 3600.0)])
            .different(EXTENSION),
        boolean("run_on_preflight").or(YES).required().different(EXTENSION),
        string("anonymous").different(EXTENSION),
        string("realm").different(EXTENSION),
    ],
};

fn rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let filled = |field: &str| {
        config.get(field).and_then(crate::node::Node::as_seq).is_some_and(|list| !list.is_empty())
    };
    if !["uri_param_names", "cookie_names", "header_names"].iter().any(|field| filled(field)) {
        scope.entity(
            "at least one of these fields must be non-empty: 'config.uri_param_names', 'config.cookie_names', \
             'config.header_names'",
        );
    }
}
