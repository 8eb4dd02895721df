//! Watches instances, checks and leases, and publishes them as one whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use plinth_core::Error;
use plinth_core::consul::wire::HealthCheck;
use plinth_core::consul::{Client, Read, watch};
use plinth_core::registration::{Document, NODE_MARK, Registrar, check_id};
use tokio::sync::watch as channel;

use crate::domain::warden::Catalog;

/// How the watches are doing, for `/health`.
#[derive(Debug, Clone, Default)]
pub struct Contact(Arc<Mutex<ContactState>>);

#[derive(Debug, Default)]
struct ContactState {
    last_answer: Option<Instant>,
    failure: Option<String>,
}

impl Contact {
    /// The failure since the last answer, if there is one.
    pub fn failure(&self) -> Option<String> {
        self.0.lock().failure.clone()
    }

    pub fn last_answer(&self) -> Option<Instant> {
        self.0.lock().last_answer
    }

    fn note(&self, failure: Option<String>) {
        let mut state = self.0.lock();
        if failure.is_none() {
            state.last_answer = Some(Instant::now());
        }
        // Once per outage, not once per attempt.
        match (&state.failure, &failure) {
            (None, Some(why)) => {
                tracing::warn!(error = %why, "Consul cannot be read; probing goes on from the last state")
            }
            (Some(_), None) => tracing::info!("Consul answers again"),
            _ => {}
        }
        state.failure = failure;
    }
}

/// A part of the catalog that came.
enum Part {
    Documents(Vec<(Document, u64)>),
    Checks(Vec<HealthCheck>),
    Leases(std::collections::BTreeSet<String>),
}

/// Runs until the receiver is gone. The first catalog is published when all its parts are there: an instance
/// without its lease would look expired.
pub async fn run(client: Client, contact: Contact, publish: channel::Sender<Option<Catalog>>) {
    let mut parts = stream::select_all([documents(&client), checks(&client), leases(&client)]);
    let (mut documents, mut checks, mut leases) = (None, None, None);
    while let Some(part) = parts.next().await {
        match part {
            Err(error) => {
                contact.note(Some(plinth_core::error::chain(&error)));
                continue;
            }
            Ok(Part::Documents(list)) => documents = Some(Arc::new(by_id(list, documents.as_deref()))),
            Ok(Part::Checks(list)) => checks = Some(Arc::new(by_service(list))),
            Ok(Part::Leases(ids)) => leases = Some(Arc::new(ids)),
        }
        contact.note(None);
        if let (Some(documents), Some(checks), Some(leases)) = (&documents, &checks, &leases) {
            let catalog = Catalog {
                documents: Arc::clone(documents),
                checks: Arc::clone(checks),
                leases: Arc::clone(leases),
            };
            if publish.send(Some(catalog)).is_err() {
                return;
            }
        }
    }
}

type Documents = BTreeMap<String, (Arc<Document>, u64)>;

/// Unchanged documents keep their allocation.
fn by_id(list: Vec<(Document, u64)>, before: Option<&Documents>) -> Documents {
    list.into_iter()
        .map(|(document, index)| {
            let id = document.registration.service_id.clone();
            let shared = match before.and_then(|before| before.get(&id)) {
                Some((present, at)) if *at == index && **present == document => Arc::clone(present),
                _ => Arc::new(document),
            };
            (id, (shared, index))
        })
        .collect()
}

/// An instance's own check; maintenance and other checks on its node are not ours.
fn by_service(list: Vec<HealthCheck>) -> HashMap<String, HealthCheck> {
    list.into_iter()
        .filter(|check| check.check_id == check_id(&check.service_id))
        .map(|check| (check.service_id.clone(), check))
        .collect()
}

fn documents(client: &Client) -> BoxStream<'static, Result<Part, Error>> {
    let query = |client: Client, read: Read| async move { Registrar::new(client).list_with(&read).await };
    watch(client, Read::default(), query).map(|item| item.map(|reply| Part::Documents(reply.value))).boxed()
}

fn checks(client: &Client) -> BoxStream<'static, Result<Part, Error>> {
    let (key, value) = NODE_MARK;
    let read = Read { node_meta: vec![(key.to_owned(), value.to_owned())], ..Read::default() };
    let query = |client: Client, read: Read| async move { client.health().state("any", &read).await };
    watch(client, read, query).map(|item| item.map(|reply| Part::Checks(reply.value))).boxed()
}

fn leases(client: &Client) -> BoxStream<'static, Result<Part, Error>> {
    let query = |client: Client, read: Read| async move { Registrar::new(client).leases(&read).await };
    watch(client, Read::default(), query).map(|item| item.map(|reply| Part::Leases(reply.value))).boxed()
}
