//! The two servers of the catalog that are compared: the embedded agent and real Consul, both with a data folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Failed;
use crate::provision;

use super::running::Running;
use super::{http, pinned, program};

/// A running server of Consul's API.
pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    process: Running,
}

impl Server {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until it accepts writes.
    fn ready(mut self) -> Result<Self, Failed> {
        let address = self.address;
        self.process.until(&format!("{} has a leader", self.name), || {
            http::ask(address, "GET", "/v1/status/leader", &[], "")
                .is_some_and(|answer| answer.body.len() > 4)
        })?;
        Ok(self)
    }
}

/// Consul 1.8.7 as a server of its own, without its limit of connections per address. Its other ports follow `port`.
pub fn consul(folder: &Path, port: u16, core: Option<u32>) -> Result<Server, Failed> {
    let tools = provision::for_tests()?;
    let mut command = on(core, &tools.consul);
    command.args(["agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1"]);
    command.arg(format!("-data-dir={}", folder.join(format!("consul-{port}")).display()));
    command.arg(format!(
        "-hcl=ports {{ http = {port}, server = {}, serf_lan = {}, serf_wan = {}, dns = -1, grpc = -1 }}",
        port + 1,
        port + 2,
        port + 3
    ));
    command.args([
        "-hcl=log_level = \"ERROR\"",
        "-hcl=disable_update_check = true",
        "-hcl=performance { raft_multiplier = 1 }",
        "-hcl=limits { http_max_conns_per_client = 15000 }",
    ]);
    let process = Running::start(&format!("consul-{port}"), command, folder)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Server { name: "Consul 1.8.7", address, process }.ready()
}

/// `plinth agent` with its data in `data`, kept from run to run.
pub fn agent(folder: &Path, data: &Path, port: u16, core: Option<u32>) -> Result<Server, Failed> {
    let mut command = on(core, &program("plinth"));
    command.args(["agent", "--log-level", "warn", "--http-port", &port.to_string()]);
    command.arg("--data-dir").arg(data);
    let process = Running::start(&format!("agent-{port}"), command, folder)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Server { name: "plinth agent", address, process }.ready()
}

fn on(core: Option<u32>, program: &PathBuf) -> Command {
    match core {
        Some(core) => pinned(core, program),
        None => Command::new(program),
    }
}
