//! The registry's operations, free of HTTP: writes through the registrar, reads from snapshots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use plinth_core::discovery::{Discovery, DiscoveryError, ServiceSnapshot};
use plinth_core::registration::{Document, Heartbeat, Owner, Registered, Registrar};
use plinth_kit::lifecycle::Shutdown;
use tokio::sync::Semaphore;

use crate::answers::{Answer, Answers};
use crate::domain::draft::Accepted;
use crate::domain::probed::Probed;
use crate::domain::selection::{Freshness, Selection};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::tasks::directory::{self, Directory};

/// How long a list waits for the watch to bring a state before it asks Consul for it.
const CATCH_UP_BY_WATCH: Duration = Duration::from_millis(250);

/// Everything a request needs.
pub struct Registry {
    pub registrar: Registrar,
    pub discovery: Discovery,
    pub directory: directory::Reader,
    pub probed: Arc<ArcSwap<Probed>>,
    pub answers: Arc<Answers>,
    pub metrics: Metrics,
    pub settings: Settings,
    /// Places for long polls.
    pub waiting: Semaphore,
    pub shutdown: Shutdown,
}

/// An encoded answer of discover and the age of what it says.
pub struct Found {
    pub answer: Answer,
    pub age_ms: u64,
}

impl Registry {
    /// Registers or replaces; returns once this replica's own reads have it (see [`Self::settle`]).
    ///
    /// # Errors
    /// Another owner holds the id, the registration is not valid, or Consul does not take it.
    pub async fn register(&self, accepted: &Accepted, owner: &Owner) -> Result<Registered, Error> {
        let result = self.registrar.register(&accepted.registration, owner, accepted.initial.into()).await;
        self.metrics.registered(&result);
        let registered = result.map_err(Error::from_write)?;
        // A new instance brings a new check; a replacement may leave the check, and with it its index, as they are.
        let checks_index = if registered.created { registered.index } else { 0 };
        let name = &accepted.registration.service_name;
        self.settle(name, registered.index, registered.document_index, checks_index).await;
        Ok(registered)
    }

    /// Deregisters and returns the index of that write. `owner` absent: whoever owns it.
    ///
    /// # Errors
    /// Unknown id, another owner, or Consul does not take it.
    pub async fn deregister(&self, document: &Document, owner: Option<&Owner>) -> Result<u64, Error> {
        let service_id = &document.registration.service_id;
        let removed = self.registrar.deregister(service_id, owner).await.map_err(held_is_forbidden)?;
        let index = removed.ok_or_else(|| Error::UnknownInstance { service_id: service_id.clone() })?;
        self.metrics.deregistered();
        self.settle(&document.registration.service_name, index, index, 0).await;
        Ok(index)
    }

    /// Renews the lease of a TTL registration.
    ///
    /// # Errors
    /// Unknown id, lost lease, no TTL, another owner, or Consul does not answer.
    pub async fn heartbeat(&self, service_id: &str, owner: Option<&Owner>) -> Result<Heartbeat, Error> {
        let beat = self.registrar.heartbeat(service_id, owner).await.map_err(held_is_forbidden);
        self.metrics.heartbeat(&beat);
        beat
    }

    /// The registration with this id: from the directory, and from Consul when it is too new for that.
    ///
    /// # Errors
    /// Unknown id, or Consul does not answer while the directory does not know it.
    pub async fn document(&self, service_id: &str) -> Result<Arc<Document>, Error> {
        let directory = self.directory.current();
        if let Some(entry) = directory.as_ref().and_then(|directory| directory.documents.get(service_id)) {
            return Ok(Arc::clone(&entry.document));
        }
        match self.registrar.get(service_id).await.map_err(Error::from_write)? {
            Some((document, _)) => Ok(Arc::new(document)),
            None => Err(Error::UnknownInstance { service_id: service_id.to_owned() }),
        }
    }

    /// The directory at `min_index` or later.
    ///
    /// # Errors
    /// Nothing known yet, or Consul does not answer while the index is not reached.
    pub async fn directory(&self, min_index: u64) -> Result<Arc<Directory>, Error> {
        // The watch brings almost every state asked for by itself, and soon.
        let limit = self.settings.catch_up.min(CATCH_UP_BY_WATCH);
        match self.directory.at_least(min_index, 0, limit).await {
            Some(directory) if directory.has(min_index, 0) => Ok(directory),
            Some(directory) => match directory.read_now(self.registrar.client()).await {
                Ok(directory) => Ok(Arc::new(directory)),
                Err(_) => Err(Error::NotReached { wanted: min_index }),
            },
            None => Err(Error::NotReady { what: "registrations".to_owned() }),
        }
    }

