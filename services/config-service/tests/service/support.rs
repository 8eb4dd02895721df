//! The service under test and the Consul it talks to.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use plinth_agent::{Agent, Data, Settings as AgentSettings};
use plinth_core::consul::{Client, PutOptions, Read, Settings};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::{PortLease, eventually, http_client};
use serde_json::Value;
use tokio::runtime::Runtime;

pub const DEADLINE: Duration = Duration::from_secs(15);

/// Real Consul, or the embedded agent with a data folder.
pub enum Consul {
    Real(Box<RealConsul>),
    Agent(Box<Embedded>),
}

/// The agent on a runtime of its own: ending that drops all its connections at once, with nothing tidied up, which is
/// what a crash looks like from outside.
pub struct Embedded {
    addr: SocketAddr,
    /// Nobody else gets the port while the agent is dead.
    _lease: PortLease,
    folder: tempfile::TempDir,
    agent: Option<(Runtime, Agent)>,
}

impl Embedded {
    async fn start(&mut self) {
        let (addr, folder) = (self.addr, self.folder.path().to_owned());
        // The address and the folder's lock are free only when the last task of the one before is gone.
        let (runtime, agent) = eventually("the agent starts", DEADLINE, || async {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let settings = AgentSettings {
                http_port: addr.port(),
                data: Data::Dir(folder.clone()),
                ..AgentSettings::default()
            };
            match runtime.spawn(Agent::start(settings)).await.unwrap() {
                Ok(agent) => Ok((runtime, agent)),
                Err(error) => {
                    runtime.shutdown_background();
                    Err(plinth_core::error::chain(&error))
                }
            }
        })
        .await;
        self.addr = agent.address();
        self.agent = Some((runtime, agent));
    }

    fn kill(&mut self) {
        if let Some((runtime, agent)) = self.agent.take() {
            runtime.shutdown_background();
            drop(agent);
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Consul {
    pub async fn real() -> Self {
        Self::Real(Box::new(RealConsul::start().await))
    }

    pub async fn agent() -> Self {
        let lease = PortLease::take();
        let addr = SocketAddr::from(([127, 0, 0, 1], lease.port()));
        let mut embedded =
            Embedded { addr, _lease: lease, folder: tempfile::tempdir().unwrap(), agent: None };
        embedded.start().await;
        Self::Agent(Box::new(embedded))
    }

    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Real(consul) => consul.addr,
            Self::Agent(embedded) => embedded.addr,
        }
    }

    pub async fn kill(&mut self) {
        match self {
            Self::Real(consul) => consul.kill(),
            Self::Agent(embedded) => embedded.kill(),
        }
    }

    pub async fn start_again(&mut self) {
        match self {
            Self::Real(consul) => consul.start_again().await,
            Self::Agent(embedded) => embedded.start().await,
        }
    }

    pub fn client(&self) -> Client {
        Client::new(Settings::http(self.addr())).unwrap()
    }

    /// Flags and text of a KV key below `plinth/config/`.
    pub async fn kv(&self, key: &str) -> Option<(u64, String)> {
        let found = self.client().kv().get(&format!("plinth/config/{key}"), &Read::default()).await.unwrap();
        found.value.map(|pair| (pair.flags, String::from_utf8(pair.value.to_vec()).unwrap()))
    }

    /// What somebody with the `consul` command does.
    pub async fn kv_put(&self, key: &str, value: &str) {
        let key = format!("plinth/config/{key}");
        let value = Bytes::copy_from_slice(value.as_bytes());
        assert!(self.client().kv().put(&key, value, PutOptions::default()).await.unwrap());
    }
}

/// A running config-service.
pub struct Service {
    pub process: Process,
    pub base: String,
}

/// An answer of the service.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn index(&self) -> u64 {
        self.headers["x-plinth-index"].to_str().unwrap().parse().unwrap()
    }

    pub fn etag(&self) -> &str {
        self.headers["etag"].to_str().unwrap()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// Starts the binary; the log goes to `folder/<name>.log`.
pub fn spawn(consul: SocketAddr, folder: &Path, name: &str, flags: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_config-service"));
    command
        .env_clear()
        .env("CONSUL_HTTP_ADDR", consul.to_string())
        .args(["--shutdown-drain-delay", "0s", "--data-dir"])
        .arg(folder.join("data"))
        .args(flags);
    // A write is answered when Consul has it, however busy the machine is.
    for (flag, value) in [("--listen", "127.0.0.1:0"), ("--write-publish-wait", "15s")] {
        if !flags.contains(&flag) {
            command.args([flag, value]);
        }
    }
    Process::spawn(name, command, folder)
}

impl Service {
    /// Starts the service and waits until it is ready.
    pub async fn start(consul: SocketAddr, folder: &Path, name: &str, flags: &[&str]) -> Self {
        let service = Self::launch(consul, folder, name, flags).await;
        eventually("the service is ready", DEADLINE, || async {
            let ready = http_client::get(&format!("{}/health/ready", service.base)).await;
            match ready {
                Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
                other => Err(format!("{other:?}\n{}", service.process.output())),
            }
        })
        .await;
        service
    }

    /// Starts the service and waits until it listens.
    pub async fn launch(consul: SocketAddr, folder: &Path, name: &str, flags: &[&str]) -> Self {
        // A restarted service appends to the same log: only what it prints itself counts.
        let before = std::fs::metadata(folder.join(format!("{name}.log"))).map_or(0, |log| log.len());
        let before = usize::try_from(before).unwrap();
        let mut process = spawn(consul, folder, name, flags);
        let end = tokio::time::Instant::now() + DEADLINE;
        let base = loop {
            let output = process.output();
            let line = output[before..].lines().find_map(|line| line.split("http listening on ").nth(1));
            if let Some(base) = line.filter(|base| base.len() > "http://127.0.0.1:".len()) {
                break base.to_owned();
            }
            process.assert_running();
            assert!(tokio::time::Instant::now() < end, "does not listen:\n{output}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Self { process, base }
    }

    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.try_call(method, path, headers, body).await.unwrap()
    }

    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Answer> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        let url = format!("{}{path}", self.base);
        let answer = http_client::send(method, &url, &all, body.to_owned()).await?;
        let (head, body) = answer.into_parts();
        let body =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or(Value::Null) };
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    /// PUT of a value to `/api/v1/config/<item>`.
    pub async fn put(&self, item: &str, value: &str) -> Answer {
        let path = format!("/api/v1/config/{item}");
        self.call(Method::PUT, &path, &[], &format!("{{\"value\":{value}}}")).await
    }

    pub async fn value(&self, item: &str) -> Value {
        self.get(&format!("/api/v1/config/{item}")).await.body["value"].clone()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }
}
