//! Service mesh certificates.

use super::call::Call;
use super::wire::{AuthorizeRequest, AuthorizeResponse, CaRoots, LeafCertificate};
use super::{Client, Read, Reply};
use crate::Error;

#[derive(Debug, Clone)]
pub struct Connect {
    client: Client,
}

impl Connect {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub async fn ca_roots(&self, read: &Read) -> Result<Reply<CaRoots>, Error> {
        self.client.send(Call::get("/v1/agent/connect/ca/roots").read(read)).await?.reply()
    }

    /// The service's current certificate; blocks on its index until it is rotated.
    pub async fn leaf(&self, service: &str, read: &Read) -> Result<Reply<LeafCertificate>, Error> {
        self.client.send(Call::get("/v1/agent/connect/ca/leaf/").segment(service).read(read)).await?.reply()
    }

    pub async fn authorize(&self, request: &AuthorizeRequest) -> Result<AuthorizeResponse, Error> {
        self.client
            .send(Call::new(http::Method::POST, "/v1/agent/connect/authorize").json(request)?)
            .await?
            .json()
    }
}
