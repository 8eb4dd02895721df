//! State of the servers.

use super::Client;
use super::call::Call;
use crate::Error;

#[derive(Debug, Clone)]
pub struct Status {
    client: Client,
}

impl Status {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// `ip:port` of the leader; `None` while there is none.
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        let leader: String = self.client.send(Call::get("/v1/status/leader")).await?.json()?;
        Ok(Some(leader).filter(|text| !text.is_empty()))
    }

    pub async fn peers(&self) -> Result<Vec<String>, Error> {
        self.client.send(Call::get("/v1/status/peers")).await?.json()
    }
}
