//! A real Consul 1.8.7 server with a data folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::{PortLease, eventually, http_client, tools};

/// `consul agent -server -bootstrap-expect=1` on loopback. `kill` and `start_again` keep address and data.
pub struct RealConsul {
    /// Address of the HTTP API.
    pub addr: SocketAddr,
    ports: [PortLease; 4],
    folder: tempfile::TempDir,
    extra: Vec<String>,
    process: Option<Process>,
}

impl RealConsul {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// `extra` is a list of further configuration in HCL, e.g. `limits { http_max_conns_per_client = 1000 }`.
    pub async fn start_with(extra: &[&str]) -> Self {
        let ports = std::array::from_fn(|_| PortLease::take());
        let mut consul = Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0].port())),
            ports,
            folder: tempfile::tempdir().expect("temporary folder"),
            extra: extra.iter().map(|part| (*part).to_owned()).collect(),
            process: None,
        };
        consul.start_again().await;
        consul
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on the same address and data; returns when it has a leader and its own service is in the catalog.
    pub async fn start_again(&mut self) {
        let binary = tools::program(
            "consul",
            "PLINTH_TEST_CONSUL_BIN",
            &[tools::folder().join("consul-1.8.7/usr/bin/consul")],
            "Consul 1.8.7",
        );
        let [http, server, lan, wan] = &self.ports;
        let mut command = Command::new(binary);
        command.args(["agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1"]);
        command.arg(format!("-data-dir={}", self.folder.path().join("data").display()));
        for part in self
            .extra
            .iter()
            .map(String::as_str)
            .chain(["disable_update_check = true", "log_level = \"WARN\""])
        {
            command.arg(format!("-hcl={part}"));
        }
        command.arg(format!(
            "-hcl=ports {{ http = {}, server = {}, serf_lan = {}, serf_wan = {}, dns = -1, grpc = -1, https = -1 }}",
            http.port(),
            server.port(),
            lan.port(),
            wan.port()
        ));
        // One fast node: the default multiplier 5 makes elections of a single server take seconds.
        command.arg("-hcl=performance { raft_multiplier = 1 }");
        let process = self.process.insert(Process::spawn("consul", command, self.folder.path()));
        let url = format!("http://{}/v1/health/service/consul", self.addr);
        eventually("Consul has a leader", Duration::from_secs(30), || {
            process.assert_running();
            let url = url.clone();
            async move {
                let answer = http_client::get(&url).await.map_err(|error| error.to_string())?;
                let led = answer.headers().get("x-consul-knownleader").is_some_and(|value| value == "true");
                if answer.status() == 200 && led && answer.body().len() > 2 {
                    Ok(())
                } else {
                    Err(format!("{} {:?}", answer.status(), answer.body()))
                }
            }
        })
        .await;
    }
}
