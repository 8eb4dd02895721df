//! Keeps the snapshot: a watch on the KV prefix, joined with what the history says about each item.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use plinth_core::consul::wire::KvPair;
use plinth_core::consul::{Client, Read, Reply, watch};
use tokio_util::sync::CancellationToken;

use super::reconcile::Suspects;
use crate::Error;
use crate::domain::name::KV_PREFIX;
use crate::domain::{Entry, ItemId, JsonText, Revision, Snapshot};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::store::Store;

/// Longest wait for the history before a new snapshot is served without it.
const JOIN_LIMIT: Duration = Duration::from_millis(300);
/// Questions to the history at once.
const JOIN_CONCURRENCY: usize = 8;
/// How soon missing history is asked for again.
const JOIN_RETRY: Duration = Duration::from_secs(1);

pub struct Follow {
    pub client: Client,
    pub store: Arc<dyn Store>,
    pub live: Arc<Live>,
    pub suspects: Arc<Suspects>,
    pub metrics: Arc<Metrics>,
}

impl Follow {
    pub async fn run(self, stop: CancellationToken) {
        let watched = watch(&self.client, Read::default(), |client: Client, read: Read| async move {
            client.kv().list(KV_PREFIX, &read).await
        });
        let mut watched = std::pin::pin!(watched);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                next = watched.next() => match next {
                    Some(Ok(reply)) => self.arrived(reply).await,
                    Some(Err(error)) => self.lost(&error),
                    None => return,
                },
                () = tokio::time::sleep(JOIN_RETRY), if self.lacks_history() => self.complete().await,
            }
        }
    }

    fn lost(&self, error: &plinth_core::Error) {
        if self.live.is_connected() {
            let reason = plinth_core::error::chain(error);
            tracing::warn!(reason, "Consul is away; the last configuration is served");
        }
        self.live.disconnect();
    }

    async fn arrived(&self, reply: Reply<Vec<KvPair>>) {
        let previous = self.live.current();
        let unchanged = previous.as_ref().is_some_and(|previous| previous.index == reply.index);
        if !unchanged {
            self.rebuild(previous.as_deref(), reply.index, reply.value).await;
        }
        self.live.confirm(Instant::now());
    }

    async fn rebuild(&self, previous: Option<&Snapshot>, index: u64, pairs: Vec<KvPair>) {
        let (mut entries, ignored) = read_pairs(previous, index, pairs);
        self.metrics.ignored_keys.set(i64::try_from(ignored.len()).unwrap_or(i64::MAX));
        let joined = self.join(&entries).await;
        self.suspects.add(ignored);
        self.suspects.add(apply(&mut entries, joined));
        let snapshot = Snapshot::follow(previous, index, entries, Instant::now());
        if let Some(previous) = previous {
            // A key that vanished is a deletion of ours or a loss; the reconciler knows which.
            let gone = previous.entries.keys().filter(|id| !snapshot.entries.contains_key(*id));
            self.suspects.add(gone.cloned());
        }
        self.metrics.items.set(i64::try_from(snapshot.entries.len()).unwrap_or(i64::MAX));
        self.live.publish(snapshot);
    }

    fn lacks_history(&self) -> bool {
        self.live.current().is_some_and(|now| now.entries.values().any(|entry| entry.about.is_none()))
    }

    /// Fills in what the history could not say when the snapshot was made.
    async fn complete(&self) {
        let Some(now) = self.live.current() else { return };
        let mut entries = now.entries.clone();
        let joined = self.join(&entries).await;
        if joined.iter().any(|(_, found)| matches!(found, Ok(Some(_)))) {
            self.suspects.add(apply(&mut entries, joined));
            let index = now.index;
            self.live.publish(Snapshot::follow(Some(&now), index, entries, now.built));
        }
    }

    /// Asks the history about entries that lack it, for as long as readers can wait.
    async fn join(
        &self,
        entries: &BTreeMap<ItemId, Arc<Entry>>,
    ) -> Vec<(ItemId, Result<Option<Revision>, Error>)> {
        let missing: Vec<(ItemId, u64)> = entries
            .values()
            .filter(|entry| entry.about.is_none())
            .map(|entry| (entry.id.clone(), entry.revision))
            .collect();
        let mut answers = futures_util::stream::iter(missing)
            .map(|(id, revision)| async move {
                let found = self.store.revision(&id, revision).await;
                (id, found)
            })
            .buffer_unordered(JOIN_CONCURRENCY);
        let deadline = tokio::time::Instant::now() + JOIN_LIMIT;
        let mut joined = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.next()).await {
            let away = answer.1.is_err();
            joined.push(answer);
            if away {
                break;
            }
        }
        joined
    }
}

/// Turns KV pairs into entries; an unchanged pair keeps its entry. Also returns items whose KV value is none.
fn read_pairs(
    previous: Option<&Snapshot>,
    index: u64,
    pairs: Vec<KvPair>,
) -> (BTreeMap<ItemId, Arc<Entry>>, Vec<ItemId>) {
    // Indexes from before a reset of Consul say nothing about what changed since.
    let previous = previous.filter(|previous| previous.index <= index);
    let mut ignored = Vec::new();
    let mut entries = BTreeMap::new();
    for pair in pairs {
        let Some(id) = ItemId::from_kv_key(&pair.key) else { continue };
        let before = previous.and_then(|previous| previous.get(&id));
        let kept = before.filter(|before| before.modify_index == pair.modify_index).cloned();
        let entry = match (kept, JsonText::from_bytes(&pair.value)) {
            (Some(kept), _) => Some(kept),
            (None, Ok(value)) => Some(Arc::new(Entry {
                id: id.clone(),
                revision: pair.flags,
                value,
                modify_index: pair.modify_index,
                about: None,
            })),
            (None, Err(_)) => {
                ignored.push(id.clone());
                // The last good value goes on being served until the reconciler has put things right.
                before.cloned()
            }
        };
        if let Some(entry) = entry {
            entries.insert(id, entry);
        }
    }
    (entries, ignored)
}

/// Puts the history's answers into the entries and returns the items on which KV and history disagree.
fn apply(
    entries: &mut BTreeMap<ItemId, Arc<Entry>>,
    joined: Vec<(ItemId, Result<Option<Revision>, Error>)>,
) -> Vec<ItemId> {
    let mut suspects = Vec::new();
    for (id, answer) in joined {
        let (Some(entry), Ok(found)) = (entries.get_mut(&id), answer) else { continue };
        match found.filter(|revision| revision.value.as_ref() == Some(&entry.value)) {
            Some(revision) => {
                *entry = Arc::new(Entry { about: Some(Arc::new(revision)), ..Entry::clone(entry) });
            }
            None => suspects.push(id),
        }
    }
    suspects
}
