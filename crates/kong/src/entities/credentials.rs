//! What consumers prove themselves with.

use super::core::{CREATED, ID, TAGS};
use super::{Entity, IdFrom, rules};
use crate::format;
use crate::schema::Check::{Between, OneOf, With};
use crate::schema::Literal::Str;
use crate::schema::{Field, NO, TEXT, array, boolean, children, foreign, integer, string};

const CONSUMER: Field = foreign("consumer", "consumers").required();

const ALGORITHMS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384",
    "PS512", "EdDSA",
];

pub(super) const JWT_SECRET: Entity = Entity {
    collection: "jwt_secrets",
    key: Some("key"),
    unique: &["key"],
    id_from: IdFrom::Cache(&["key"]),
    prepare: Some(rules::prepare_jwt_secret),
    rules: Some(rules::jwt_secret),
    fields: &[
        ID,
        CONSUMER,
        string("key"),
        string("secret"),
        string("algorithm").or(Str("HS256")).check(&[OneOf(ALGORITHMS)]),
        string("rsa_public_key"),
        TAGS,
        CREATED,
    ],
};

pub(super) const KEYAUTH: Entity = Entity {
    collection: "keyauth_credentials",
    key: Some("key"),
    unique: &["key"],
    id_from: IdFrom::Cache(&["key"]),
    prepare: Some(rules::prepare_key),
    rules: None,
    fields: &[
        ID,
        CONSUMER,
        string("key").required(),
        integer("ttl")
            .check(&[Between(0.0, 100_000_000.0)])
            .different("seconds count from the loading of the file"),
        TAGS,
        CREATED,
    ],
};

pub(super) const BASICAUTH: Entity = Entity {
    collection: "basicauth_credentials",
    key: Some("username"),
    unique: &["username"],
    id_from: IdFrom::Cache(&["username"]),
    prepare: None,
    rules: None,
    fields: &[ID, CONSUMER, string("username").required(), string("password").required(), TAGS, CREATED],
};

pub(super) const HMACAUTH: Entity = Entity {
    collection: "hmacauth_credentials",
    key: Some("username"),
    unique: &["username"],
    id_from: IdFrom::Cache(&["username"]),
    prepare: Some(rules::prepare_hmac),
    rules: None,
    fields: &[ID, CONSUMER, string("username").required(), string("secret"), TAGS, CREATED],
};

pub(super) const ACL: Entity = Entity {
    collection: "acls",
    key: None,
    unique: &[],
    id_from: IdFrom::Cache(&["consumer", "group"]),
    prepare: None,
    rules: None,
    fields: &[ID, CONSUMER, string("group").required(), TAGS, CREATED],
};

const REDIRECT_URI: Field = TEXT.check(&[With(format::redirect_uri)]);

pub(super) const OAUTH2: Entity = Entity {
    collection: "oauth2_credentials",
    key: Some("client_id"),
    unique: &["client_id"],
    id_from: IdFrom::Cache(&["client_id"]),
    prepare: Some(rules::prepare_oauth2),
    rules: None,
    fields: &[
        ID,
        CONSUMER,
        string("name").required(),
        string("client_id"),
        string("client_secret"),
        boolean("hash_secret").required().or(NO),
        array("redirect_uris", &REDIRECT_URI),
        string("client_type").required().or(Str("confidential")).check(&[OneOf(&["confidential", "public"])]),
        TAGS,
        children("oauth2_tokens", "credential"),
        CREATED,
    ],
};

const TOKENS: &str = "tokens are issued while the gateway runs and kept in memory or Redis; those of the file are checked only";

pub(super) const OAUTH2_TOKEN: Entity = Entity {
    collection: "oauth2_tokens",
    key: Some("access_token"),
    unique: &["access_token", "refresh_token"],
    id_from: IdFrom::Cache(&["access_token"]),
    prepare: None,
    rules: None,
    fields: &[
        ID,
        foreign("service", "services").ignored(TOKENS),
        foreign("credential", "oauth2_credentials").required(),
        string("token_type").required().or(Str("bearer")).check(&[OneOf(&["bearer"])]).ignored(TOKENS),
        integer("expires_in").required().ignored(TOKENS),
        string("access_token").ignored(TOKENS),
        string("refresh_token").ignored(TOKENS),
        string("authenticated_userid").ignored(TOKENS),
        string("scope").ignored(TOKENS),
        integer("ttl").ignored(TOKENS),
        CREATED,
    ],
};
