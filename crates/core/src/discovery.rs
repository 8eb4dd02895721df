//! Finding instances: watched, immutable snapshots, served whatever Consul does.
//!
//! One task watches the list of service names; one task per service that is asked for watches its instances, as long as somebody
//! asks or subscribes. Each builds a whole [`ServiceSnapshot`] and swaps it in; readers never wait for Consul, except for the
//! first snapshot of a service. Consul gone: the last good snapshots stay, and their age grows. Blocking queries are scarce, so
//! beyond `max_watches` services are read plainly every `sweep_interval` instead.

mod build;
mod documents;
mod slot;
mod snapshot;
mod tasks;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::consul::{Client, Read};
use slot::Slot;
pub use slot::Subscription;
pub use snapshot::{CheckView, Instance, ServiceList, ServiceSnapshot};

#[derive(Debug, Clone)]
pub struct DiscoverySettings {
    /// Services watched by blocking queries at a time. Default 90, which leaves some of the client's 100 to others.
    pub max_watches: usize,
    /// How long a first use waits for its first snapshot. Default 1 s.
    pub first_wait: Duration,
    /// A service nobody asks for this long is not watched any more. Default 60 s.
    pub idle: Duration,
    /// How often services beyond `max_watches` are read. Default 5 s.
    pub sweep_interval: Duration,
    /// How long one blocking query blocks, and so after how long a silently dead connection is noticed (plus the client's
    /// request timeout). Default 30 s.
    pub wait: Duration,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            max_watches: 90,
            first_wait: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(5),
            wait: Duration::from_secs(30),
        }
    }
}

/// Why there is no snapshot to serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The catalog has no service of this name.
    #[error("service {name:?} is not registered")]
    Unknown { name: String },
    /// Nothing is known (yet) of this service, or not up to the index that was asked for.
    #[error("service {name:?} is not known in time")]
    NotReady { name: String },
}

/// State of discovery for `/health` and metrics.
#[derive(Debug, Clone)]
pub struct DiscoveryStatus {
    /// Services watched by blocking queries.
    pub watches: usize,
    /// Services read by sweeps because all places are taken.
    pub swept: usize,
    /// Names in the catalog; `None` before the first list.
    pub services: Option<usize>,
    /// Since Consul last confirmed the list. A healthy watch confirms at least every 35 s.
    pub list_age: Option<Duration>,
    /// Age of the oldest service snapshot.
    pub oldest_age: Option<Duration>,
    /// False while the list cannot be read.
    pub connected: bool,
    /// The latest failure, also after it is over.
    pub last_error: Option<String>,
}

/// A handle; clones share everything. Dropping the last one (and the last subscription) ends all watches.
#[derive(Debug, Clone)]
pub struct Discovery {
    inner: Arc<Inner>,
    _guard: Arc<DropGuard>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    settings: DiscoverySettings,
    handle: Handle,
    ended: CancellationToken,
    started: Instant,
    list: ArcSwapOption<ServiceList>,
    list_version: watch::Sender<u64>,
    slots: RwLock<HashMap<Arc<str>, Arc<Slot>>>,
    places: Arc<Semaphore>,
    sweeps: Semaphore,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    connected: bool,
    last_error: Option<String>,
}

/// Plain reads of swept services at a time.
const CONCURRENT_SWEEPS: usize = 8;

impl Discovery {
    /// Starts watching the list of names on `handle`.
    pub fn start(client: Client, settings: DiscoverySettings, handle: &Handle) -> Self {
        let ended = CancellationToken::new();
        let inner = Arc::new(Inner {
            client,
            places: Arc::new(Semaphore::new(settings.max_watches)),
            settings,
            handle: handle.clone(),
            ended: ended.clone(),
            started: Instant::now(),
            list: ArcSwapOption::empty(),
            list_version: watch::Sender::new(0),
            slots: RwLock::new(HashMap::new()),
            sweeps: Semaphore::new(CONCURRENT_SWEEPS),
            trouble: Mutex::new(Trouble::default()),
        });
        handle.spawn(tasks::watch_list(Arc::clone(&inner)));
        Self { inner, _guard: Arc::new(ended.drop_guard()) }
    }

    /// All service names; `None` before the first answer of Consul.
    pub fn services(&self) -> Option<Arc<ServiceList>> {
        self.inner.list.load_full()
    }

    /// Wakes on each change of the list of names.
    pub async fn services_changed(&self, after_index: u64) -> Arc<ServiceList> {
        let mut version = self.inner.list_version.subscribe();
        loop {
            if let Some(list) = self.services().filter(|list| list.index > after_index) {
                return list;
            }
            // The sender lives in `inner`, which we hold.
            let _alive = version.changed().await;
        }
    }

    /// The snapshot if it is at hand and has instances: the quick way for hot paths, which never waits. On `None` ask
    /// [`Discovery::service`].
    pub fn try_service(&self, name: &str) -> Option<Arc<ServiceSnapshot>> {
        let slots = self.inner.slots.read();
        let slot = slots.get(name)?;
        slot.touch(self.inner.now_ms());
        slot.snapshot().filter(|snapshot| !snapshot.instances.is_empty())
    }

