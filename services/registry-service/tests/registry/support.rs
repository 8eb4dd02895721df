//! Replicas of registry-service as processes, on either kind of Consul, and a caller with a token.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use plinth_kit::auth::TokenKey;
use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::{PortLease, eventually, holds, http_client};
use serde_json::{Value, json};

use crate::backend::Backend;

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A Consul, a key pair for tokens, and whatever replicas a test starts.
pub struct Platform {
    pub backend: Backend,
    folder: tempfile::TempDir,
    key: TokenKey,
}

impl Platform {
    pub async fn on_agent() -> Self {
        Self::new(Backend::agent().await)
    }

    pub async fn on_consul() -> Self {
        Self::new(Backend::Consul(RealConsul::start().await))
    }

    fn new(backend: Backend) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = TokenKey::load_or_create(folder.path()).unwrap();
        std::fs::write(folder.path().join("public.pem"), key.public_pem()).unwrap();
        Self { backend, folder, key }
    }

    /// A caller named `subject` with these scopes.
    pub fn caller(&self, subject: &str, scopes: &[&str]) -> Caller {
        let scopes: Vec<_> = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        Caller { token: Some(self.key.issue(subject, &scopes, Duration::from_secs(600)).unwrap()) }
    }

    /// A caller who may read and write everything.
    pub fn owner(&self, subject: &str) -> Caller {
        self.caller(subject, &["services:read", "services:write"])
    }

    /// Starts a replica and waits until it is ready.
    pub async fn replica(&self, name: &'static str) -> Replica {
        let mut replica = self.idle_replica(name);
        replica.start().await;
        replica
    }

    /// A replica that is not started yet.
    pub fn idle_replica(&self, name: &'static str) -> Replica {
        let port = PortLease::take();
        Replica {
            name,
            port,
            folder: self.folder.path().to_owned(),
            consul: self.backend.addr(),
            process: None,
            registers: false,
        }
    }
}

/// One registry-service process.
pub struct Replica {
    name: &'static str,
    port: PortLease,
    folder: PathBuf,
    consul: std::net::SocketAddr,
    process: Option<Process>,
    /// Whether it is in the catalog itself; off, so that lists hold what the test registers and nothing else.
    pub registers: bool,
}

impl Replica {
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port.port())
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on its port; returns when it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    pub fn spawn(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-service"));
        command
            .arg(format!("--listen=127.0.0.1:{}", self.port.port()))
            .arg(format!("--consul-address=http://{}", self.consul))
            .arg(format!("--auth-key-file={}", self.folder.join("public.pem").display()))
            .arg("--shutdown-drain-delay=0s")
            // reading one's writes, however busy the machine is
            .args(["--writes-settle=20s", "--reads-catch-up=10s"])
            .arg(format!("--register={}", self.registers))
            .env_clear();
        self.process = Some(Process::spawn(self.name, command, &self.folder));
    }

    pub async fn ready(&mut self) {
        let ready = self.url("/health/ready");
        let process = self.process.as_mut().unwrap();
        eventually("the replica is ready", DEADLINE, || {
            process.assert_running();
            let ready = ready.clone();
            async move {
                let answer = http_client::get(&ready).await.map_err(|error| error.to_string())?;
                holds(answer.status() == 200, format!("{:?}", answer.body()))
            }
        })
        .await;
    }
}

/// Somebody with a token, or without.
#[derive(Clone)]
pub struct Caller {
    token: Option<String>,
}

/// An answer, its JSON parsed.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Caller {
    pub const NOBODY: Self = Self { token: None };

    pub fn with_token(token: &str) -> Self {
        Self { token: Some(token.to_owned()) }
    }

    /// The value of the Authorization header.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token.as_deref().unwrap_or_default())
    }

    pub async fn send(&self, method: Method, url: &str, body: Option<Value>) -> Answer {
        self.try_send(method, url, body).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    pub async fn try_send(&self, method: Method, url: &str, body: Option<Value>) -> std::io::Result<Answer> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let answer = http_client::send(method, url, &headers, body).await?;
        let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        Ok(Answer { status: answer.status(), headers: answer.headers().clone(), body })
    }

    pub async fn get(&self, url: String) -> Answer {
        self.send(Method::GET, &url, None).await
    }

    pub async fn delete(&self, url: String) -> Answer {
        self.send(Method::DELETE, &url, None).await
    }

    pub async fn put(&self, url: String, body: Value) -> Answer {
        self.send(Method::PUT, &url, Some(body)).await
    }

    pub async fn register(&self, replica: &Replica, body: Value) -> Answer {
        self.send(Method::POST, &replica.url("/api/v1/services/register"), Some(body)).await
    }

    /// Waits until discover at `replica` gives what `wanted` says.
    pub async fn finds(
        &self,
        replica: &Replica,
        query: &str,
        what: &str,
        wanted: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let url = replica.url(&format!("/api/v1/services/discover/{query}"));
        eventually(what, DEADLINE, || async {
            let answer = self.try_send(Method::GET, &url, None).await.map_err(|error| error.to_string())?;
            if wanted(&answer) { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await
    }
}

impl Answer {
    /// `X-Plinth-Index`.
    pub fn index(&self) -> u64 {
        self.headers["x-plinth-index"].to_str().unwrap().parse().unwrap()
    }

    /// `X-Plinth-Index`, 0 for an answer without one.
    pub fn status_index(&self) -> u64 {
        if self.headers.contains_key("x-plinth-index") { self.index() } else { 0 }
    }

    /// The ids in an answer of discover or list, sorted.
    pub fn ids(&self) -> Vec<String> {
        let services = self.body["services"].as_array().into_iter().flatten();
        let mut ids: Vec<String> =
            services.map(|one| one["service_id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    /// The fields that a problem names, sorted.
    pub fn faults(&self) -> Vec<String> {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:?}");
        let errors = self.body["errors"].as_array().into_iter().flatten();
        let mut fields: Vec<String> = errors.map(|one| one["field"].as_str().unwrap().to_owned()).collect();
        fields.sort();
        fields
    }
}

/// An instance without checks: healthy as long as it is registered.
pub fn instance(name: &str, id: &str) -> Value {
    json!({"service_name": name, "service_id": id, "address": "10.0.0.1", "port": 8001})
}
