//! The tasks that watch Consul and publish snapshots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::documents::Documents;
use super::slot::Slot;
use super::{Inner, ServiceList, ServiceSnapshot, build};
use crate::Error;
use crate::consul::wire::ServiceEntry;
use crate::consul::{Read, Reply, watch};

/// When documents could not be read with their entries, they are tried again after this time.
const DOCUMENTS_AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn watch_list(inner: Arc<Inner>) {
    let mut replies = watch(&inner.client, inner.blocking(), |client, read| async move {
        client.catalog().services(&read).await
    });
    loop {
        let reply = tokio::select! {
            reply = replies.next() => reply,
            () = inner.ended.cancelled() => return,
        };
        match reply {
            Some(Ok(reply)) => {
                inner.connected();
                let list = ServiceList { names: reply.value, index: reply.index, fetched: Instant::now() };
                inner.list.store(Some(Arc::new(list)));
                inner.list_version.send_modify(|version| *version += 1);
            }
            Some(Err(error)) => inner.failed("the list of services", &error, true),
            None => return,
        }
    }
}

/// Keeps one slot's snapshot fresh until nobody wants it.
pub(super) async fn keep(inner: Arc<Inner>, slot: Arc<Slot>) {
    let mut feed = Feed {
        inner: Arc::clone(&inner),
        slot: Arc::clone(&slot),
        documents: Documents::default(),
        again: None,
    };
    let work = async {
        loop {
            let ended = match Arc::clone(&inner.places).try_acquire_owned() {
                Ok(place) => feed.watch(place).await,
                Err(_) => feed.sweep().await,
            };
            if ended {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = inner.ended.cancelled() => {}
    }
}

struct Feed {
    inner: Arc<Inner>,
    slot: Arc<Slot>,
    documents: Documents,
    /// The last entries, kept only while some of their documents are still to be read.
    again: Option<Reply<Vec<ServiceEntry>>>,
}

impl Feed {
    /// Watches until the slot is idle.
    async fn watch(&mut self, _place: OwnedSemaphorePermit) -> bool {
        self.slot.set_watched(true);
        let name: Arc<str> = Arc::clone(&self.slot.name);
        let mut replies = watch(&self.inner.client, self.inner.blocking(), move |client, read| {
            let name = Arc::clone(&name);
            async move { client.health().service(&name, false, &[], &read).await }
        });
        let mut idle = tokio::time::interval(idle_tick(self.inner.settings.idle));
        loop {
            tokio::select! {
                reply = replies.next() => match reply {
                    Some(Ok(reply)) => self.publish(reply).await,
                    Some(Err(error)) => self.inner.failed(&self.slot.name, &error, false),
                    None => return true,
                },
                _ = idle.tick() => if self.inner.end_if_idle(&self.slot) {
                    return true;
                },
                () = tokio::time::sleep(DOCUMENTS_AGAIN), if self.again.is_some() => {
                    if let Some(reply) = self.again.take() {
                        self.publish(reply).await;
                    }
                }
            }
        }
    }

    /// One read that does not block, then a pause; true when the slot has ended. Consistent, as a watch's plain queries are.
    async fn sweep(&mut self) -> bool {
        self.slot.set_watched(false);
        let reply = {
            let Ok(_turn) = self.inner.sweeps.acquire().await else { return true };
            self.inner.client.health().service(&self.slot.name, false, &[], &Read::consistent()).await
        };
        match reply {
            Ok(reply) => self.publish(reply).await,
            Err(error) => self.inner.failed(&self.slot.name, &error, false),
        }
        // Spread, so that many swept services do not come at once.
        let pause = self.inner.settings.sweep_interval.mul_f64(0.75 + 0.5 * fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.slot.nudge.notified() => tokio::time::sleep(pause.min(NUDGE_PAUSE)).await,
        }
        self.inner.end_if_idle(&self.slot)
    }

    async fn publish(&mut self, reply: Reply<Vec<ServiceEntry>>) {
        let fetched = Instant::now();
        let complete = self.documents.update(&self.inner.client, &reply.value).await;
        let mut instances: Vec<_> = reply
            .value
            .iter()
            .map(|entry| {
                // Asked for by mark only: the cache also holds nothing for entries without one.
                let metadata =
                    build::document_mark(entry).and_then(|_| self.documents.metadata(&entry.service.id));
                build::instance(entry, metadata)
            })
            .collect();
        instances.sort_by(|a, b| a.service_id.cmp(&b.service_id).then_with(|| a.node.cmp(&b.node)));
        let snapshot =
            ServiceSnapshot { name: self.slot.name.to_string(), index: reply.index, instances, fetched };
        self.slot.publish(snapshot);
        self.again = (!complete).then_some(reply);
    }
}

/// A nudged sweep still keeps this distance from the last read.
const NUDGE_PAUSE: Duration = Duration::from_millis(20);

fn idle_tick(idle: Duration) -> Duration {
    (idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(15))
}

impl Inner {
    fn connected(&self) {
        let mut trouble = self.trouble.lock();
        if !trouble.connected && trouble.last_error.is_some() {
            tracing::info!("discovery reads from Consul again");
        }
        trouble.connected = true;
    }

    fn failed(&self, what: &str, error: &Error, list: bool) {
        let text = crate::error::chain(error);
        let mut trouble = self.trouble.lock();
        // Told once, at the list: hundreds of watches fail with it.
        if list && (trouble.connected || trouble.last_error.is_none()) {
            tracing::warn!(error = %text, "discovery cannot read from Consul; the last known state is served");
        } else {
            tracing::debug!(what, error = %text, "discovery read failed");
        }
        if list {
            trouble.connected = false;
        }
        trouble.last_error = Some(text);
    }
}
