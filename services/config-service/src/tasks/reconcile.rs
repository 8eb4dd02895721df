//! Settles disagreements between KV and the history; see [`crate::domain::drift`] for the rules.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use plinth_core::consul::{Client, Read};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::domain::drift::{KvState, Verdict, judge};
use crate::domain::item::now;
use crate::domain::{Action, Change, ItemId, JsonText, Precondition};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::store::{Store, Written};

/// Author of revisions that were found in KV.
pub const EXTERNAL_AUTHOR: &str = "consul";
/// Pause after a failure, and how long an item that is being published is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Items to be looked at, each once however often it is named.
#[derive(Default)]
pub struct Suspects {
    items: Mutex<BTreeSet<ItemId>>,
    added: Notify,
}

impl Suspects {
    pub fn add(&self, items: impl IntoIterator<Item = ItemId>) {
        let mut waiting = self.items.lock();
        let before = waiting.len();
        waiting.extend(items);
        if waiting.len() > before {
            self.added.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<ItemId> {
        std::mem::take(&mut *self.items.lock())
    }
}

/// Compares everything at the start and every `interval`, and single items when they are named.
pub struct Reconcile {
    pub client: Client,
    pub store: Arc<dyn Store>,
    pub live: Arc<Live>,
    pub suspects: Arc<Suspects>,
    pub metrics: Arc<Metrics>,
    /// Wakes the relay of the KV lane.
    pub nudge: Arc<Notify>,
    pub interval: Duration,
}

impl Reconcile {
    pub async fn run(self, stop: CancellationToken) {
        let mut next_sweep = tokio::time::Instant::now();
        loop {
            let pause = match self.round(&mut next_sweep).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::debug!(reason = plinth_core::error::chain(&error), "drift cannot be looked at");
                    Some(RETRY)
                }
            };
            let wait = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => tokio::select! {
                        () = self.suspects.added.notified() => {}
                        () = tokio::time::sleep_until(next_sweep) => {}
                    },
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wait => {}
            }
        }
    }

    async fn round(&self, next_sweep: &mut tokio::time::Instant) -> Result<(), Error> {
        if tokio::time::Instant::now() >= *next_sweep && self.live.current().is_some() {
            self.sweep().await?;
            *next_sweep = tokio::time::Instant::now() + self.interval;
        } else if self.live.current().is_none() {
            *next_sweep = tokio::time::Instant::now() + RETRY;
        }
        let items = self.suspects.take();
        let mut busy = Vec::new();
        for id in &items {
            match self.settle(id).await {
                Ok(true) => {}
                Ok(false) => busy.push(id.clone()),
                Err(error) => {
                    self.suspects.add(items);
                    return Err(error);
                }
            }
        }
        if !busy.is_empty() {
            // Not through `add`: its wake-up would make this a busy loop.
            self.suspects.items.lock().extend(busy);
            *next_sweep = (*next_sweep).min(tokio::time::Instant::now() + RETRY);
        }
        Ok(())
    }

    /// Names every item on which the snapshot and the history differ.
    async fn sweep(&self) -> Result<(), Error> {
        let heads = self.store.heads().await?;
        let Some(now) = self.live.current() else { return Ok(()) };
        let mut unknown: BTreeSet<&ItemId> = now.entries.keys().collect();
        let mut suspects = Vec::new();
        for head in &heads {
            unknown.remove(&head.id);
            let in_kv = now.get(&head.id).map(|entry| entry.revision);
            let expected = (!head.deleted).then_some(head.revision);
            if in_kv != expected {
                suspects.push(head.id.clone());
            }
        }
        suspects.extend(unknown.into_iter().cloned());
        self.suspects.add(suspects);
        Ok(())
    }

    /// Looks at one item afresh and puts it right; `false` when it is being published and has to be looked at later.
    async fn settle(&self, id: &ItemId) -> Result<bool, Error> {
        // The order matters: a change made after the head was read shows as a newer head when we write.
        let head = self.store.head(id).await?;
        if self.store.is_pending(id).await? {
            return Ok(false);
        }
        let found = self.client.kv().get(&id.kv_key(), &Read::consistent()).await?.value;
        let kv =
            found.map(|pair| KvState { flags: pair.flags, value: JsonText::from_bytes(&pair.value).ok() });
        let same = match &kv {
            Some(kv) => self.store.revision(id, kv.flags).await?,
            None => None,
        };
        let verdict = judge(head.as_ref(), same.as_ref(), kv.as_ref());
        match (verdict, head, kv) {
            (Verdict::Republish, Some(head), _) => {
                tracing::warn!(item = %id, revision = head.revision, "KV lost the newest revision; it is published again");
                self.metrics.drift.with_label_values(&["republished"]).inc();
                self.store.republish(&head).await?;
            }
            (Verdict::Adopt, head, Some(KvState { flags, value: Some(value) })) => {
                let expected_head = head.map(|head| head.revision);
                self.adopt(id, Action::Adopt { value, flags, expected_head }).await?;
            }
            _ => return Ok(true),
        }
        self.nudge.notify_one();
        Ok(true)
    }

    async fn adopt(&self, id: &ItemId, action: Action) -> Result<(), Error> {
        let change = Change {
            id: id.clone(),
            action,
            precondition: Precondition::None,
            author: EXTERNAL_AUTHOR.into(),
            at: now(),
        };
        if let Written::Appended { revision, .. } = self.store.write(&change).await? {
            tracing::warn!(item = %id, revision = revision.revision, "KV was written by somebody else; recorded as an external revision");
            self.metrics.drift.with_label_values(&["adopted"]).inc();
        }
        Ok(())
    }
}
