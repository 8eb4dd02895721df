//! Shorthands, old forms, and conditions between fields.

use uuid::Uuid;

use crate::load::{Scope, Version};
use crate::node::{Map, Node};
use crate::plugins::{self, Lookup};
use crate::{format, path};

fn given(map: &Map, field: &str) -> bool {
    match map.get(field) {
        None | Some(Node::Null) => false,
        Some(Node::Seq(list)) => !list.is_empty(),
        Some(Node::Map(members)) => !members.is_empty(),
        Some(_) => true,
    }
}

fn is(map: &Map, field: &str, words: &[&str]) -> bool {
    map.get(field).and_then(Node::as_str).is_some_and(|text| words.contains(&text))
}

fn at_least_one(map: &Map, fields: &[&str], scope: &mut Scope<'_, '_>) {
    if !fields.iter().any(|field| given(map, field)) {
        let names: Vec<String> = fields.iter().map(|field| format!("'{field}'")).collect();
        scope.entity(&format!("at least one of these fields must be non-empty: {}", names.join(", ")));
    }
}

/// `url` replaces protocol, host, port and path, even where those are given or wrong.
pub(super) fn expand_url(map: &mut Map, scope: &mut Scope<'_, '_>) {
    let Some(url) = map.shift_remove("url") else { return };
    let url = match url {
        Node::Null => return,
        Node::Str(url) => url,
        _ => return scope.fault("url", "expected a string"),
    };
    scope.supported("url");
    let Some((scheme, rest)) = url.split_once("://") else {
        return scope.fault("url", "missing host in url");
    };
    let (authority, path) =
        rest.find('/').map_or((rest, None), |slash| (&rest[..slash], Some(&rest[slash..])));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(port) => (host, Some(port)),
            Err(_) => return scope.fault("url", "invalid port in url"),
        },
        _ => (authority, None),
    };
    if host.is_empty() {
        return scope.fault("url", "missing host in url");
    }
    let port = port.unwrap_or(if scheme == "https" { 443 } else { 80 });
    map.insert("protocol".to_owned(), Node::Str(scheme.to_owned()));
    map.insert("host".to_owned(), Node::Str(host.to_owned()));
    map.insert("port".to_owned(), Node::Int(port.into()));
    map.insert("path".to_owned(), path.map_or(Node::Null, |path| Node::Str(path.to_owned())));
}

pub(super) fn service(map: &Map, scope: &mut Scope<'_, '_>) {
    if given(map, "path") && is(map, "protocol", &["grpc", "grpcs", "tcp", "tls", "tls_passthrough", "udp"]) {
        scope.entity("failed conditional validation given value of field 'protocol'");
        scope.fault("path", "value must be null");
    }
    if !is(map, "protocol", &["https", "tls"]) {
        for field in ["tls_verify", "tls_verify_depth", "ca_certificates", "client_certificate"] {
            if given(map, field) {
                scope.entity("failed conditional validation given value of field 'protocol'");
                scope.fault(field, "value must be null");
            }
        }
    }
    if is(map, "protocol", &["tcp", "tls", "tls_passthrough", "udp"]) {
        scope.ignored("protocol", "this gateway proxies HTTP and gRPC only");
    }
}

/// 1.1 and 2.1 files mark no regular expressions; the loader guesses as Kong does.
pub(super) fn migrate_paths(map: &mut Map, scope: &mut Scope<'_, '_>) {
    if scope.version() == Version::V3_0 {
        return;
    }
    let Some(Node::Seq(paths)) = map.get_mut("paths") else { return };
    for entry in paths {
        if let Node::Str(text) = entry
            && !text.is_empty()
        {
            *text = path::migrate(text);
        }
    }
}

