//! Shorthands, old forms, and conditions between fields.

use uuid::Uuid;

use crate::load::{Scope, Version, vault};
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

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ")
}

/// Routes need something to match by; Kong words it by the protocol.
fn criterion(map: &Map, fields: &[&str], protocol: &str, scope: &mut Scope<'_, '_>) {
    if !fields.iter().any(|field| given(map, field)) {
        scope.entity(&format!("must set one of {} when 'protocols' is {protocol}", quoted(fields)));
    }
}

fn forbidden(map: &Map, fields: &[&str], protocols: &str, scope: &mut Scope<'_, '_>) {
    for field in fields {
        if map.get(*field).is_some_and(|value| !value.is_null()) {
            scope.fault(field, &format!("cannot set '{field}' when 'protocols' is {protocols}"));
        }
    }
}

fn at_least_one(map: &Map, fields: &[&str], scope: &mut Scope<'_, '_>) {
    if !fields.iter().any(|field| given(map, field)) {
        scope.entity(&format!("at least one of these fields must be non-empty: {}", quoted(fields)));
    }
}

/// The port of a URL: none, a number, or what stands there instead (reported as a bad port).
fn split_url_port(authority: &str) -> (&str, Option<Node>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && !port.is_empty() => {
            let number = port.parse::<i64>().map_or_else(|_| Node::Str(port.to_owned()), Node::Int);
            (host, Some(number))
        }
        Some((host, "")) => (host, None),
        _ => (authority, None),
    }
}

