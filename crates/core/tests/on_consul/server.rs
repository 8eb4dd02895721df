//! The Consul a scenario runs against.

use std::net::SocketAddr;
use std::time::Duration;

use plinth_agent::Agent;
use plinth_core::consul::{Client, Settings};
use plinth_core::registration::{CheckSpec, Registration};
use plinth_testbed::consul::RealConsul;
use serde_json::{Map, Value};

pub enum Server {
    Real(Box<RealConsul>),
    Embedded(Agent),
}

impl Server {
    pub async fn real() -> Self {
        Self::Real(Box::new(RealConsul::start().await))
    }

    pub async fn embedded() -> Self {
        let settings = plinth_agent::Settings { http_port: 0, ..plinth_agent::Settings::default() };
        Self::Embedded(Agent::start(settings).await.unwrap())
    }

    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Real(consul) => consul.addr,
            Self::Embedded(agent) => agent.address(),
        }
    }

    pub fn client(&self) -> Client {
        client(self.addr())
    }
}

pub fn client(addr: SocketAddr) -> Client {
    Client::new(Settings::http(addr)).unwrap()
}

/// A client that gives up quickly, for scenarios with dead connections.
pub fn impatient(addr: SocketAddr) -> Client {
    let settings = Settings {
        connect_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_millis(500),
        ..Settings::http(addr)
    };
    Client::new(settings).unwrap()
}

pub fn web(id: &str) -> Registration {
    Registration { check: CheckSpec::http("/health"), ..Registration::new("web", id, "127.0.0.1", 8001) }
}

pub fn metadata(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// Makes one test per server out of each scenario.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod on_real_consul {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::server::Server::real().await).await;
                }
            )*
        }
        mod on_embedded_agent {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::server::Server::embedded().await).await;
                }
            )*
        }
    };
}
pub(crate) use scenarios;
