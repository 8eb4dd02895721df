//! The two servers that every client has to find the same: the embedded agent and a real Consul.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use plinth_testbed::consul::RealConsul;
use plinth_testbed::process::Process;
use plinth_testbed::{http_client, tools};
use serde_json::Value;

use crate::program::{Program, command};

/// How long a client's command may take that does not wait for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Side {
    pub name: &'static str,
    pub addr: SocketAddr,
    /// For what clients read and write; gone with this value.
    pub folder: tempfile::TempDir,
    runs: AtomicUsize,
    _server: Server,
}

/// Held: it ends when dropped.
#[allow(dead_code)]
enum Server {
    Agent(Program),
    Consul(RealConsul),
}

/// What a client's program printed (both outputs) and how it ended.
pub struct Ran {
    pub status: ExitStatus,
    pub output: String,
}

impl Side {
    /// `plinth agent` with a data folder.
    pub async fn agent() -> Side {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = command("plinth");
        agent.args(["agent", "--http-port=0", "--connect", "--data-dir"]).arg(folder.path().join("agent"));
        let program = Program::start("agent", agent, folder.path(), &["http"]).await;
        let addr = program.addresses["http"];
        Side { name: "agent", addr, folder, runs: AtomicUsize::new(0), _server: Server::Agent(program) }
    }

    /// Consul 1.8.7 as a server of its own, with the service mesh on as on the agent, and without its limit of 200 connections.
    pub async fn consul() -> Side {
        let consul = RealConsul::start_with(&[
            "node_name = \"plinth\"",
            "connect { enabled = true }",
            "limits { http_max_conns_per_client = 10000 }",
        ])
        .await;
        let folder = tempfile::tempdir().unwrap();
        let addr = consul.addr;
        Side { name: "consul", addr, folder, runs: AtomicUsize::new(0), _server: Server::Consul(consul) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let sent = http_client::send(method.clone(), &self.url(path), &[], body).await;
        sent.unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.name))
    }

    /// GET that has to succeed with JSON.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.send(Method::GET, path, "").await;
        assert_eq!(answer.status(), 200, "{}: GET {path}: {:?}", self.name, answer.body());
        serde_json::from_slice(answer.body())
            .unwrap_or_else(|error| panic!("{}: GET {path}: {error}: {:?}", self.name, answer.body()))
    }

    /// PUT that has to succeed.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) {
        let answer = self.send(Method::PUT, path, body).await;
        assert_eq!(answer.status(), 200, "{}: PUT {path}: {:?}", self.name, answer.body());
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts a client's program in this side's folder. Clients of every language look at `CONSUL_HTTP_ADDR`.
    pub fn start(&self, name: &str, mut command: Command) -> Process {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        command.current_dir(self.folder.path()).env("CONSUL_HTTP_ADDR", self.addr.to_string());
        Process::spawn(&format!("{name}-{number}"), command, self.folder.path())
    }

    /// Runs a client's program to its end.
    pub fn run(&self, name: &str, command: Command, limit: Duration) -> Ran {
        let mut process = self.start(name, command);
        let status = tokio::task::block_in_place(|| process.wait(limit));
        Ran { status, output: process.output() }
    }

    /// The `consul` command line.
    pub fn consul_command(arguments: &[&str]) -> Command {
        let mut command = Command::new(consul_binary());
        command.args(arguments);
        command
    }

    /// The `consul` command line, which has to succeed; what it printed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let ran = self.run("cli", Self::consul_command(arguments), LIMIT);
        assert!(ran.status.success(), "{}: consul {arguments:?}: {}\n{}", self.name, ran.status, ran.output);
        ran.output
    }
}

pub fn consul_binary() -> PathBuf {
    tools::program(
        "consul",
        "PLINTH_TEST_CONSUL_BIN",
        &[tools::folder().join("consul-1.8.7/usr/bin/consul")],
        "Consul 1.8.7",
    )
}

/// A file or folder that `cargo xtask test` puts into the tools folder.
pub fn tool(path: &str, what: &str) -> PathBuf {
    let tool = tools::folder().join(path);
    assert!(tool.exists(), "this test needs {what} at {}: `cargo xtask provision` gets it", tool.display());
    tool
}

/// A file of this test's own folder.
pub fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(path)
}

/// Each test once on the agent and once on Consul.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod agent {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::side::Side::agent().await).await;
            })*
        }
        mod consul {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::side::Side::consul().await).await;
            })*
        }
    };
}
pub(crate) use on_both;
