//! Sessions: what locks and TTL leases hang on.

use super::call::Call;
use super::wire::{Session, SessionCreated, SessionRequest};
use super::{Client, Read, Reply};
use crate::Error;

#[derive(Debug, Clone)]
pub struct Sessions {
    client: Client,
}

impl Sessions {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The new session's id.
    pub async fn create(&self, request: &SessionRequest) -> Result<String, Error> {
        let answer = self.client.send(Call::put("/v1/session/create").json(request)?).await?;
        Ok(answer.json::<SessionCreated>()?.id)
    }

    /// Starts the TTL anew; `None`: the session has ended.
    pub async fn renew(&self, id: &str) -> Result<Option<Session>, Error> {
        let answer = self.client.send(Call::put("/v1/session/renew/").segment(id).also(&[404])).await?;
        if answer.status() == 404 {
            return Ok(None);
        }
        Ok(answer.json::<Vec<Session>>()?.into_iter().next())
    }

    pub async fn destroy(&self, id: &str) -> Result<(), Error> {
        self.client.send(Call::put("/v1/session/destroy/").segment(id)).await.map(drop)
    }

    pub async fn info(&self, id: &str, read: &Read) -> Result<Reply<Option<Session>>, Error> {
        let reply: Reply<Option<Vec<Session>>> =
            self.client.send(Call::get("/v1/session/info/").segment(id).read(read)).await?.reply()?;
        Ok(reply.map(|sessions| sessions.unwrap_or_default().into_iter().next()))
    }

    pub async fn list(&self, read: &Read) -> Result<Reply<Vec<Session>>, Error> {
        self.client.send(Call::get("/v1/session/list").read(read)).await?.reply()
    }
}