    /// The current snapshot; opens (or keeps) the watch of this service and waits at most `first_wait` for a first one.
    pub async fn service(&self, name: &str) -> Result<Arc<ServiceSnapshot>, DiscoveryError> {
        match self.try_service(name) {
            Some(snapshot) => Ok(snapshot),
            None => self.service_at(name, 0, self.inner.settings.first_wait).await,
        }
    }

    /// Like [`Discovery::service`], but a snapshot of at least `min_index`, waiting at most `timeout` for it: what a client
    /// needs that must see its own write.
    pub async fn service_at(
        &self,
        name: &str,
        min_index: u64,
        timeout: Duration,
    ) -> Result<Arc<ServiceSnapshot>, DiscoveryError> {
        let deadline = tokio::time::Instant::now() + timeout;
        if self.existing(name).is_none() && !self.is_listed(name, min_index, deadline).await? {
            return Err(DiscoveryError::Unknown { name: name.to_owned() });
        }
        let slot = self.open(name);
        slot.touch(self.inner.now_ms());
        let Some(snapshot) = slot.wait_for(min_index, deadline).await else {
            return Err(DiscoveryError::NotReady { name: name.to_owned() });
        };
        // The list of names may still be behind this snapshot, so it is not asked: nobody is registered.
        if snapshot.instances.is_empty() {
            return Err(DiscoveryError::Unknown { name: name.to_owned() });
        }
        Ok(snapshot)
    }

    /// Holds the watch of this service open, whether it is in the catalog already or not.
    pub fn subscribe(&self, name: &str) -> Subscription {
        Subscription::new(self.clone(), self.open_held(name))
    }

    pub fn status(&self) -> DiscoveryStatus {
        let list = self.services();
        let slots: Vec<Arc<Slot>> = self.inner.slots.read().values().cloned().collect();
        let trouble = self.inner.trouble.lock();
        DiscoveryStatus {
            watches: slots.iter().filter(|slot| slot.is_watched()).count(),
            swept: slots.iter().filter(|slot| !slot.is_watched()).count(),
            services: list.as_ref().map(|list| list.names.len()),
            list_age: list.as_ref().map(|list| list.age()),
            oldest_age: slots.iter().filter_map(|slot| slot.snapshot()).map(|snapshot| snapshot.age()).max(),
            connected: trouble.connected,
            last_error: trouble.last_error.clone(),
        }
    }

    /// Whether the name is in a list that is new enough (`min_index`) to say so; waits until one is.
    async fn is_listed(
        &self,
        name: &str,
        min_index: u64,
        deadline: tokio::time::Instant,
    ) -> Result<bool, DiscoveryError> {
        let mut version = self.inner.list_version.subscribe();
        loop {
            let list = self.services();
            if let Some(list) = &list {
                if list.names.contains_key(name) {
                    return Ok(true);
                }
                if list.index >= min_index {
                    return Ok(false);
                }
            }
            if tokio::time::timeout_at(deadline, version.changed()).await.is_err() {
                // A list that is merely behind still says more than none.
                return match list {
                    Some(_) => Ok(false),
                    None => Err(DiscoveryError::NotReady { name: name.to_owned() }),
                };
            }
        }
    }

    fn existing(&self, name: &str) -> Option<Arc<Slot>> {
        self.inner.slots.read().get(name).cloned()
    }

    fn open(&self, name: &str) -> Arc<Slot> {
        match self.existing(name) {
            Some(slot) => slot,
            None => self.inner.open(name, false),
        }
    }

    fn open_held(&self, name: &str) -> Arc<Slot> {
        self.inner.open(name, true)
    }
}

impl Inner {
    fn blocking(&self) -> Read {
        Read { wait: Some(self.settings.wait), ..Read::default() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Finds or makes the slot; with `hold` its holder is counted before anybody can find it idle.
    fn open(self: &Arc<Self>, name: &str, hold: bool) -> Arc<Slot> {
        let mut slots = self.slots.write();
        let slot = match slots.get(name) {
            Some(slot) => Arc::clone(slot),
            None => {
                let slot = Arc::new(Slot::new(name, self.now_ms()));
                slots.insert(Arc::clone(&slot.name), Arc::clone(&slot));
                self.handle.spawn(tasks::keep(Arc::clone(self), Arc::clone(&slot)));
                slot
            }
        };
        if hold {
            slot.hold();
        }
        slot
    }

    /// Takes the slot out if nobody holds it or has asked for it lately.
    fn end_if_idle(&self, slot: &Slot) -> bool {
        let mut slots = self.slots.write();
        let idle_ms = u64::try_from(self.settings.idle.as_millis()).unwrap_or(u64::MAX);
        let idle = slot.is_idle(self.now_ms(), idle_ms);
        if idle {
            slots.remove(&slot.name);
        }
        idle
    }
}