pub(super) fn route(map: &Map, scope: &mut Scope<'_, '_>) {
    let protocols: Vec<&str> = map
        .get("protocols")
        .and_then(Node::as_seq)
        .unwrap_or_default()
        .iter()
        .filter_map(Node::as_str)
        .collect();
    let has = |wanted: &[&str]| protocols.iter().any(|protocol| wanted.contains(protocol));
    let families: &[&[&str]] =
        &[&["http", "https"], &["grpc", "grpcs"], &["tcp", "tls", "udp"], &["tls_passthrough"]];
    if families.iter().filter(|family| has(family)).count() > 1 {
        scope.fault(
            "protocols",
            "('http', 'https'), ('tcp', 'tls', 'udp'), ('tls_passthrough'), ('grpc', 'grpcs')",
        );
        return;
    }
    if has(&["http"]) {
        at_least_one(map, &["methods", "hosts", "headers", "paths"], scope);
    } else if has(&["https"]) {
        at_least_one(map, &["methods", "hosts", "headers", "paths", "snis"], scope);
    } else if has(&["grpc", "grpcs"]) {
        at_least_one(map, &["hosts", "headers", "paths", "snis"], scope);
    } else {
        at_least_one(map, &["sources", "destinations", "snis"], scope);
        scope.ignored("protocols", "this gateway proxies HTTP and gRPC only; the route is not served");
    }
    if has(&["grpc", "grpcs"]) && map.get("strip_path").and_then(Node::as_bool) == Some(true) {
        scope.entity("failed conditional validation given value of field 'protocols'");
        scope.fault("strip_path", "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'");
    }
    if given(map, "snis") && !has(&["https", "grpcs", "tls", "tls_passthrough"]) {
        scope.entity(
            "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        );
    }
    headers(map, scope);
}

fn headers(map: &Map, scope: &mut Scope<'_, '_>) {
    let Some(headers) = map.get("headers").and_then(Node::as_map) else { return };
    for (name, values) in headers {
        if name.eq_ignore_ascii_case("host") {
            scope.fault_in(
                "headers",
                name,
                "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
            );
        } else if let Err(message) = format::header_name(&Node::Str(name.clone())) {
            scope.fault_in("headers", name, &message);
        }
        // Kong reads `~*` only when it is the one value.
        if let [Node::Str(only)] = values.as_seq().unwrap_or_default()
            && let Some(pattern) = only.strip_prefix("~*")
            && let Err(why) = crate::pattern::Pattern::check(pattern)
        {
            scope.fault_in("headers", name, &format!("invalid regex: '{pattern}' ({why})"));
        }
    }
}

pub(super) fn consumer(map: &Map, scope: &mut Scope<'_, '_>) {
    at_least_one(map, &["custom_id", "username"], scope);
}

pub(super) fn plugin(map: &Map, scope: &mut Scope<'_, '_>) {
    let name = map.get("name").and_then(Node::as_str).unwrap_or_default();
    if let Lookup::Supported(schema) = plugins::lookup(name)
        && !schema.per_consumer
        && (given(map, "consumer") || scope.is_nested_in("consumer"))
    {
        scope.fault("consumer", "value must be null");
    }
}

pub(super) fn certificate(map: &Map, scope: &mut Scope<'_, '_>) {
    if given(map, "cert_alt") != given(map, "key_alt") {
        scope.entity("all or none of these fields must be set: 'cert_alt', 'key_alt'");
    }
    for field in ["cert", "cert_alt"] {
        if let Some(text) = map.get(field).and_then(Node::as_str)
            && !text.contains("-----BEGIN CERTIFICATE-----")
        {
            scope.fault(field, "invalid certificate: expected PEM");
        }
    }
    for field in ["key", "key_alt"] {
        if let Some(text) = map.get(field).and_then(Node::as_str)
            && !text.contains("PRIVATE KEY-----")
        {
            scope.fault(field, "invalid key: expected PEM");
        }
    }
}

/// Hashing on anything is consistent hashing, whatever `algorithm` says.
pub(super) fn prepare_upstream(map: &mut Map, _: &mut Scope<'_, '_>) {
    let hashed = map.get("hash_on").and_then(Node::as_str).is_some_and(|input| input != "none");
    if hashed {
        map.insert("algorithm".to_owned(), Node::Str("consistent-hashing".to_owned()));
    }
}

/// Which extra field each hash input needs.
const HASH_DETAILS: &[(&str, &str, &str)] = &[
    ("hash_on", "header", "hash_on_header"),
    ("hash_fallback", "header", "hash_fallback_header"),
    ("hash_on", "cookie", "hash_on_cookie"),
    ("hash_fallback", "cookie", "hash_on_cookie"),
    ("hash_on", "query_arg", "hash_on_query_arg"),
    ("hash_fallback", "query_arg", "hash_fallback_query_arg"),
    ("hash_on", "uri_capture", "hash_on_uri_capture"),
    ("hash_fallback", "uri_capture", "hash_fallback_uri_capture"),
];

pub(super) fn upstream(map: &Map, scope: &mut Scope<'_, '_>) {
    for (field, input, detail) in HASH_DETAILS {
        if is(map, field, &[input]) && !given(map, detail) {
            scope.entity(&format!("failed conditional validation given value of field '{field}'"));
            scope.fault(detail, "required field missing");
        }
    }
    if is(map, "hash_on", &["none", "cookie"]) && !is(map, "hash_fallback", &["none"]) {
        scope.entity("failed conditional validation given value of field 'hash_on'");
        scope.fault("hash_fallback", "expected one of: none");
    }
    let same = |a: &str, b: &str| given(map, a) && map.get(a) == map.get(b);
    let plain = is(map, "hash_on", &["consumer", "ip", "path"]) && same("hash_on", "hash_fallback");
    let detailed = [
        ("hash_on_header", "hash_fallback_header"),
        ("hash_on_query_arg", "hash_fallback_query_arg"),
        ("hash_on_uri_capture", "hash_fallback_uri_capture"),
    ];
    if plain {
        scope.fault("hash_fallback", "must not be the same as 'hash_on'");
    }
    for (on, fallback) in detailed {
        if same(on, fallback) {
            scope.entity(&format!("values of these fields must be distinct: '{on}', '{fallback}'"));
        }
    }
    if !is(map, "hash_on", &["none"]) && !is(map, "algorithm", &["consistent-hashing"]) {
        scope.fault("algorithm", "expected one of: consistent-hashing");
    }
}

/// A target without a port means 8000.
pub(super) fn prepare_target(map: &mut Map, _: &mut Scope<'_, '_>) {
    let Some(Node::Str(target)) = map.get_mut("target") else { return };
    if let Some((host, port)) = format::split_target(target) {
        *target = format!("{host}:{port}");
    }
}

const HMAC: &[&str] = &["HS256", "HS384", "HS512"];

/// A key not given is made up. It is no secret, so it comes from the content and is the same everywhere; a secret not given
/// is random: nobody can sign with it.
pub(super) fn prepare_jwt_secret(map: &mut Map, _: &mut Scope<'_, '_>) {
    if !map.contains_key("key") {
        let content = Node::Map(map.clone()).into_json().to_string();
        map.insert(
            "key".to_owned(),
            Node::Str(Uuid::new_v5(&Uuid::NAMESPACE_OID, content.as_bytes()).to_string()),
        );
    }
    let algorithm = map.get("algorithm").and_then(Node::as_str).unwrap_or("HS256");
    if HMAC.contains(&algorithm) && !map.contains_key("secret") {
        map.insert("secret".to_owned(), Node::Str(Uuid::new_v4().simple().to_string()));
    }
}

pub(super) fn jwt_secret(map: &Map, scope: &mut Scope<'_, '_>) {
    if !given(map, "key") {
        scope.fault("key", "required field missing");
    }
    if is(map, "algorithm", HMAC) {
        if !given(map, "secret") {
            scope.fault("secret", "required field missing");
        }
        return;
    }
    match map.get("rsa_public_key").and_then(Node::as_str) {
        None => {
            scope.entity("failed conditional validation given value of field 'algorithm'");
            scope.fault("rsa_public_key", "required field missing");
        }
        Some(pem) if !is_public_key(pem) => scope.fault("rsa_public_key", "invalid key"),
        Some(_) => {}
    }
}

/// A PEM public key or certificate whose inside is base64 of a DER sequence. The algorithm's own check is the gateway's.
fn is_public_key(pem: &str) -> bool {
    use base64::Engine as _;
    let Some((_, rest)) = pem.split_once("-----BEGIN ") else { return false };
    let Some((label, rest)) = rest.split_once("-----") else { return false };
    let Some((body, _)) = rest.split_once("-----END ") else { return false };
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE") {
        return false;
    }
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(body).is_ok_and(|der| der.first() == Some(&0x30))
}

/// Kong makes up a key that is not given.
pub(super) fn prepare_key(map: &mut Map, _: &mut Scope<'_, '_>) {
    if !map.contains_key("key") {
        map.insert("key".to_owned(), Node::Str(Uuid::new_v4().simple().to_string()));
    }
}
