//! The catalog: nodes and services as the servers know them.

use std::collections::BTreeMap;

use super::call::Call;
use super::wire::{CatalogDeregistration, CatalogNode, CatalogRegistration, CatalogService, Node};
use super::{Client, Read, Reply};
use crate::Error;

#[derive(Debug, Clone)]
pub struct Catalog {
    client: Client,
}

impl Catalog {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Service names with the tags of all their instances.
    pub async fn services(&self, read: &Read) -> Result<Reply<BTreeMap<String, Vec<String>>>, Error> {
        self.client.send(Call::get("/v1/catalog/services").read(read)).await?.reply()
    }

    /// All instances of a service, whatever their health.
    pub async fn service(
        &self,
        name: &str,
        tags: &[&str],
        read: &Read,
    ) -> Result<Reply<Vec<CatalogService>>, Error> {
        let mut call = Call::get("/v1/catalog/service/").segment(name).read(read);
        for tag in tags {
            call = call.pair("tag", tag);
        }
        self.client.send(call).await?.reply()
    }

    pub async fn nodes(&self, read: &Read) -> Result<Reply<Vec<Node>>, Error> {
        self.client.send(Call::get("/v1/catalog/nodes").read(read)).await?.reply()
    }

    /// A node with its services; an unknown one is `None`.
    pub async fn node(&self, name: &str, read: &Read) -> Result<Reply<Option<CatalogNode>>, Error> {
        self.client.send(Call::get("/v1/catalog/node/").segment(name).read(read)).await?.reply()
    }

    pub async fn datacenters(&self) -> Result<Vec<String>, Error> {
        self.client.send(Call::get("/v1/catalog/datacenters")).await?.json()
    }

    pub async fn register(&self, registration: &CatalogRegistration) -> Result<(), Error> {
        self.client.send(Call::put("/v1/catalog/register").json(registration)?).await.map(drop)
    }

    pub async fn deregister(&self, what: &CatalogDeregistration) -> Result<(), Error> {
        self.client.send(Call::put("/v1/catalog/deregister").json(what)?).await.map(drop)
    }
}
