//! The demo: four instances of the example service as child processes, a consumer with a key, a ready token.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use plinth_core::consul::{Client, Read};

use crate::api::Api;
use crate::commands::{Access, ClientTls, Output};
use crate::failure::Failure;

/// How long the printed token is valid.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);
/// Service, instance id.
const INSTANCES: [(&str, &str); 4] = [
    ("user-service", "user-1"),
    ("user-service", "user-2"),
    ("document-service", "document-1"),
    ("document-service", "document-2"),
];

/// Longest wait for the instances to register and for the gateway to know them, and the time between two looks.
const REACH_LIMIT: Duration = Duration::from_secs(10);
const REACH_INTERVAL: Duration = Duration::from_millis(10);

pub struct Demo {
    /// The Kong file with the consumer's public key.
    pub kong: PathBuf,
    /// A token of that consumer.
    pub token: String,
}

impl Demo {
    /// Waits until every instance is in the catalog and both services are reached through the gateway.
    pub async fn routed(&self, consul: &Client, proxy: &str, data_dir: &Path) -> Result<(), Failure> {
        let access = Access {
            token: Some(self.token.clone()),
            data_dir: data_dir.to_owned(),
            output: Output::Json,
            tls: ClientTls::default(),
        };
        let gateway = Api::new(proxy, "gateway", &access)?;
        let end = tokio::time::Instant::now() + REACH_LIMIT;
        loop {
            match reach(consul, &gateway).await {
                Err(failure) if tokio::time::Instant::now() >= end => return Err(failure),
                Err(_) => tokio::time::sleep(REACH_INTERVAL).await,
                Ok(()) => return Ok(()),
            }
        }
    }
}

async fn reach(consul: &Client, gateway: &Api) -> Result<(), Failure> {
    for (service, path) in [("user-service", "/api/v1/users/1"), ("document-service", "/api/v1/documents/1")]
    {
        let found =
            consul.health().service(service, true, &[], &Read::default()).await.map_err(Failure::no)?.value;
        let ids = INSTANCES.iter().filter(|instance| instance.0 == service).map(|instance| instance.1);
        for id in ids {
            if !found.iter().any(|entry| entry.service.id == id) {
                return Err(Failure::no(format!("{id} is not registered")));
            }
        }
        // Only 503 gets better by waiting; a file of the user's own need not have these routes at all.
        if let Err(failure) = gateway.get(path).await
            && failure.is_unavailable()
        {
            return Err(failure);
        }
    }
    Ok(())
}

/// Makes key, Kong file and token below `folder`; an existing key is kept, the file is kept when it was edited.
pub fn prepare(folder: &Path) -> Result<Demo, Failure> {
    let at = |path: &Path, error: &dyn std::fmt::Display| Failure::no(format!("{}: {error}", path.display()));
    fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    let key_file = folder.join("frontend-app.pem");
    let public_file = folder.join("frontend-app.pub.pem");
    if !key_file.exists() {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Failure::no("no RSA key can be made"))?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| Failure::no("no RSA key can be made"))?;
        let public: PublicKeyX509Der<'_> =
            pair.public_key().as_der().map_err(|_| Failure::no("no RSA key can be made"))?;
        fs::write(&public_file, pem("PUBLIC KEY", public.as_ref()))
            .map_err(|error| at(&public_file, &error))?;
        write_private(&key_file, &pem("PRIVATE KEY", private.as_ref()))
            .map_err(|error| at(&key_file, &error))?;
    }
    let private = fs::read(&key_file).map_err(|error| at(&key_file, &error))?;
    let public = fs::read_to_string(&public_file).map_err(|error| at(&public_file, &error))?;
    let kong = folder.join("kong.yml");
    if !kong.exists() {
        let indented: Vec<String> = public.lines().map(|line| format!("          {line}")).collect();
        let text = include_str!("demo.yml")
            .replace("@key@", &indented.join("\n"))
            .replace("@log@", &folder.join("access.log").display().to_string());
        fs::write(&kong, text).map_err(|error| at(&kong, &error))?;
    }
    let key = EncodingKey::from_rsa_pem(&private).map_err(|error| at(&key_file, &error))?;
    Ok(Demo { kong, token: token(&key)? })
}

fn token(key: &EncodingKey) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Failure::no)?.as_secs();
    let claims = json!({ "iss": "frontend-app-key", "iat": now, "exp": now + TOKEN_TTL.as_secs() });
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, key).map_err(Failure::no)
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())
}

/// The running instances; ended with this value. One of them dying is what the demo is for, so nobody restarts it.
pub struct Instances(Vec<(&'static str, Child)>);

impl Instances {
    /// This program again, as the example service: `cargo run -p plinth` builds no other one.
    pub fn start(consul: &str, folder: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::no)?;
        let mut children = Self(Vec::new());
        for (name, id) in INSTANCES {
            let log = folder.join(format!("{id}.log"));
            let log =
                fs::File::create(&log).map_err(|error| Failure::no(format!("{}: {error}", log.display())))?;
            let mut command = Command::new(&program);
            command.args([super::DEMO_INSTANCE, "--name", name, "--id", id, "--listen", "127.0.0.1:0"]);
            command.env("CONSUL_HTTP_ADDR", consul).stdin(Stdio::piped()).stderr(log).stdout(Stdio::null());
            children.0.push((id, command.spawn().map_err(Failure::no)?));
        }
        Ok(children)
    }

    /// Instance id and process id, for the table.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.0.iter().map(|(id, child)| (*id, child.id()))
    }

    /// SIGTERM to each, so that they deregister; SIGKILL after `limit`.
    pub async fn stop(&mut self, limit: Duration) {
        for (_, child) in &mut self.0 {
            if matches!(child.try_wait(), Ok(None)) {
                let _ended_meanwhile = rustix::process::kill_process(
                    rustix::process::Pid::from_child(child),
                    rustix::process::Signal::TERM,
                );
            }
        }
        let end = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < end {
            if self.0.iter_mut().all(|(_, child)| !matches!(child.try_wait(), Ok(None))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            if matches!(child.try_wait(), Ok(None)) {
                let _ended_meanwhile = child.kill();
                let _status = child.wait();
            }
        }
    }
}
