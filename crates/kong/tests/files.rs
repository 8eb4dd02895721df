//! Files of the shapes people have, and every field of every table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use plinth_kong::{Config, Format, load};

fn loaded(text: &str) -> Config {
    load(text, Format::Yaml).unwrap_or_else(|faults| panic!("{faults}\n{text}")).config
}

/// As decK dumps it: everything explicit, much of it null.
const DECK: &str = r#"
_format_version: "3.0"
_info:
  defaults: {}
  select_tags: [team-a]
services:
- connect_timeout: 60000
  enabled: true
  host: users.internal
  id: 5ad1fcf4-1f0b-4ba0-9fd0-1b3b8d8d7d11
  name: users
  path: null
  port: 8080
  protocol: http
  read_timeout: 60000
  retries: 5
  tags: null
  tls_verify: null
  tls_verify_depth: null
  ca_certificates: null
  client_certificate: null
  write_timeout: 60000
  routes:
  - destinations: null
    headers: null
    hosts: null
    https_redirect_status_code: 426
    id: 1f0b4ba0-9fd0-4b3b-8d8d-7d115ad1fcf4
    methods: null
    name: users
    path_handling: v0
    paths:
    - /movies/{id}
    - /users
    preserve_host: false
    protocols: [http, https]
    regex_priority: 0
    request_buffering: true
    response_buffering: true
    snis: null
    sources: null
    strip_path: true
    tags: [team-a, "with space"]
    plugins:
    - name: rate-limiting
      enabled: true
      config:
        minute: 60
        second: null
        hour: null
        header_name: null
        path: null
        policy: local
        redis_host: null
        redis_password: null
        limit_by: consumer
      protocols: [grpc, grpcs, http, https]
"#;

#[test]
fn a_deck_dump_full_of_nulls() {
    let config = loaded(DECK);
    let route = &config.routes[0];
    assert_eq!(route.service, Some(config.services[0].id));
    assert_eq!(route.paths, ["/movies/{id}", "/users"], "braces are literal under 3.0");
    assert_eq!(config.plugins[0].route, Some(route.id));
}

/// As Supabase has it: anchors of another tool's variables replaced before, keys beside consumers, acls.
const SUPABASE: &str = r##"
_format_version: '2.1'
_transform: true

###
### Consumers / Users
###
consumers:
  - username: DASHBOARD
  - username: anon
    keyauth_credentials:
      - key: anon-key
  - username: service_role
    keyauth_credentials:
      - key: service-key
acls:
  - consumer: anon
    group: anon
  - consumer: service_role
    group: admin
services:
  ## Open Auth routes
  - name: auth-v1-open
    url: http://auth:9999/verify
    routes:
      - name: auth-v1-open
        strip_path: true
        paths:
          - /auth/v1/verify
    plugins:
      - name: cors
  ## Secure REST routes
  - name: rest-v1
    _comment: 'PostgREST: /rest/v1/* -> http://rest:3000/*'
    url: http://rest:3000/
    routes:
      - name: rest-v1-all
        strip_path: true
        paths:
          - /rest/v1/
          - /graphql/v1(/.*)?
    plugins:
      - name: cors
      - name: key-auth
        config:
          hide_credentials: true
"##;

#[test]
fn a_supabase_file_of_format_2_1() {
    let config = loaded(SUPABASE);
    assert_eq!(config.services[1].path.as_deref(), Some("/"));
    assert_eq!(config.routes[1].paths, ["/rest/v1/", "~/graphql/v1(/.*)?"], "2.1 files guess expressions");
    assert_eq!((config.acls.len(), config.plugins.len()), (2, 3));
    assert_eq!(config.acls[1].consumer, config.consumers[2].id);
}

const OLD: &str = "
_format_version: \"1.1\"
services:
- {name: a, url: 'https://a.example/base?ignored'}
routes:
- {name: r, service: {name: a}, paths: ['/v\\d+'], _ignore: [x]}
- {name: g, service: {id: 8b2a3d4e-0000-4000-8000-000000000001}, protocols: [grpc], paths: [/pkg.Service/Method]}
upstreams:
- {name: up.internal, hash_on: ip, algorithm: least-connections, targets: [{target: a.internal}, {target: '[::1]:9'}]}
defaults: null
";

#[test]
fn the_oldest_format_flow_style_and_friendly_references() {
    let text = OLD
        .replace("defaults: null\n", "")
        .replace("{name: a, url", "{id: 8b2a3d4e-0000-4000-8000-000000000001, name: a, url");
    let config = loaded(&text);
    assert_eq!((config.services[0].port, config.services[0].path.as_deref()), (443, Some("/base")));
    assert_eq!(config.routes[0].paths, ["~/v\\d+"]);
    assert!(!config.routes[1].strip_path, "gRPC strips nothing");
    assert_eq!(config.upstreams[0].targets[1].target, "[::1]:9");
    let faults = load(OLD, Format::Yaml).unwrap_err().to_string();
    assert!(faults.contains("in 'defaults': unknown field"), "{faults}");
}

