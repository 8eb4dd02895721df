//! `plinth agent`, and the agent inside `plinth up`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use plinth_agent::{Agent, Data, Settings};
use plinth_core::Secret;
use plinth_kit::lifecycle::{Shutdown, ShutdownSettings, Signals};
use plinth_kit::telemetry::{Telemetry, TelemetrySettings};

use crate::commands;
use crate::failure::Failure;
use crate::print;
use crate::up::http;

/// Runs the agent alone until SIGTERM or SIGINT.
pub fn run(command: &commands::Agent) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::no)?;
    let mut telemetry = TelemetrySettings::new("plinth-agent", env!("CARGO_PKG_VERSION"));
    telemetry.level.clone_from(&command.log_level);
    let telemetry = Telemetry::init(&telemetry, runtime.handle()).map_err(Failure::no)?;
    let outcome = runtime.block_on(serve(command));
    telemetry.shutdown();
    outcome
}

async fn serve(command: &commands::Agent) -> Result<(), Failure> {
    let shutdown = Shutdown::new(ShutdownSettings::default());
    let _signals = tokio::spawn(Signals::install().map_err(Failure::no)?.stop(shutdown.clone()));
    let token = match &command.token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::usage(format!("--token-file {}: {error}", file.display())))?;
            Some(Secret::new(text.trim()))
        }
        None => None,
    };
    let data = match &command.data_dir {
        Some(folder) => Data::Dir(folder.clone()),
        None => Data::Memory,
    };
    let settings = Settings {
        bind: command.bind,
        http_port: command.http_port,
        data,
        compact_after: command.compact_after,
        datacenter: command.datacenter.clone(),
        node_name: command.node_name.clone(),
        node_id: command.node_id,
        node_meta: command.node_meta.iter().cloned().collect(),
        token,
        connect: command.connect,
        connect_cluster_id: command.connect_cluster_id,
        max_connections_per_address: command.max_connections_per_address,
        max_body: command.max_body,
        head_timeout: Duration::from_secs(command.head_timeout),
        shutdown_timeout: Duration::from_secs(command.shutdown_timeout),
        ..Settings::default()
    };
    let agent = Agent::start(settings).await.map_err(failure)?;
    print::line(&format!("agent: http listening on {}", http(agent.address())));
    let outcome = until_told(&agent, &shutdown).await;
    agent.shutdown().await;
    outcome
}

/// Until it is told to stop, or until the agent is none any more.
async fn until_told(agent: &Agent, shutdown: &Shutdown) -> Result<(), Failure> {
    tokio::select! {
        () = shutdown.draining() => Ok(()),
        part = agent.failed() => Err(broken(part)),
    }
}

fn broken(part: &str) -> Failure {
    Failure::no(format!("agent: {part} has ended by a panic, see above; what was acknowledged is on disk"))
}

/// The Consul side of `plinth up`.
pub struct Side {
    pub address: String,
    agent: Option<Agent>,
}

/// `CONSUL_HTTP_ADDR` set means: use that Consul, start none.
pub async fn unless_given(listen: SocketAddr, folder: &Path) -> Result<Side, Failure> {
    if let Some(address) = std::env::var("CONSUL_HTTP_ADDR").ok().filter(|address| !address.is_empty()) {
        return Ok(Side { address, agent: None });
    }
    let settings = Settings {
        bind: listen.ip(),
        http_port: listen.port(),
        data: Data::Dir(folder.to_owned()),
        ..Settings::default()
    };
    let agent = Agent::start(settings).await.map_err(failure)?;
    Ok(Side { address: http(agent.address()), agent: Some(agent) })
}

impl Side {
    /// Comes back only if the agent is none any more.
    pub async fn failed(&self) -> Failure {
        match &self.agent {
            Some(agent) => broken(agent.failed().await),
            None => std::future::pending().await,
        }
    }

    pub async fn stop(self) {
        if let Some(agent) = self.agent {
            agent.shutdown().await;
        }
    }
}

fn failure(error: plinth_agent::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    Failure::no(format!("agent: {text}"))
}
