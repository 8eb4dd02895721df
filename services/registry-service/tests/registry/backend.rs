//! The two kinds of Consul that every scenario runs on.

use std::net::SocketAddr;
use std::time::Duration;

use plinth_agent::Agent;
use plinth_core::consul::wire::{AgentServiceRegistration, NodeVerb, TxnOp};
use plinth_core::consul::{Client, Read, Settings};
use plinth_core::registration;
use plinth_testbed::PortLease;
use plinth_testbed::consul::RealConsul;

/// The embedded agent or a real Consul; both keep address and data over `kill` and `start_again`.
pub enum Backend {
    Agent { agent: Option<Agent>, port: PortLease, folder: tempfile::TempDir },
    Consul(RealConsul),
}

impl Backend {
    pub async fn agent() -> Self {
        let mut backend =
            Self::Agent { agent: None, port: PortLease::take(), folder: tempfile::tempdir().unwrap() };
        backend.start_again().await;
        backend
    }

    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Agent { port, .. } => SocketAddr::from(([127, 0, 0, 1], port.port())),
            Self::Consul(consul) => consul.addr,
        }
    }

    pub async fn kill(&mut self) {
        match self {
            Self::Agent { agent, .. } => {
                if let Some(agent) = agent.take() {
                    agent.shutdown().await;
                }
            }
            Self::Consul(consul) => consul.kill(),
        }
    }

    pub async fn start_again(&mut self) {
        let bind = self.addr();
        match self {
            Self::Agent { agent, folder, .. } => {
                let settings = plinth_agent::Settings {
                    bind: bind.ip(),
                    http_port: bind.port(),
                    data: plinth_agent::Data::Dir(folder.path().to_owned()),
                    // As near to a kill as a task of this process can come: nobody is waited for.
                    shutdown_timeout: Duration::ZERO,
                    ..plinth_agent::Settings::default()
                };
                *agent = Some(Agent::start(settings).await.unwrap());
            }
            Self::Consul(consul) => consul.start_again().await,
        }
    }

    fn client(&self) -> Client {
        Client::new(Settings::http(self.addr())).unwrap()
    }

    /// What the health-aggregator would write.
    pub async fn set_status(&self, service_id: &str, status: &str) {
        let client = self.client();
        let checks =
            client.health().node(&registration::node_name(service_id), &Read::default()).await.unwrap().value;
        let mut check =
            checks.into_iter().find(|check| check.check_id == registration::check_id(service_id)).unwrap();
        check.status = status.to_owned();
        check.notes = jiff::Timestamp::now().to_string();
        client.txn(&[TxnOp::check(NodeVerb::Cas, check)]).await.unwrap();
    }

    /// What happens when heartbeats stop for too long, at once.
    pub async fn end_lease(&self, service_id: &str) {
        let client = self.client();
        let lease =
            client.kv().get(&registration::lease_key(service_id), &Read::default()).await.unwrap().value;
        let session = lease.expect("there is a lease").session.expect("a session holds it");
        client.session().destroy(&session).await.unwrap();
    }

    /// A registration that another Consul client makes with its agent.
    pub async fn agent_registers(&self, name: &str, id: &str) {
        let registration = AgentServiceRegistration {
            id: id.to_owned(),
            name: name.to_owned(),
            address: "10.1.1.1".to_owned(),
            port: 80,
            meta: [("from".to_owned(), "elsewhere".to_owned())].into(),
            ..AgentServiceRegistration::default()
        };
        self.client().agent().register(&registration).await.unwrap();
    }
}
