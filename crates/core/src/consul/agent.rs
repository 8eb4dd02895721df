//! The agent we talk to: its own services and checks.

use std::collections::BTreeMap;

use super::Client;
use super::call::Call;
use super::wire::{
    AgentCheckDefinition, AgentSelf, AgentService, AgentServiceRegistration, CheckUpdate, HealthCheck,
};
use crate::Error;

#[derive(Debug, Clone)]
pub struct Agent {
    client: Client,
}

impl Agent {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub async fn self_(&self) -> Result<AgentSelf, Error> {
        self.client.send(Call::get("/v1/agent/self")).await?.json()
    }

    /// Services registered at this agent, by id.
    pub async fn services(&self) -> Result<BTreeMap<String, AgentService>, Error> {
        self.client.send(Call::get("/v1/agent/services")).await?.json()
    }

    pub async fn checks(&self) -> Result<BTreeMap<String, HealthCheck>, Error> {
        self.client.send(Call::get("/v1/agent/checks")).await?.json()
    }

    pub async fn register(&self, registration: &AgentServiceRegistration) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/service/register").json(registration)?).await
    }

    pub async fn deregister(&self, service_id: &str) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/service/deregister/").segment(service_id)).await
    }

    /// Switches a service's maintenance on (with a reason) or off.
    pub async fn maintenance(&self, service_id: &str, on: bool, reason: &str) -> Result<(), Error> {
        let call = Call::put("/v1/agent/service/maintenance/").segment(service_id);
        self.put(call.pair("enable", if on { "true" } else { "false" }).pair("reason", reason)).await
    }

    pub async fn register_check(&self, check: &AgentCheckDefinition) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/check/register").json(check)?).await
    }

    pub async fn deregister_check(&self, check_id: &str) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/check/deregister/").segment(check_id)).await
    }

    /// Reports a TTL check as passing; `note` becomes its output.
    pub async fn pass(&self, check_id: &str, note: &str) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/check/pass/").segment(check_id).pair("note", note)).await
    }

    pub async fn warn(&self, check_id: &str, note: &str) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/check/warn/").segment(check_id).pair("note", note)).await
    }

    pub async fn fail(&self, check_id: &str, note: &str) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/check/fail/").segment(check_id).pair("note", note)).await
    }

    pub async fn update(&self, check_id: &str, update: &CheckUpdate) -> Result<(), Error> {
        self.put(Call::put("/v1/agent/check/update/").segment(check_id).json(update)?).await
    }

    async fn put(&self, call: Call<'_>) -> Result<(), Error> {
        self.client.send(call).await.map(drop)
    }
}
