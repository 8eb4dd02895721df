//! The whole platform: each service its own process, two replicas where a user would have them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plinth_testbed::{eventually, holds};

use super::backend::{Backend, Kind};
use super::client::{get, json};
use super::program::{Program, command};

pub struct Platform {
    pub backend: Backend,
    pub registry: Vec<Program>,
    pub aggregators: Vec<Program>,
    pub config: Program,
    pub folder: tempfile::TempDir,
}

impl Platform {
    pub async fn start(kind: Kind) -> Self {
        let backend = Backend::start(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let start = |program: &'static str, label: &'static str| {
            Self::start_one(&backend, folder.path(), program, label, &[])
        };
        let (first, second, third, fourth) = tokio::join!(
            start("registry-service", "registry-1"),
            start("registry-service", "registry-2"),
            start("health-aggregator", "health-1"),
            start("health-aggregator", "health-2"),
        );
        let config = start("config-service", "config").await;
        let platform =
            Self { registry: vec![first, second], aggregators: vec![third, fourth], config, backend, folder };
        for service in platform.registry.iter().chain(&platform.aggregators).chain([&platform.config]) {
            ready(service, "http").await;
        }
        platform
    }

    /// A further replica of one of the services, with more flags.
    pub async fn replica(&self, program: &str, label: &str, more: &[&str]) -> Program {
        let replica = Self::start_one(&self.backend, self.folder.path(), program, label, more).await;
        ready(&replica, "http").await;
        replica
    }

    async fn start_one(
        backend: &Backend,
        folder: &Path,
        program: &str,
        label: &str,
        more: &[&str],
    ) -> Program {
        let mut command = service(backend, folder, program, label);
        command.args(["--listen", "127.0.0.1:0"]).args(more);
        Program::start(label, command, folder, &["http"]).await
    }

    /// The gateway with a Kong file; ready when this returns.
    pub async fn gateway(&self, label: &str, kong: &Path) -> Program {
        gateway(&self.backend, self.folder.path(), label, kong, &[]).await
    }

    /// An instance of the example service that registers itself as `name`.
    pub async fn demo(&self, name: &str, id: &str) -> Program {
        let mut command = service(&self.backend, self.folder.path(), "demo-service", id);
        command.args(["--listen", "127.0.0.1:0", "--name", name, "--id", id]);
        Program::start(id, command, self.folder.path(), &["http"]).await
    }

    /// Waits until `count` instances of `name` are healthy in the eyes of the first registry replica.
    pub async fn discovered(&self, name: &str, count: usize, within: Duration) {
        let url =
            self.registry[0].url("http", &format!("/api/v1/services/discover/{name}?healthy_only=true"));
        eventually(&format!("{count} healthy instances of {name}"), within, || {
            let url = url.clone();
            async move {
                let answer = get(&url).await;
                let found = json(&answer)["services"].as_array().map_or(0, Vec::len);
                holds(found == count, format!("{} {:?}", answer.status(), answer.body()))
            }
        })
        .await;
    }
}

/// One of the services, with its own data folder and this platform's Consul.
pub fn service(backend: &Backend, folder: &Path, program: &str, label: &str) -> Command {
    let mut command = command(program);
    command.env("CONSUL_HTTP_ADDR", backend.address().to_string());
    // What is true of a machine with time to spare: answers come after Consul has the write, and Redis is in time.
    match program {
        "config-service" => {
            command.arg("--data-dir").arg(folder.join(label)).args(["--write-publish-wait", "15s"])
        }
        "registry-service" => command.args(["--writes-settle", "20s", "--reads-catch-up", "10s"]),
        "gateway" => command.args(["--redis-deadline", "2s"]),
        _ => &mut command,
    };
    command
}

/// A gateway with a Kong file; ready when this returns.
pub async fn gateway(backend: &Backend, folder: &Path, label: &str, kong: &Path, more: &[&str]) -> Program {
    let mut command = service(backend, folder, "gateway", label);
    command.arg("--config").arg(kong).args(more);
    for listen in ["--proxy-listen", "--admin-listen", "--status-listen"] {
        command.args([listen, "127.0.0.1:0"]);
    }
    let gateway = Program::start(label, command, folder, &["proxy", "admin", "status"]).await;
    eventually("the gateway is ready", Duration::from_secs(10), || {
        let url = gateway.url("status", "/status/ready");
        async move {
            let answer = get(&url).await;
            holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
        }
    })
    .await;
    gateway
}

pub async fn ready(service: &Program, listener: &str) {
    eventually(&format!("{} is ready", service.name), Duration::from_secs(15), || {
        let url = service.url(listener, "/health/ready");
        async move {
            let answer = get(&url).await;
            holds(answer.status() == 200, format!("{} {:?}", answer.status(), answer.body()))
        }
    })
    .await;
}
