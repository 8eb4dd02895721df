//! Writes registrations: each change is one transaction guarded by the document's index.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::layout;
use super::lease::Leases;
use super::plan::Plan;
use super::{Document, Owner, Registration, Status};
use crate::Error;
use crate::consul::wire::{CatalogRegistration, HealthCheck, KvOp, KvVerb, Node, NodeVerb, TxnOp, TxnResult};
use crate::consul::{Client, Read, Reply};

/// Lost races until a write is given up. Each lost race means that somebody else's write went through.
const ATTEMPTS: u32 = 10;

/// What a registration came to.
#[derive(Debug, Clone)]
pub struct Registered {
    pub document: Document,
    /// Catalog index from which on the instance is seen as registered; for reads that must see this write.
    pub index: u64,
    /// Modify index of the document.
    pub document_index: u64,
    /// False: an existing registration of the same owner was replaced (or was the same already).
    pub created: bool,
}

/// A heartbeat that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The next one must come within this time.
    pub ttl: std::time::Duration,
}

/// Registers and deregisters instances at whatever Consul the client talks to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registrar {
    client: Client,
    leases: Leases,
}

impl Registrar {
    pub fn new(client: Client) -> Self {
        Self { leases: Leases::new(client.clone()), client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Registers, or replaces the same owner's registration of this id.
    ///
    /// `initial` is the status of a new instance whose check must be probed first; TTL and unchecked instances begin
    /// passing. A replacement keeps the instance's status, except that a new incarnation of a self-registering process
    /// gets the better of its current and the initial status. Repeating the same registration changes nothing.
    ///
    /// [`Error::Invalid`], [`Error::OwnedByAnother`], [`Error::Contended`], or any error of the client; after the latter the
    /// registration may or may not be in place, and calling again is safe.
    pub async fn register(
        &self,
        registration: &Registration,
        owner: &Owner,
        initial: Status,
    ) -> Result<Registered, Error> {
        let service_id = &registration.service_id;
        let faults = registration.validate();
        if !faults.is_empty() {
            return Err(Error::Invalid { service_id: service_id.clone(), faults });
        }
        for _ in 0..ATTEMPTS {
            let current = self.get(service_id).await?;
            let check = match &current {
                Some((document, _)) if document.owner != owner.subject => {
                    return Err(Error::OwnedByAnother {
                        service_id: service_id.clone(),
                        owner: document.owner.clone(),
                    });
                }
                Some(_) => self.current_check(service_id).await?,
                None => None,
            };
            let plan = Plan::new(registration, owner, initial, current, check, Timestamp::now());
            match self.client.txn(&plan.ops()?).await {
                Ok(results) => {
                    self.settle_lease(&plan).await?;
                    self.settle_native(registration, &results.results).await?;
                    return Ok(plan.registered(&results.results));
                }
                Err(Error::TxnFailed { errors }) if errors.iter().all(|e| Plan::may_be_stale(e.op_index)) => {
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended { service_id: service_id.clone(), attempts: ATTEMPTS })
    }

    /// Consul 1.8 drops `Connect` of a service in a transaction; a plain registration of the same service keeps it. Proxies of the mesh
    /// find the instance a moment later than others do.
    async fn settle_native(&self, registration: &Registration, results: &[TxnResult]) -> Result<(), Error> {
        let kept = results
            .iter()
            .any(|result| matches!(result, TxnResult::Service(service) if service.is_connect_native()));
        if !registration.connect_native || kept {
            return Ok(());
        }
        let node = layout::node(registration);
        let again = CatalogRegistration {
            node: node.name,
            address: node.address,
            node_meta: node.meta,
            service: Some(layout::service(registration)),
            skip_node_update: true,
            ..CatalogRegistration::default()
        };
        self.client.catalog().register(&again).await
    }

    /// Removes the document, the node and with it service, checks and lease. `None`: there was nothing.
    ///
    /// With an `owner` only its own registration goes ([`Error::OwnedByAnother`] otherwise), and with an incarnation only that
    /// process's ([`Error::Superseded`] otherwise). The index is the one from which on the instance is gone.
    pub async fn deregister(&self, service_id: &str, owner: Option<&Owner>) -> Result<Option<u64>, Error> {
        for _ in 0..ATTEMPTS {
            let guard = match self.get(service_id).await? {
                Some((document, index)) => {
                    may_remove(&document, owner)?;
                    TxnOp::kv_delete_cas(layout::instance_key(service_id), index)
                }
                // No document: only a node that lost its document can be left, and only as long as nobody registers it anew.
                None if self.has_node(service_id).await? => {
                    TxnOp::KV(KvOp::new(KvVerb::CheckNotExists, layout::instance_key(service_id)))
                }
                None => return Ok(None),
            };
            let node = Node { name: layout::node_name(service_id), ..Node::default() };
            let note = serde_json::json!({"service_id": service_id, "at": Timestamp::now(), "by": uuid::Uuid::new_v4()});
            let ops = [
                guard,
                TxnOp::node(NodeVerb::Delete, node),
                TxnOp::kv_set(layout::LAST_DEREGISTRATION, note.to_string().into()),
            ];
            match self.client.txn(&ops).await {
                Ok(results) => {
                    return Ok(Some(results.results.iter().map(TxnResult::modify_index).max().unwrap_or(0)));
                }
                Err(Error::TxnFailed { errors }) if errors.iter().all(|e| e.op_index == 0) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended { service_id: service_id.to_owned(), attempts: ATTEMPTS })
    }

    /// Renews the lease of a TTL registration.
    ///
    /// [`Error::NotRegistered`], [`Error::NoLease`] (no TTL), [`Error::OwnedByAnother`], [`Error::LeaseLost`] (register again).
    pub async fn heartbeat(&self, service_id: &str, owner: Option<&Owner>) -> Result<Heartbeat, Error> {
        let (current, lease) = tokio::try_join!(self.get(service_id), self.leases.holder(service_id))?;
        let Some((document, _)) = current else {
            return Err(Error::NotRegistered { service_id: service_id.to_owned() });
        };
        if let Some(owner) = owner
            && owner.subject != document.owner
        {
            return Err(Error::OwnedByAnother { service_id: service_id.to_owned(), owner: document.owner });
        }
        let Some(ttl) = document.registration.lease_ttl() else {
            return Err(Error::NoLease { service_id: service_id.to_owned() });
        };
        let renewed = match lease {
            Some(session) => self.client.session().renew(&session).await?.is_some(),
            None => false,
        };
        if renewed {
            Ok(Heartbeat { ttl })
        } else {
            Err(Error::LeaseLost { service_id: service_id.to_owned() })
        }
    }

    /// The document with its modify index.
    pub async fn get(&self, service_id: &str) -> Result<Option<(Document, u64)>, Error> {
        let key = layout::instance_key(service_id);
        match self.client.kv().get(&key, &Read::consistent()).await?.value {
            Some(pair) => Ok(Some((layout::document_from(&key, &pair.value)?, pair.modify_index))),
            None => Ok(None),
        }
    }

    /// All documents. One that cannot be read is left out with a warning, so that it does not hide the others.
    pub async fn list(&self) -> Result<Vec<(Document, u64)>, Error> {
        self.list_with(&Read::consistent()).await.map(|reply| reply.value)
    }

    /// Like [`Registrar::list`], with options (blocking included) and the index.
    pub async fn list_with(&self, read: &Read) -> Result<Reply<Vec<(Document, u64)>>, Error> {
        let reply = self.client.kv().list(layout::INSTANCE_PREFIX, read).await?;
        Ok(reply.map(|pairs| {
            let readable = |pair: &crate::consul::wire::KvPair| match layout::document_from(&pair.key, &pair.value) {
                Ok(document) => Some((document, pair.modify_index)),
                Err(error) => {
                    tracing::warn!(key = %pair.key, error = %crate::error::chain(&error), "instance document left out");
                    None
                }
            };
            pairs.iter().filter_map(readable).collect()
        }))
    }

    /// Ids of all instances that hold a lease now, with an index to block on.
    pub async fn leases(&self, read: &Read) -> Result<Reply<BTreeSet<String>>, Error> {
        self.leases.holders(read).await
    }

    async fn current_check(&self, service_id: &str) -> Result<Option<HealthCheck>, Error> {
        let checks =
            self.client.health().node(&layout::node_name(service_id), &Read::consistent()).await?.value;
        Ok(checks.into_iter().find(|check| check.check_id == layout::check_id(service_id)))
    }

    async fn has_node(&self, service_id: &str) -> Result<bool, Error> {
        let node =
            self.client.catalog().node(&layout::node_name(service_id), &Read::consistent()).await?.value;
        Ok(node.is_some_and(|found| {
            found.node.meta.get(layout::NODE_MARK.0).map(String::as_str) == Some(layout::NODE_MARK.1)
        }))
    }

    async fn settle_lease(&self, plan: &Plan) -> Result<(), Error> {
        let service_id = &plan.document.registration.service_id;
        match plan.document.registration.lease_ttl() {
            Some(ttl) => self.leases.hold(service_id, ttl).await,
            None if plan.had_lease => self.leases.release(service_id).await,
            None => Ok(()),
        }
    }
}

fn may_remove(document: &Document, owner: Option<&Owner>) -> Result<(), Error> {
    let service_id = || document.registration.service_id.clone();
    let Some(owner) = owner else { return Ok(()) };
    if owner.subject != document.owner {
        return Err(Error::OwnedByAnother { service_id: service_id(), owner: document.owner.clone() });
    }
    if owner.incarnation.is_some() && owner.incarnation != document.incarnation {
        return Err(Error::Superseded { service_id: service_id() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
