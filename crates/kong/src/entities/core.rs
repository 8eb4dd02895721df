//! Services, routes, consumers, plugins, certificates.

use super::{Entity, IdFrom, rules};
use crate::format;
use crate::schema::Check::{Between, MinLen, OneOf, OneOfInts, With};
use crate::schema::Literal::{Int, Str, Strs};
use crate::schema::{
    Check, Field, NO, PORT, TEXT, YES, array, boolean, children, foreign, integer, map, plugin_config,
    record, set, string,
};

pub(super) const ID: Field = string("id").check(&[With(format::uuid)]);
const TAG: Field = TEXT.check(&[With(format::tag)]);
pub(super) const TAGS: Field = set("tags", &TAG);
const NAME: Field = string("name").check(&[With(format::name)]);
pub(super) const CREATED: Field = integer("created_at").ignored("set by the loader");
pub(super) const UPDATED: Field = integer("updated_at").ignored("set by the loader");

const PROTOCOLS: &[&str] = &["grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp"];
const PROTOCOL: Field = TEXT.check(&[OneOf(PROTOCOLS)]);
const MILLISECONDS: &[Check] = &[Between(1.0, 2_147_483_646.0)];
const UUID_ELEMENT: Field = TEXT.check(&[With(format::uuid)]);

pub(super) const SERVICE: Entity = Entity {
    collection: "services",
    key: Some("name"),
    unique: &["name"],
    id_from: IdFrom::Key { per_workspace: true },
    prepare: Some(rules::expand_url),
    rules: Some(rules::service),
    fields: &[
        ID,
        NAME,
        string("protocol").required().or(Str("http")).check(&[OneOf(PROTOCOLS)]),
        string("host").required().check(&[With(format::host)]),
        integer("port").required().or(Int(80)).check(PORT),
        string("path").check(&[With(format::service_path)]),
        integer("retries").or(Int(5)).check(&[Between(0.0, 32_767.0)]),
        integer("connect_timeout").or(Int(60_000)).check(MILLISECONDS),
        integer("write_timeout").or(Int(60_000)).check(MILLISECONDS),
        integer("read_timeout").or(Int(60_000)).check(MILLISECONDS),
        boolean("enabled").required().or(YES),
        boolean("tls_verify"),
        integer("tls_verify_depth").check(&[Between(0.0, 64.0)]),
        array("ca_certificates", &UUID_ELEMENT),
        foreign("client_certificate", "certificates"),
        TAGS,
        children("routes", "service"),
        children("plugins", "service"),
        CREATED,
        UPDATED,
    ],
};

const METHOD: Field = TEXT.check(&[With(format::method)]);
const ADDRESS: &[Field] = &[string("ip").check(&[With(format::ip_or_cidr)]), integer("port").check(PORT)];
const ROUTE_HOST: Field = TEXT.check(&[With(format::route_host)]);
const ROUTE_PATH: Field = TEXT.check(&[With(format::route_path)]);
const HEADER_VALUE: Field = TEXT;
const HEADER_VALUES: Field = array("", &HEADER_VALUE).check(&[MinLen(1)]);
const SNI_NAME: Field = TEXT.check(&[With(format::wildcard_host)]);
const ENDPOINT: Field = record("", ADDRESS);

pub(super) const ROUTE: Entity = Entity {
    collection: "routes",
    key: Some("name"),
    unique: &["name"],
    id_from: IdFrom::Key { per_workspace: true },
    prepare: Some(rules::prepare_route),
    rules: Some(rules::route),
    fields: &[
        ID,
        NAME,
        foreign("service", "services"),
        set("protocols", &PROTOCOL).required().or(Strs(&["http", "https"])).check(&[MinLen(1)]),
        set("methods", &METHOD),
        array("hosts", &ROUTE_HOST),
        array("paths", &ROUTE_PATH),
        map("headers", &HEADER_VALUES),
        set("snis", &SNI_NAME),
        set("sources", &ENDPOINT).ignored("tcp and udp routes are not proxied"),
        set("destinations", &ENDPOINT).ignored("tcp and udp routes are not proxied"),
        boolean("strip_path").required().or(YES),
        boolean("preserve_host").required().or(NO),
        integer("https_redirect_status_code")
            .required()
            .or(Int(426))
            .check(&[OneOfInts(&[426, 301, 302, 307, 308])]),
        integer("regex_priority").or(Int(0)),
        string("path_handling").or(Str("v0")).check(&[OneOf(&["v0", "v1"])]),
        boolean("request_buffering")
            .required()
            .or(YES)
            .different(
                "bodies up to the gateway's upstream.replay_limit are read before the upstream is asked; larger ones are streamed, not written to disk"
            ),
        boolean("response_buffering")
            .required()
            .or(YES)
            .different(
                "answers are always streamed; true reads up to the gateway's upstream.read_ahead ahead of a slow client, in memory, false nothing"
            ),
        TAGS,
        children("plugins", "route"),
        CREATED,
        UPDATED,
    ],
};

