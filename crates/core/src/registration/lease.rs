//! TTL leases: a session on the instance's node that locks an empty key. Renewing it writes nothing to Raft.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::layout;
use crate::Error;
use crate::consul::wire::{SessionBehavior, SessionRequest};
use crate::consul::{Client, PutOptions, Read, Reply};

const ATTEMPTS: u32 = 5;

#[derive(Debug, Clone)]
pub(super) struct Leases {
    client: Client,
}

impl Leases {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The session that holds the lease.
    pub(super) async fn holder(&self, service_id: &str) -> Result<Option<String>, Error> {
        let pair = self.client.kv().get(&layout::lease_key(service_id), &Read::consistent()).await?.value;
        Ok(pair.and_then(|pair| pair.session))
    }

    pub(super) async fn holders(&self, read: &Read) -> Result<Reply<BTreeSet<String>>, Error> {
        let keys = self.client.kv().keys(layout::LEASE_PREFIX, None, read).await?;
        Ok(keys
            .map(|keys| keys.iter().filter_map(|key| layout::lease_holder(key)).map(str::to_owned).collect()))
    }

    /// Renews the lease, or makes a new one where there is none or its TTL is another.
    pub(super) async fn hold(&self, service_id: &str, ttl: Duration) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            if let Some(session) = self.holder(service_id).await? {
                match self.client.session().renew(&session).await? {
                    Some(renewed) if renewed.ttl == Some(ttl) => return Ok(()),
                    // Its end deletes the key, so the next attempt finds the place free.
                    Some(_) => self.client.session().destroy(&session).await?,
                    None => {}
                }
            }
            if self.take(service_id, ttl).await? {
                return Ok(());
            }
        }
        Err(Error::Contended { service_id: service_id.to_owned(), attempts: ATTEMPTS })
    }

    async fn take(&self, service_id: &str, ttl: Duration) -> Result<bool, Error> {
        let session = self
            .client
            .session()
            .create(&SessionRequest {
                node: Some(layout::node_name(service_id)),
                name: Some(format!("lease of {service_id}")),
                node_checks: Some(Vec::new()),
                behavior: SessionBehavior::Delete,
                lock_delay: Some(Duration::ZERO),
                ttl: Some(ttl),
            })
            .await?;
        let options = PutOptions { acquire: Some(session.clone()), ..PutOptions::default() };
        if self.client.kv().put(&layout::lease_key(service_id), Bytes::new(), options).await? {
            return Ok(true);
        }
        self.client.session().destroy(&session).await?;
        Ok(false)
    }

    /// Ends the lease of an instance that has no TTL any more.
    pub(super) async fn release(&self, service_id: &str) -> Result<(), Error> {
        match self.holder(service_id).await? {
            Some(session) => self.client.session().destroy(&session).await,
            None => Ok(()),
        }
    }
}
