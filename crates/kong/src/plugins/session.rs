//! session, with the session in the cookie; Kong's other storage is its database.

use super::PluginSchema;
use crate::format;
use crate::load::Scope;
use crate::model::PluginConfig;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, OneOf, With};
use crate::schema::Literal::{Int, Str, Strs};
use crate::schema::{Check, Field, NO, TEXT, YES, any, boolean, number, set, string};

const SECONDS: &[Check] = &[Between(0.0, 3_153_600_000.0)];
const METHOD: Field = TEXT.check(&[OneOf(&["GET", "POST", "DELETE"])]);
const HEADERS: &str = "sessions are not described in headers";
const STATELESS: &str = "the session is in the cookie, nothing is stored";

pub(super) const SESSION: PluginSchema = PluginSchema {
    name: "session",
    per_consumer: false,
    prepare: Some(old_session),
    rules: Some(session_rules),
    build: |value| serde_json::from_value(value).map(|config| PluginConfig::Session(Box::new(config))),
    fields: &[
        string("secret").different(
            "made up by each process when unset, as in Kong; gateways that share sessions need one",
        ),
        string("storage").or(Str("cookie")).check(&[OneOf(&["cookie", "kong"])]),
        string("audience").or(Str("default")).required(),
        number("idling_timeout").or(Int(900)).required().check(SECONDS),
        number("rolling_timeout").or(Int(3600)).required().check(SECONDS),
        number("absolute_timeout").or(Int(86_400)).required().check(SECONDS),
        number("stale_ttl").or(Int(10)).ignored(STATELESS),
        string("cookie_name").or(Str("session")).required().check(&[With(format::header_name)]),
        string("cookie_path").or(Str("/")).required().check(&[With(attribute)]),
        string("cookie_domain").check(&[With(attribute)]),
        string("cookie_same_site")
            .or(Str("Strict"))
            .required()
            .check(&[OneOf(&["Strict", "Lax", "None", "Default"])]),
        boolean("cookie_http_only").or(YES),
        boolean("cookie_secure").or(YES),
        boolean("remember").or(NO),
        string("remember_cookie_name").or(Str("remember")).required().check(&[With(format::header_name)]),
        number("remember_rolling_timeout").or(Int(604_800)).required().check(SECONDS),
        number("remember_absolute_timeout").or(Int(2_592_000)).required().check(SECONDS),
        any("response_headers").ignored(HEADERS),
        any("request_headers").ignored(HEADERS),
        boolean("read_body_for_logout").or(NO),
        set("logout_methods", &METHOD).or(Strs(&["POST", "DELETE"])),
        string("logout_query_arg").or(Str("session_logout")).required(),
        string("logout_post_arg").or(Str("session_logout")).required(),
        boolean("hash_subject").or(NO).ignored(STATELESS),
        boolean("store_metadata").or(NO).ignored(STATELESS),
    ],
};

/// A cookie attribute: nothing that would end it.
fn attribute(node: &Node) -> Result<(), String> {
    let text = node.as_str().unwrap_or_default();
    if text.bytes().any(|byte| byte == b';' || !(0x20..0x7f).contains(&byte)) {
        return Err("must not contain ';' or control characters".to_owned());
    }
    Ok(())
}

/// Names of the time before session library 4, which mean the newer ones.
fn old_session(config: &mut Map, scope: &mut Scope<'_, '_>) {
    for (old, new) in [
        ("cookie_lifetime", "rolling_timeout"),
        ("cookie_idletime", "idling_timeout"),
        ("cookie_discard", "stale_ttl"),
        ("cookie_httponly", "cookie_http_only"),
        ("cookie_persistent", "remember"),
        ("cookie_samesite", "cookie_same_site"),
    ] {
        let Some(value) = config.shift_remove(old) else { continue };
        scope.supported(old);
        let value = match value {
            Node::Str(text) if old == "cookie_samesite" && text == "off" => Node::Str("Lax".to_owned()),
            other => other,
        };
        if !value.is_null() {
            config.insert(new.to_owned(), value);
        }
    }
    if config.shift_remove("cookie_renew").is_some_and(|value| !value.is_null()) {
        scope.ignored("cookie_renew", "it has no effect in Kong either");
    }
}

fn session_rules(config: &Map, scope: &mut Scope<'_, '_>) {
    if config.get("storage").and_then(Node::as_str) == Some("kong") {
        scope.fault("storage", "'kong' needs a database; use 'cookie'");
    }
    let text = |field: &str| config.get(field).and_then(Node::as_str);
    if text("remember_cookie_name") == text("cookie_name") {
        scope.fault("remember_cookie_name", "must differ from cookie_name");
    }
}
