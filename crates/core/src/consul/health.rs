//! Health of services, nodes and checks.

use super::call::Call;
use super::wire::{HealthCheck, ServiceEntry};
use super::{Client, Read, Reply};
use crate::Error;

#[derive(Debug, Clone)]
pub struct Health {
    client: Client,
}

impl Health {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Instances of a service with node and checks; `passing` leaves out all with any check that is not passing.
    pub async fn service(
        &self,
        name: &str,
        passing: bool,
        tags: &[&str],
        read: &Read,
    ) -> Result<Reply<Vec<ServiceEntry>>, Error> {
        let mut call = Call::get("/v1/health/service/").segment(name).read(read);
        if passing {
            call = call.flag("passing");
        }
        for tag in tags {
            call = call.pair("tag", tag);
        }
        self.client.send(call).await?.reply()
    }

    /// Checks in a state: `any`, `passing`, `warning` or `critical`.
    pub async fn state(&self, state: &str, read: &Read) -> Result<Reply<Vec<HealthCheck>>, Error> {
        self.client.send(Call::get("/v1/health/state/").segment(state).read(read)).await?.reply()
    }

    pub async fn node(&self, name: &str, read: &Read) -> Result<Reply<Vec<HealthCheck>>, Error> {
        self.client.send(Call::get("/v1/health/node/").segment(name).read(read)).await?.reply()
    }

    /// Checks of all instances of a service.
    pub async fn checks(&self, service: &str, read: &Read) -> Result<Reply<Vec<HealthCheck>>, Error> {
        self.client.send(Call::get("/v1/health/checks/").segment(service).read(read)).await?.reply()
    }
}
