//! What consumers prove themselves with.

use super::core::{CREATED, ID, TAGS};
use super::{Entity, IdFrom, rules};
use crate::schema::Check::{Between, OneOf};
use crate::schema::Literal::Str;
use crate::schema::{Field, foreign, integer, string};

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
    prepare: None,
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
