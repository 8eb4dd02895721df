//! The seed's Kong file with a fresh key pair, and tokens for its consumer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

pub struct Seed {
    pub file: PathBuf,
    /// Where its file-log plugin writes.
    pub log: PathBuf,
    key: EncodingKey,
}

impl Seed {
    /// `infrastructure/kong/kong.yml` with the names of this machine: Redis, the log's folder, the consumer's key.
    pub fn write(folder: &Path, redis: SocketAddr) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("RSA key");
        let private: Pkcs8V1Der<'_> = pair.as_der().expect("private key");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("public key");
        let original = concat!(env!("CARGO_MANIFEST_DIR"), "/../infrastructure/kong/kong.yml");
        let text = std::fs::read_to_string(original).expect("the seed's file");
        let log = folder.join("access.log");
        let text = with_key(&text, &pem("PUBLIC KEY", public.as_ref()))
            .replace("/var/log/kong/access.log", &log.display().to_string());
        let text = with_redis(&text, redis);
        let file = folder.join("kong.yml");
        std::fs::write(&file, text).expect("the copy");
        let key =
            EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).expect("signing key");
        Self { file, log, key }
    }

    /// The same with limits that a load test does not reach, as a further file.
    pub fn with_raised_limits(&self) -> PathBuf {
        let text = std::fs::read_to_string(&self.file).expect("the copy");
        let raised = text
            .replace("minute: 100", "minute: 1000000")
            .replace("hour: 1000", "hour: 10000000")
            .replace("day: 10000", "day: 100000000");
        assert_ne!(raised, text, "the seed's limits are where this test expects them");
        let file = self.file.with_file_name("kong-raised.yml");
        std::fs::write(&file, raised).expect("the raised copy");
        file
    }

    /// A token of the consumer frontend-app, valid from now for `seconds`.
    pub fn token(&self, seconds: i64) -> String {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_secs())
            .expect("time");
        let claims = json!({ "iss": "frontend-app-key", "iat": now, "exp": now + seconds });
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key).expect("token")
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..encoded.len()).step_by(64).map(|at| &encoded[at..(at + 64).min(encoded.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Replaces the block scalar of `rsa_public_key`, keeping its indentation.
fn with_key(text: &str, pem: &str) -> String {
    let mut lines = text.lines().peekable();
    let mut out = Vec::new();
    while let Some(line) = lines.next() {
        out.push(line.to_owned());
        if !line.trim_start().starts_with("rsa_public_key:") {
            continue;
        }
        let indent = line.len() - line.trim_start().len() + 2;
        while lines.next_if(|next| next.len() - next.trim_start().len() >= indent).is_some() {}
        out.extend(pem.lines().map(|line| format!("{:indent$}{line}", "")));
    }
    out.join("\n") + "\n"
}

fn with_redis(text: &str, redis: SocketAddr) -> String {
    text.lines()
        .map(|line| {
            let indent = &line[..line.len() - line.trim_start().len()];
            match line.trim_start() {
                rest if rest.starts_with("redis_host:") => format!("{indent}redis_host: {}", redis.ip()),
                rest if rest.starts_with("redis_port:") => format!("{indent}redis_port: {}", redis.port()),
                _ => line.to_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
        + "\n"
}
