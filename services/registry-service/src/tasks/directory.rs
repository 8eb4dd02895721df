//! The directory of all registrations: one watch on their documents, one on their checks, one value swapped whole.
//!
//! Get and list are answered from it, so they go on while Consul is away. A write waits until the directory has it
//! (`Directory::index` is the highest index below the documents' prefix, and deregistrations raise it too).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use plinth_core::consul::wire::{HealthCheck, KvPair};
use plinth_core::consul::{self, Client, Read, Reply};
use plinth_core::registration::{Document, INSTANCE_PREFIX, NODE_MARK, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// After taking an answer in the task rests this many times as long as that took, so that a large directory under constant
/// change costs a fifth of one core at most, while a small one follows at once.
const REST_FACTOR: u32 = 4;
/// Longest rest: the directory is never further behind than this plus one read.
const MAX_REST: Duration = Duration::from_secs(1);

/// All registrations at one moment.
#[derive(Debug)]
pub struct Directory {
    pub documents: Arc<BTreeMap<String, Arc<Entry>>>,
    /// Worst status of the checks on the instance's node, by service id. No entry: no check, so it passes.
    pub statuses: Arc<HashMap<String, Status, foldhash::fast::RandomState>>,
    /// Consul's index of the documents.
    pub index: u64,
    /// Consul's index of the checks.
    pub checks_index: u64,
    /// When Consul last confirmed the documents.
    pub fetched: Instant,
}

/// One registration and the index of its last write.
#[derive(Debug)]
pub struct Entry {
    pub document: Arc<Document>,
    pub index: u64,
}

impl Directory {
    pub fn status(&self, service_id: &str) -> Status {
        self.statuses.get(service_id).copied().unwrap_or(Status::Passing)
    }

    /// True when it shows the documents and the checks as of these indexes or later.
    pub fn has(&self, index: u64, checks_index: u64) -> bool {
        self.index >= index && self.checks_index >= checks_index
    }

    /// The documents as they are at Consul now, with the statuses known already. For a reader who has seen an index that
    /// the documents alone never reach, because its write changed no document.
    ///
    /// # Errors
    /// Consul does not answer.
    pub async fn read_now(&self, client: &Client) -> Result<Self, plinth_core::Error> {
        let reply = client.kv().list(INSTANCE_PREFIX, &Read::consistent()).await?;
        Ok(Self {
            documents: Arc::new(take_documents(&reply, Some(&self.documents))),
            statuses: Arc::clone(&self.statuses),
            index: reply.index,
            checks_index: self.checks_index,
            fetched: Instant::now(),
        })
    }
}

/// Readers' side of the directory.
#[derive(Debug, Clone)]
pub struct Reader(watch::Receiver<Option<Arc<Directory>>>);

impl Reader {
    /// The last good directory; `None` until Consul has answered for the first time.
    pub fn current(&self) -> Option<Arc<Directory>> {
        self.0.borrow().clone()
    }

    /// Resolves once Consul has answered for the first time.
    pub async fn known(&self) {
        // An error means that the task has ended, and the process with it.
        let _ended = self.0.clone().wait_for(Option::is_some).await.is_err();
    }

    /// The directory once its documents are at `index` and its checks at `checks_index` or later, or the present one
    /// when `limit` is over first.
    pub async fn at_least(&self, index: u64, checks_index: u64, limit: Duration) -> Option<Arc<Directory>> {
        let mut changes = self.0.clone();
        let reached = changes
            .wait_for(|directory| directory.as_ref().is_some_and(|known| known.has(index, checks_index)));
        match tokio::time::timeout(limit, reached).await {
            Ok(Ok(directory)) => directory.clone(),
            Ok(Err(_)) | Err(_) => self.current(),
        }
    }
}

/// The task's side of the directory.
pub struct Publisher(watch::Sender<Option<Arc<Directory>>>);

/// Both sides of a directory of which nothing is known yet.
pub fn channel() -> (Publisher, Reader) {
    let (publish, reader) = watch::channel(None);
    (Publisher(publish), Reader(reader))
}

/// Keeps the directory fresh until `stop`.
///
/// # Errors
/// None: without Consul the last good directory stays.
pub async fn follow(client: Client, publish: Publisher, stop: CancellationToken) -> Result<(), Infallible> {
    // `None` is the stop; the work itself has no end.
    stop.run_until_cancelled(refresh(client, &publish.0)).await;
    Ok(())
}

async fn refresh(client: Client, publish: &watch::Sender<Option<Arc<Directory>>>) {
    let mut documents = consul::watch(&client, Read::default(), |client, read| async move {
        client.kv().list(INSTANCE_PREFIX, &read).await
    });
    let ours = Read { node_meta: vec![(NODE_MARK.0.to_owned(), NODE_MARK.1.to_owned())], ..Read::default() };
    let mut checks =
        consul::watch(&client, ours, |client, read| async move { client.health().state("any", &read).await });
    let (mut statuses, mut checks_index) = (Arc::default(), 0);
    let mut outage = Outage::default();
    loop {
        let taking_in = tokio::select! {
            reply = documents.next() => match reply {
                Some(Ok(reply)) => {
                    let begun = Instant::now();
                    let known = publish.borrow().as_ref().map(|directory| Arc::clone(&directory.documents));
                    let documents = Arc::new(take_documents(&reply, known.as_deref()));
                    let statuses = Arc::clone(&statuses);
                    let (index, fetched) = (reply.index, Instant::now());
                    let directory = Directory { documents, statuses, index, checks_index, fetched };
                    publish.send_replace(Some(Arc::new(directory)));
                    begun.elapsed()
                }
                Some(Err(error)) => { outage.log("documents", &error); continue }
                None => return,
            },
            reply = checks.next() => match reply {
                Some(Ok(reply)) => {
                    let begun = Instant::now();
                    statuses = Arc::new(worst_by_instance(&reply.value));
                    checks_index = reply.index;
                    publish.send_modify(|directory| if let Some(known) = directory {
                        *directory = Some(Arc::new(Directory {
                            documents: Arc::clone(&known.documents),
                            statuses: Arc::clone(&statuses),
                            checks_index,
                            ..**known
                        }));
                    });
                    begun.elapsed()
                }
                Some(Err(error)) => { outage.log("checks", &error); continue }
                None => return,
            },
        };
        outage.over();
        tokio::time::sleep((taking_in * REST_FACTOR).min(MAX_REST)).await;
    }
}

/// The documents of `reply`; those that did not change are shared with `known` instead of parsed again.
fn take_documents(
    reply: &Reply<Vec<KvPair>>,
    known: Option<&BTreeMap<String, Arc<Entry>>>,
) -> BTreeMap<String, Arc<Entry>> {
    let mut documents = BTreeMap::new();
    for pair in &reply.value {
        let Some(service_id) = pair.key.strip_prefix(INSTANCE_PREFIX) else { continue };
        let unchanged =
            known.and_then(|known| known.get(service_id)).filter(|entry| entry.index == pair.modify_index);
        let entry = match unchanged {
            Some(entry) => Arc::clone(entry),
            None => match serde_json::from_slice::<Document>(&pair.value) {
                Ok(document) => Arc::new(Entry { document: Arc::new(document), index: pair.modify_index }),
                Err(error) => {
                    tracing::warn!(key = pair.key, %error, "leaving out a registration that cannot be understood");
                    continue;
                }
            },
        };
        documents.insert(service_id.to_owned(), entry);
    }
    documents
}

/// The worst status per instance. One catalog node carries one instance, so node-level checks (maintenance) count too.
fn worst_by_instance(checks: &[HealthCheck]) -> HashMap<String, Status, foldhash::fast::RandomState> {
    let mut worst: HashMap<String, Status, _> = HashMap::default();
    for check in checks {
        let Some(service_id) = check.node.strip_prefix("plinth-") else { continue };
        let status = check.status.parse().unwrap_or(Status::Critical);
        let known = worst.entry(service_id.to_owned()).or_insert(status);
        *known = (*known).max(status);
    }
    worst
}

/// Says once that reading fails and once that it works again, not on every attempt.
#[derive(Default)]
struct Outage(bool);

impl Outage {
    fn log(&mut self, what: &str, error: &plinth_core::Error) {
        if !std::mem::replace(&mut self.0, true) {
            let error = plinth_core::error::chain(error);
            tracing::warn!(what, error, "the directory cannot be refreshed; serving the last good one");
        }
    }

    fn over(&mut self) {
        if std::mem::replace(&mut self.0, false) {
            tracing::info!("the directory is being refreshed again");
        }
    }
}
