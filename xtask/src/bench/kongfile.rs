//! Kong files of the benchmarks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::process::Failed;

/// Thirteen routes, as many as the prototypes had, all to one upstream.
pub fn plain(folder: &Path, upstream: SocketAddr) -> Result<PathBuf, Failed> {
    write(folder, "plain.yml", &services(upstream))
}

/// The same with the seed's plugins, limits local and out of reach. Also the headers that a client sends.
pub fn with_plugins(folder: &Path, upstream: SocketAddr) -> Result<(PathBuf, Vec<String>), Failed> {
    let fault = |what: &str| Failed(format!("RSA key of the benchmark: {what}"));
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| fault("cannot be made"))?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| fault("has no DER form"))?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| fault("has no DER form"))?;
    let key = pem("PUBLIC KEY", public.as_ref())
        .lines()
        .map(|line| format!("          {line}\n"))
        .collect::<String>();
    let log = folder.join("access.log");
    let text = format!(
        "{}plugins:
  - name: jwt
    config: {{ uri_param_names: [token], cookie_names: [jwt], claims_to_verify: [exp], run_on_preflight: true }}
  - name: rate-limiting
    config: {{ minute: 100000000, hour: 1000000000, day: 1000000000, policy: local }}
  - name: cors
    config:
      origins: [\"http://localhost:3000\", \"https://app.example.com\"]
      methods: [GET, POST, PUT, DELETE, OPTIONS]
      exposed_headers: [X-Auth-Token]
      credentials: true
      max_age: 3600
  - name: file-log
    config: {{ path: \"{}\", reopen: true }}
  - name: prometheus
    config: {{ per_consumer: true, status_code_metrics: true, latency_metrics: true, bandwidth_metrics: true, upstream_health_metrics: true }}
consumers:
  - username: frontend-app
    jwt_secrets:
      - key: frontend-app-key
        algorithm: RS256
        rsa_public_key: |
{key}",
        services(upstream),
        log.display()
    );
    let signing = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes())
        .map_err(|error| fault(&error.to_string()))?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| fault("the clock is before 1970"))?
        .as_secs();
    let claims = serde_json::json!({ "iss": "frontend-app-key", "iat": now, "exp": now + 86_400 });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &signing)
        .map_err(|error| fault(&error.to_string()))?;
    let headers =
        vec![format!("Authorization: Bearer {token}"), "Origin: https://app.example.com".to_owned()];
    Ok((write(folder, "plugins.yml", &text)?, headers))
}

fn services(upstream: SocketAddr) -> String {
    let paths = [
        "users",
        "orders",
        "products",
        "carts",
        "payments",
        "invoices",
        "shipments",
        "reviews",
        "search",
        "media",
        "auth",
        "admin",
        "events",
    ];
    let mut text = format!(
        "_format_version: \"3.0\"\nservices:\n  - name: upstream\n    url: http://{upstream}\n    routes:\n"
    );
    for path in paths {
        text.push_str(&format!("      - {{ name: {path}, paths: [/api/v1/{path}], strip_path: false }}\n"));
    }
    text
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> =
        encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Failed> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
    Ok(path)
}