    /// The encoded instances of a service.
    ///
    /// # Errors
    /// Nobody registered it, nothing is known yet, or the freshness asked for is not reached in time.
    pub async fn discover(&self, name: &str, selection: &Selection) -> Result<Found, Error> {
        let snapshot = match selection.freshness {
            Freshness::Any => match self.discovery.try_service(name) {
                Some(snapshot) => snapshot,
                None => self.discovery.service(name).await.map_err(|error| unknown(error, name))?,
            },
            Freshness::AtLeast(wanted) => self
                .discovery
                .service_at(name, wanted, self.settings.catch_up)
                .await
                .map_err(|error| unknown(error, name))?,
            Freshness::After { index, wait } => {
                self.changed_after(name, index, Instant::now() + wait).await?
            }
        };
        if snapshot.instances.is_empty() {
            return Err(Error::UnknownService { service_name: name.to_owned() });
        }
        let answer = self.answers.answer(&snapshot, &selection.filter, &self.probed.load())?;
        Ok(Found { answer, age_ms: u64::try_from(snapshot.age().as_millis()).unwrap_or(u64::MAX) })
    }

    /// Read your writes: waits until this replica's directory and its snapshot of the service have reached `index`.
    /// The write is durable already, so a wait that runs out is counted and the answer goes out all the same; its
    /// `X-Plinth-Index` still lets the caller ask for that state.
    async fn settle(&self, name: &str, index: u64, document_index: u64, checks_index: u64) {
        let limit = self.settings.settle;
        let (directory, snapshot) = tokio::join!(
            self.directory.at_least(document_index, checks_index, limit),
            self.discovery.service_at(name, index, limit)
        );
        let listed = directory.is_some_and(|directory| directory.has(document_index, checks_index));
        // Gone from the catalog is what the deregistration of a last instance looks like.
        let found = matches!(snapshot, Ok(_) | Err(DiscoveryError::Unknown { .. }));
        if !(listed && found) {
            self.metrics.unsettled();
            tracing::warn!(service_name = name, index, "a write is not in this replica's own reads in time");
        }
    }
}

/// A change of another owner's instance is forbidden; only taking its id is a conflict.
fn held_is_forbidden(error: plinth_core::Error) -> Error {
    match Error::from_write(error) {
        Error::HeldByAnother { service_id } => Error::NotTheOwner { service_id },
        other => other,
    }
}

impl Registry {
    /// Long poll: the first snapshot later than `index`, or the present one once `deadline` or the end of this
    /// process has come.
    async fn changed_after(
        &self,
        name: &str,
        index: u64,
        deadline: Instant,
    ) -> Result<Arc<ServiceSnapshot>, Error> {
        let limit = self.settings.max_waiting;
        let _place = self.waiting.try_acquire().map_err(|_| Error::TooManyWaiting { limit })?;
        let later = async {
            loop {
                // A name that is not in the catalog opens no watch; the list tells when it appears.
                let list = self.discovery.services_changed(0).await;
                if list.names.contains_key(name) {
                    let mut changes = self.discovery.subscribe(name);
                    loop {
                        match changes.changed().await {
                            snapshot if snapshot.index > index => return snapshot,
                            _ => {}
                        }
                    }
                }
                self.discovery.services_changed(list.index).await;
            }
        };
        let later = tokio::select! {
            later = tokio::time::timeout_at(deadline.into(), later) => later.ok(),
            () = self.shutdown.draining() => None,
        };
        match later {
            Some(snapshot) => Ok(snapshot),
            None => self.discovery.service(name).await.map_err(|error| unknown(error, name)),
        }
    }
}

fn unknown(error: DiscoveryError, name: &str) -> Error {
    match error {
        DiscoveryError::Unknown { .. } => Error::UnknownService { service_name: name.to_owned() },
        DiscoveryError::NotReady { .. } => Error::NotReady { what: format!("the service {name:?}") },
    }
}
