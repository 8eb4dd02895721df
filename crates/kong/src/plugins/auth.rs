//! jwt, key-auth, basic-auth, hmac-auth, acl.

use super::PluginSchema;
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, Greater, MinLen, OneOf, With};
use crate::schema::Literal::{Int, Str, Strs};
use crate::schema::{Field, NO, TEXT, YES, array, boolean, integer, number, set, string};

const HEADER: Field = TEXT.check(&[With(format::header_name)]);
const CLAIM: Field = TEXT.check(&[With(claim)]);

const IAT: &str = "Kong refuses 'iat' here (expected one of: exp, nbf); this gateway checks that it is a number which \
                   does not lie in the future";

fn claim(node: &Node) -> Result<(), String> {
    match node.as_str() {
        Some("exp" | "nbf" | "iat") => Ok(()),
        _ => Err("expected one of: exp, nbf".to_owned()),
    }
}

pub(super) const JWT: PluginSchema = PluginSchema {
    name: "jwt",
    per_consumer: false,
    prepare: None,
    rules: Some(jwt_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::Jwt),
    fields: &[
        set("uri_param_names", &TEXT).or(Strs(&["jwt"])),
        set("cookie_names", &TEXT).or(Strs(&[])),
        set("header_names", &HEADER).or(Strs(&["authorization"])),
        string("key_claim_name").or(Str("iss")).required(),
        boolean("secret_is_base64").or(NO).required(),
        set("claims_to_verify", &CLAIM),
        integer("maximum_expiration").or(Int(0)).check(&[Between(0.0, 31_536_000.0)]),
        boolean("run_on_preflight").or(YES).required(),
        string("anonymous"),
        string("realm"),
    ],
};

fn jwt_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let claims = config.get("claims_to_verify").and_then(Node::as_seq).unwrap_or_default();
    let names = |wanted: &str| claims.iter().any(|claim| claim.as_str() == Some(wanted));
    if names("iat") {
        scope.different("claims_to_verify", IAT);
    }
    let maximum = config.get("maximum_expiration").and_then(Node::as_int).unwrap_or(0);
    if maximum > 0 && !names("exp") {
        scope.entity("failed conditional validation given value of field 'config.maximum_expiration'");
        scope.fault("claims_to_verify", "expected to contain: exp");
    }
}

pub(super) const KEY_AUTH: PluginSchema = PluginSchema {
    name: "key-auth",
    per_consumer: false,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::KeyAuth),
    fields: &[
        array("key_names", &HEADER).or(Strs(&["apikey"])).required().check(&[MinLen(1)]),
        boolean("key_in_header").or(YES).required(),
        boolean("key_in_query").or(YES).required(),
        boolean("key_in_body").or(NO).required(),
        boolean("hide_credentials").or(NO).required(),
        boolean("run_on_preflight").or(YES).required(),
        string("anonymous"),
        string("realm"),
    ],
};

pub(super) const BASIC_AUTH: PluginSchema = PluginSchema {
    name: "basic-auth",
    per_consumer: false,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::BasicAuth),
    fields: &[
        boolean("hide_credentials").or(NO).required(),
        string("anonymous"),
        string("realm").or(Str("service")).required(),
    ],
};

const HMAC: &[&str] = &["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512"];
const HMAC_ALGORITHM: Field = TEXT.check(&[OneOf(HMAC)]);

pub(super) const HMAC_AUTH: PluginSchema = PluginSchema {
    name: "hmac-auth",
    per_consumer: false,
    prepare: None,
    rules: None,
    build: |value| serde_json::from_value(value).map(PluginConfig::HmacAuth),
    fields: &[
        boolean("hide_credentials").or(NO).required(),
        number("clock_skew").or(Int(300)).required().check(&[Greater(0.0)]),
        string("anonymous"),
        boolean("validate_request_body").or(NO).required(),
        array("enforce_headers", &TEXT).or(Strs(&[])),
        array("algorithms", &HMAC_ALGORITHM).or(Strs(HMAC)),
        string("realm"),
    ],
};

pub(super) const ACL: PluginSchema = PluginSchema {
    name: "acl",
    per_consumer: false,
    prepare: None,
    rules: Some(acl_rules),
    build: |value| serde_json::from_value(value).map(PluginConfig::Acl),
    fields: &[
        array("allow", &TEXT),
        array("deny", &TEXT),
        boolean("hide_groups_header").or(NO).required(),
        boolean("always_use_authenticated_groups")
            .or(NO)
            .required()
            .ignored("groups come from the file's acls only: no plugin here authenticates groups"),
    ],
};

fn acl_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    let empty = |field: &str| config.get(field).and_then(Node::as_seq).is_none_or(<[Node]>::is_empty);
    match (empty("allow"), empty("deny")) {
        (true, true) => {
            scope.entity("at least one of these fields must be non-empty: 'config.allow', 'config.deny'");
        }
        (false, false) => {
            scope.entity("only one of these fields must be non-empty: 'config.allow', 'config.deny'");
        }
        _ => {}
    }
}