pub(super) const CONSUMER: Entity = Entity {
    collection: "consumers",
    key: Some("username"),
    unique: &["username", "custom_id"],
    id_from: IdFrom::Key { per_workspace: true },
    prepare: None,
    rules: Some(rules::consumer),
    fields: &[
        ID,
        string("username"),
        string("custom_id"),
        TAGS,
        children("plugins", "consumer"),
        children("jwt_secrets", "consumer"),
        children("keyauth_credentials", "consumer"),
        children("basicauth_credentials", "consumer"),
        children("hmacauth_credentials", "consumer"),
        children("acls", "consumer"),
        children("oauth2_credentials", "consumer"),
        CREATED,
        UPDATED,
    ],
};

const PLUGIN_PROTOCOL: Field = TEXT.check(&[OneOf(PROTOCOLS)]);

pub(super) const PLUGIN: Entity = Entity {
    collection: "plugins",
    key: Some("instance_name"),
    unique: &["instance_name"],
    id_from: IdFrom::Cache(&["name", "route", "service", "consumer"]),
    prepare: None,
    rules: Some(rules::plugin),
    fields: &[
        ID,
        string("name").required(),
        string("instance_name").check(&[With(format::name)]),
        foreign("service", "services"),
        foreign("route", "routes"),
        foreign("consumer", "consumers"),
        plugin_config(),
        boolean("enabled").required().or(YES),
        set("protocols", &PLUGIN_PROTOCOL)
            .required()
            .or(Strs(&["grpc", "grpcs", "http", "https"]))
            .check(&[MinLen(1)]),
        TAGS,
        CREATED,
        UPDATED,
    ],
};

pub(super) const CERTIFICATE: Entity = Entity {
    collection: "certificates",
    key: None,
    unique: &[],
    id_from: IdFrom::Content,
    prepare: None,
    rules: Some(rules::certificate),
    fields: &[
        ID,
        string("cert").required().referenceable(),
        string("key").required().referenceable(),
        string("cert_alt").referenceable(),
        string("key_alt").referenceable(),
        TAGS,
        children("snis", "certificate"),
        CREATED,
        UPDATED,
    ],
};

pub(super) const SNI: Entity = Entity {
    collection: "snis",
    key: Some("name"),
    unique: &["name"],
    id_from: IdFrom::Key { per_workspace: false },
    prepare: None,
    rules: None,
    fields: &[
        ID,
        string("name").required().check(&[With(format::wildcard_host)]),
        foreign("certificate", "certificates").required(),
        TAGS,
        CREATED,
        UPDATED,
    ],
};

pub(super) const CA_CERTIFICATE: Entity = Entity {
    collection: "ca_certificates",
    key: None,
    unique: &[],
    id_from: IdFrom::Content,
    prepare: None,
    rules: Some(rules::ca_certificate),
    fields: &[
        ID,
        string("cert").required(),
        string("cert_digest").ignored("computed from the certificate"),
        TAGS,
        CREATED,
        UPDATED,
    ],
};

const VAULT_CONFIG: &[Field] = &[string("prefix").check(&[With(format::variable)])];

pub(super) const VAULT: Entity = Entity {
    collection: "vaults",
    key: Some("prefix"),
    unique: &["prefix"],
    id_from: IdFrom::Cache(&["prefix"]),
    prepare: None,
    rules: Some(rules::vault),
    fields: &[
        ID,
        string("prefix").required().check(&[With(format::vault_prefix)]),
        string("name").required(),
        string("description"),
        record("config", VAULT_CONFIG),
        TAGS,
        CREATED,
        UPDATED,
    ],
};