const ANCHORS: &str = r#"
_format_version: "3.0"
services:
- name: one
  host: one
  routes:
  - &route
    name: r1
    paths: [/a]
    strip_path: false
  - <<: *route
    name: r2
"#;

#[test]
fn anchors_and_merges() {
    let config = loaded(ANCHORS);
    assert_eq!(config.routes[1].paths, ["/a"]);
    assert!(!config.routes[1].strip_path);
}

#[test]
fn kongs_words() {
    for (body, path, message) in [
        ("services: [{url: 'localhost:3000'}]", "services[0].host", "required field missing"),
        ("services: [{url: 'http://h:x/'}]", "services[0].port", "expected an integer"),
        ("services: [{host: 'h:80'}]", "services[0].host", "must not have a port"),
        (
            "services: [{host: h, name: 'a b'}]",
            "services[0].name",
            "invalid value 'a b': the only accepted ascii characters are alphanumerics or ., -, _, and ~",
        ),
        (
            "services: [{host: h, path: /a b}]",
            "services[0].path",
            "invalid path: '/a b' (characters outside of the reserved list of RFC 3986 found)",
        ),
        ("services: [{host: h, path: '/%zz'}]", "services[0].path", "invalid url-encoded value: '%zz'"),
        ("services: [{host: h, _comment: 3}]", "services[0]._comment", "expected a string"),
        (
            "routes: [{hosts: ['*.*']}]",
            "routes[0].hosts[0]",
            "invalid wildcard: must have at most one wildcard",
        ),
        (
            "routes: [{hosts: ['a*.b']}]",
            "routes[0].hosts[0]",
            "invalid wildcard: must be placed at leftmost or rightmost label",
        ),
        (
            "routes: [{paths: [/a], protocols: [http, tcp]}]",
            "routes[0].protocols",
            "these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp')",
        ),
        (
            "routes: [{protocols: [http]}]",
            "routes[0].@entity[0]",
            "must set one of 'methods', 'hosts', 'headers', 'paths' when 'protocols' is 'http'",
        ),
        (
            "routes: [{paths: [/a], protocols: [grpc], methods: [GET]}]",
            "routes[0].methods",
            "cannot set 'methods' when 'protocols' is 'grpc' or 'grpcs'",
        ),
        (
            "routes: [{paths: [/a], headers: {host: [x]}}]",
            "routes[0].headers.host",
            "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
        ),
        (
            "upstreams: [{name: u, hash_on: ip, hash_fallback: ip}]",
            "upstreams[0].hash_fallback",
            "expected one of: none, consumer, header, cookie, path, query_arg, uri_capture",
        ),
        (
            "upstreams: [{name: u, targets: [{target: 'a b'}]}]",
            "upstreams[0].targets[0].target",
            "Invalid target ('a b'); not a valid hostname or ip address",
        ),
        ("vaults: [{name: aws, prefix: x1}]", "vaults[0].name", "vault 'aws' is not installed"),
        ("vaults: [{name: env, prefix: env}]", "vaults[0].prefix", "must not be one of: env"),
        (
            "certificates: [{cert: x, key: y, cert_alt: z}]",
            "certificates[0].@entity[0]",
            "all or none of these fields must be set: 'cert_alt', 'key_alt'",
        ),
        ("snis: [{name: 1.2.3.4, certificate: x}]", "snis[0].name", "must not be an IP"),
        (
            "consumers: [{username: u, tags: ['a,b']}]",
            "consumers[0].tags[0]",
            "invalid tag 'a,b': expected printable ascii (except `,` and `/`) or valid utf-8 sequences",
        ),
        ("services: [{host: h, routes: {}}]", "services[0].routes", "expected an array"),
        ("routes: nonsense", "routes", "expected an array"),
    ] {
        let text = format!("_format_version: \"3.0\"\n{body}");
        let faults = load(&text, Format::Yaml).expect_err(body);
        let found: Vec<(String, &str)> =
            faults.list().iter().map(|fault| (fault.path_text(), fault.message.as_str())).collect();
        assert!(
            found.contains(&(path.to_owned(), message)),
            "{body}\nexpected {path}: {message}\nfound {found:?}"
        );
    }
}

/// What a configuration with everything shows has every field that counts as supported, so a row added to a table has to
/// reach the model, or be marked as ignored or different.
#[test]
fn every_supported_field_reaches_the_model() {
    let model = include_str!("../src/model.rs").to_owned()
        + include_str!("../src/model/upstream.rs")
        + include_str!("../src/model/plugin.rs");
    let missing: Vec<String> = plinth_kong::all_fields()
        .into_iter()
        .filter(|(path, supported)| *supported && !path.starts_with("plugins["))
        .map(|(path, _)| path)
        .filter(|path| {
            let field = path.rsplit('.').next().unwrap();
            let named = [format!("pub {field}:"), format!("rename = \"{field}\"")];
            // a target's upstream is where it stands
            !matches!(path.as_str(), "targets[].upstream" | "oauth2_tokens[].credential")
                && !named.iter().any(|name| model.contains(name))
        })
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}