/// `url` replaces protocol, host, port and path, even where those are given or wrong. Read as Kong reads it: what is
/// not there (a scheme, a host) is null, and the field's own rule complains.
pub(super) fn expand_url(map: &mut Map, scope: &mut Scope<'_, '_>) {
    let Some(url) = map.shift_remove("url") else { return };
    let url = match url {
        Node::Null => return,
        Node::Str(url) => url,
        _ => return scope.fault("url", "expected a string"),
    };
    scope.supported("url");
    let url = url.split(['#', '?']).next().unwrap_or_default();
    let is_scheme = |text: &str| {
        text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    let (scheme, rest) = match url.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
        _ => (None, url),
    };
    let (authority, path) = match rest.strip_prefix("//") {
        None => (None, rest),
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
    };
    let authority = authority.map(|authority| authority.rsplit_once('@').map_or(authority, |(_, host)| host));
    let (host, port) = authority.map_or(("", None), split_url_port);
    let protocol = match (scheme, &port) {
        (Some(scheme), _) => scheme,
        (None, Some(Node::Int(443))) => "https",
        (None, _) => "http",
    };
    let port = port.unwrap_or(Node::Int(if protocol == "https" { 443 } else { 80 }));
    let text = |text: &str| if text.is_empty() { Node::Null } else { Node::Str(text.to_owned()) };
    map.insert("protocol".to_owned(), Node::Str(protocol.to_owned()));
    map.insert("host".to_owned(), text(host));
    map.insert("port".to_owned(), port);
    map.insert("path".to_owned(), text(path));
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

/// 1.1 and 2.1 files mark no regular expressions; the loader guesses as Kong does. Routes of gRPC strip nothing unless told so.
pub(super) fn prepare_route(map: &mut Map, scope: &mut Scope<'_, '_>) {
    let protocols = map.get("protocols").and_then(Node::as_seq).unwrap_or_default();
    let grpc = protocols.iter().any(|protocol| matches!(protocol.as_str(), Some("grpc" | "grpcs")));
    if grpc && !map.contains_key("strip_path") {
        map.insert("strip_path".to_owned(), Node::Bool(false));
    }
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
        &[&["http", "https"], &["tcp", "tls", "udp"], &["tls_passthrough"], &["grpc", "grpcs"]];
    // In the order the file names them, as Kong prints them.
    let mut met: Vec<&[&str]> = Vec::new();
    for protocol in &protocols {
        if let Some(family) = families.iter().find(|family| family.contains(protocol))
            && !met.contains(family)
        {
            met.push(family);
        }
    }
    if met.len() > 1 {
        let sets: Vec<String> = met.iter().map(|family| format!("({})", quoted(family))).collect();
        scope.fault("protocols", &format!("these sets are mutually exclusive: {}", sets.join(", ")));
        return;
    }
    if has(&["http", "https"]) {
        forbidden(map, &["sources", "destinations"], "'http' or 'https'", scope);
        let (fields, protocol): (&[&str], _) = if has(&["https"]) {
            (&["methods", "hosts", "headers", "paths", "snis"], "'https'")
        } else {
            (&["methods", "hosts", "headers", "paths"], "'http'")
        };
        criterion(map, fields, protocol, scope);
    } else if has(&["grpc", "grpcs"]) {
        forbidden(map, &["methods", "sources", "destinations"], "'grpc' or 'grpcs'", scope);
        if map.get("strip_path").and_then(Node::as_bool) == Some(true) {
            scope.fault("strip_path", "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'");
        }
        let (fields, protocol): (&[&str], _) = if has(&["grpcs"]) {
            (&["hosts", "headers", "paths", "snis"], "'grpcs'")
        } else {
            (&["hosts", "headers", "paths"], "'grpc'")
        };
        criterion(map, fields, protocol, scope);
    } else {
        let streams = "'tcp', 'tls', 'tls_passthrough' or 'udp'";
        forbidden(map, &["methods", "hosts", "paths", "headers"], streams, scope);
        if !has(&["tls_passthrough"]) {
            criterion(map, &["sources", "destinations", "snis"], "'tcp', 'tls' or 'udp'", scope);
        } else if !given(map, "snis") {
            scope.entity("must set snis when 'protocols' is 'tls_passthrough'");
        }
        scope.ignored("protocols", "this gateway proxies HTTP and gRPC only; the route is not served");
    }
    if given(map, "snis") && !has(&["https", "grpcs", "tls", "tls_passthrough"]) {
        scope.entity(
            "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        );
    }
    for field in ["sources", "destinations"] {
        for (index, address) in map.get(field).and_then(Node::as_seq).unwrap_or_default().iter().enumerate() {
            let empty =
                address.as_map().is_some_and(|address| !given(address, "ip") && !given(address, "port"));
            if empty {
                scope.fault_at(field, index, "at least one of these fields must be non-empty: 'ip', 'port'");
            }
        }
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
            scope.fault_in("headers", name, &format!("invalid regex: '{pattern}' (PCRE returned: {why})"));
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

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Whether keys fit their certificates is for the gateway to say: it has the cryptography.
pub(super) fn certificate(map: &Map, scope: &mut Scope<'_, '_>) {
    if given(map, "cert_alt") != given(map, "key_alt") {
        scope.entity("all or none of these fields must be set: 'cert_alt', 'key_alt'");
    }
    for field in ["cert", "cert_alt"] {
        if let Some(text) = pem(map, field)
            && !text.contains(CERTIFICATE)
        {
            scope.fault(field, "invalid certificate: expected PEM");
        }
    }
    for field in ["key", "key_alt"] {
        if let Some(text) = pem(map, field)
            && !text.contains("PRIVATE KEY-----")
        {
            scope.fault(field, "invalid key: expected PEM");
        }
    }
}

/// A text that is there and not an unresolved reference.
fn pem<'m>(map: &'m Map, field: &str) -> Option<&'m str> {
    map.get(field).and_then(Node::as_str).filter(|text| !vault::is_reference(text))
}

pub(super) fn ca_certificate(map: &Map, scope: &mut Scope<'_, '_>) {
    match pem(map, "cert") {
        None => {}
        Some(text) if !text.contains(CERTIFICATE) => scope.fault("cert", "invalid certificate: expected PEM"),
        Some(text) if text.matches(CERTIFICATE).count() > 1 => {
            scope.entity("please submit only one certificate at a time");
        }
        Some(_) => {}
    }
}

pub(super) fn vault(map: &Map, scope: &mut Scope<'_, '_>) {
    match map.get("name").and_then(Node::as_str) {
        Some("env") | None => {}
        Some(name) => scope.fault("name", &format!("vault '{name}' is not installed")),
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

/// Tags by which upstreams get what Kong does not have.
const EXTENSIONS: &[(&str, &str)] = &[
    (
        "plinth.algorithm:",
        "plinth.algorithm: the balancing algorithm, in place of 'algorithm'; Kong ignores the tag",
    ),
    (
        "plinth.sticky-cookie:",
        "plinth.sticky-cookie: a cookie keeps clients at their target; Kong ignores the tag",
    ),
    ("plinth.breaker", "plinth.breaker: a circuit breaker for each target; Kong ignores the tag"),
    ("plinth.outlier", "plinth.outlier: targets that fail in a row leave for a while; Kong ignores the tag"),
];

pub(super) fn upstream(map: &Map, scope: &mut Scope<'_, '_>) {
    for tag in map.get("tags").and_then(Node::as_seq).unwrap_or_default() {
        let text = tag.as_str().unwrap_or_default();
        if let Some((_, what)) = EXTENSIONS.iter().find(|(start, _)| text.starts_with(start)) {
            scope.remark("tags", what);
        }
    }
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
    let detailed = [
        ("hash_on_header", "hash_fallback_header"),
        ("hash_on_query_arg", "hash_fallback_query_arg"),
        ("hash_on_uri_capture", "hash_fallback_uri_capture"),
    ];
    for (input, others) in [
        ("consumer", "none, ip, header, cookie, path, query_arg, uri_capture"),
        ("ip", "none, consumer, header, cookie, path, query_arg, uri_capture"),
        ("path", "none, consumer, header, cookie, query_arg, ip, uri_capture"),
    ] {
        if is(map, "hash_on", &[input]) && is(map, "hash_fallback", &[input]) {
            scope.entity("failed conditional validation given value of field 'hash_on'");
            scope.fault("hash_fallback", &format!("expected one of: {others}"));
        }
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
    if HMAC.contains(&algorithm) {
        made_up(map, "secret");
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

/// A random value for a secret nobody gave: nobody can use it, and it is another one in each gateway.
fn made_up(map: &mut Map, field: &str) {
    if !map.contains_key(field) {
        map.insert(field.to_owned(), Node::Str(Uuid::new_v4().simple().to_string()));
    }
}

/// Kong makes up a key that is not given.
pub(super) fn prepare_key(map: &mut Map, _: &mut Scope<'_, '_>) {
    made_up(map, "key");
}

/// Kong makes up a secret that is not given.
pub(super) fn prepare_hmac(map: &mut Map, _: &mut Scope<'_, '_>) {
    made_up(map, "secret");
}

/// Kong makes up what an application is called by and its secret.
pub(super) fn prepare_oauth2(map: &mut Map, _: &mut Scope<'_, '_>) {
    made_up(map, "client_id");
    made_up(map, "client_secret");
}
