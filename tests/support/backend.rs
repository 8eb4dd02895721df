//! The Consul side: the embedded agent as its own process, or a real Consul server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use plinth_testbed::PortLease;
use plinth_testbed::consul::RealConsul;

use super::program::{Program, command};

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Embedded,
    Consul,
}

pub enum Backend {
    Embedded { port: PortLease, folder: tempfile::TempDir, agent: Option<Program> },
    Consul(Box<RealConsul>),
}

impl Backend {
    pub async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Consul => Self::Consul(Box::new(RealConsul::start().await)),
            Kind::Embedded => {
                let (port, folder) = (PortLease::take(), tempfile::tempdir().unwrap());
                let agent = Some(agent(port.port(), folder.path()).await);
                Self::Embedded { port, folder, agent }
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Embedded { port, .. } => SocketAddr::from((Ipv4Addr::LOCALHOST, port.port())),
            Self::Consul(consul) => consul.addr,
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        match self {
            Self::Embedded { agent, .. } => *agent = None,
            Self::Consul(consul) => consul.kill(),
        }
    }

    /// On the same address and data.
    pub async fn start_again(&mut self) {
        match self {
            Self::Embedded { port, folder, agent: running } => {
                *running = Some(agent(port.port(), folder.path()).await)
            }
            Self::Consul(consul) => consul.start_again().await,
        }
    }
}

async fn agent(port: u16, folder: &Path) -> Program {
    let mut plinth = command("plinth");
    plinth.args(["agent", "--http-port", &port.to_string(), "--data-dir"]).arg(folder.join("data"));
    Program::start("agent", plinth, folder, &["http"]).await
}
