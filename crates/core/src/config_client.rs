//! Client of the configuration service: typed values, defaults, a cache that watches keep fresh, and a last-good file for
//! starting while the service is away.
//!
//! A client reads one namespace and environment. The first read of a key fetches it and, unless the cache is off, keeps it fresh by a
//! long poll; later reads are served from memory. When the service cannot be reached, the cached value stays; a client that has
//! never reached it takes the last-good file.

mod file;
mod poll;
mod remote;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::consul::Address;
use crate::identity::Identity;
use crate::{Error, Secret};
use file::LastGood;
use remote::Remote;
pub use remote::{Expect, Written};

#[derive(Debug, Clone)]
pub struct ConfigSettings {
    /// The configuration service, `http(s)://host:port` (see [`Address`]).
    pub address: Address,
    pub namespace: String,
    /// Default `default`.
    pub environment: String,
    pub token: Option<Secret>,
    /// PEM; none: the system's trust store.
    pub ca_cert: Option<PathBuf>,
    /// Who asks, over `https://`; the service must then show that it is `config-service`, and `ca_cert` has no say. Default none.
    pub identity: Option<Identity>,
    /// Default 2 s.
    pub connect_timeout: Duration,
    /// Deadline of a read; slack of a long poll. Default 5 s.
    pub request_timeout: Duration,
    /// How long one poll for changes blocks. Default 30 s.
    pub wait: Duration,
    /// One file per client. Keeps every answer (also that a key does not exist), for the next start while the service is away. It holds the values as plain text, so it is
    /// written with mode 0600. Default none.
    pub last_good: Option<PathBuf>,
}

impl ConfigSettings {
    pub fn new(address: Address, namespace: impl Into<String>) -> Self {
        Self {
            address,
            namespace: namespace.into(),
            environment: "default".to_owned(),
            token: None,
            ca_cert: None,
            identity: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            wait: Duration::from_secs(30),
            last_good: None,
        }
    }
}

/// A configuration item as the service answers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub key: String,
    pub value: Value,
    /// Counts all changes of the key.
    pub revision: u64,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    #[serde(default)]
    pub modify_index: u64,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Answered just now, or kept fresh by a watch that works.
    Live,
    /// The service cannot be reached; this was its last answer.
    Stale,
    /// The service has not been reached since this process started.
    File,
}

/// What is known of one key: the item (`None`: the key does not exist), and how sure that is.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub item: Option<Item>,
    pub origin: Origin,
}

/// Cheap to clone; dropping the last clone and watch ends its polls.
#[derive(Debug, Clone)]
pub struct ConfigClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    remote: Arc<Remote>,
    last_good: Option<Arc<LastGood>>,
    wait: Duration,
    watched: Mutex<HashMap<String, watch::Receiver<Option<Known>>>>,
    ended: CancellationToken,
    _guard: DropGuard,
}

impl ConfigClient {
    /// Opens no connection yet. Fails on unusable TLS material, names, or an unreadable (not merely missing) last-good file.
    pub fn new(settings: ConfigSettings) -> Result<Self, Error> {
        let last_good = match &settings.last_good {
            Some(path) => Some(Arc::new(LastGood::open(path)?)),
            None => None,
        };
        let ended = CancellationToken::new();
        let inner = Inner {
            remote: Arc::new(Remote::new(&settings)?),
            last_good,
            wait: settings.wait,
            watched: Mutex::new(HashMap::new()),
            _guard: ended.clone().drop_guard(),
            ended,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The value, or `default` when the key does not exist. Served from the watched cache after the first read.
    ///
    /// [`Error::Decode`] when the value is not a `T`; errors of the transport only when nothing is known at all: no answer yet and
    /// no last-good file.
    pub async fn get<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T, Error> {
        Ok(self.find(key).await?.unwrap_or(default))
    }

    /// Like [`ConfigClient::get`] without a default.
    pub async fn find<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let known = self.known(key).await?;
        known.item.map(|item| typed(key, item.value)).transpose()
    }

    /// Like [`ConfigClient::get`], but `use_cache: false` asks the service and fails when it does not answer.
    pub async fn get_with<T: DeserializeOwned>(
        &self,
        key: &str,
        default: T,
        use_cache: bool,
    ) -> Result<T, Error> {
        if use_cache {
            return self.get(key, default).await;
        }
        match self.inner.remote.get(key, None).await?.item {
            Some(item) => typed(key, item.value),
            None => Ok(default),
        }
    }

    /// What is known of a key, item and origin; waits for the first answer or its failure.
    pub async fn known(&self, key: &str) -> Result<Known, Error> {
        let mut receiver = self.receiver(key);
        if let Some(known) = receiver.borrow_and_update().clone() {
            return Ok(known);
        }
        // First use: ask at once, so that the caller gets the real reason when there is no answer.
        match self.inner.remote.get(key, None).await {
            Ok(answer) => Ok(Known { item: answer.item, origin: Origin::Live }),
            Err(error) if error.is_unavailable() => {
                let kept = self.inner.last_good.as_ref().and_then(|file| file.get(key));
                kept.map(|item| Known { item, origin: Origin::File }).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The item as the service has it now: neither cache nor last-good file.
    pub async fn read(&self, key: &str) -> Result<Option<Item>, Error> {
        Ok(self.inner.remote.get(key, None).await?.item)
    }

    /// Writes an item. It is durable when this returns; other clients see it as their watches tell them.
    pub async fn write(&self, key: &str, value: &Value, expect: Expect) -> Result<Written, Error> {
        self.inner.remote.put(key, value, expect).await
    }

    /// Deletes an item; one that is not there is fine.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.inner.remote.delete(key).await
    }

    /// What is known of a key, now and whenever it changes, until the receiver is dropped. `None` until the first answer.
    pub fn subscribe(&self, key: &str) -> watch::Receiver<Option<Known>> {
        self.receiver(key)
    }

    /// Calls back with the value now (once it is known) and on each change, until the handle is dropped. `None`: the key does
    /// not exist. A value that is not a `T` is handed over as an error and the watch goes on.
    pub fn watch<T, F>(&self, key: &str, mut callback: F) -> ConfigWatch
    where
        T: DeserializeOwned + Send + 'static,
        F: FnMut(Result<Option<T>, Error>) + Send + 'static,
    {
        let mut receiver = self.receiver(key);
        receiver.mark_changed();
        let key = key.to_owned();
        let client = self.clone();
        let task = tokio::spawn(async move {
            let _keeps_polls_alive = client;
            let mut last: Option<Option<Value>> = None;
            while receiver.changed().await.is_ok() {
                let Some(known) = receiver.borrow_and_update().clone() else { continue };
                let value = known.item.map(|item| item.value);
                // A value that was written again, or only got stale, is no change.
                if last.as_ref() == Some(&value) {
                    continue;
                }
                last = Some(value.clone());
                callback(value.map(|value| typed(&key, value)).transpose());
            }
        });
        ConfigWatch { task }
    }

    /// Age-independent state of all watched keys: how many, and how many of them cannot be confirmed now.
    pub fn status(&self) -> ConfigStatus {
        let watched = self.inner.watched.lock();
        let unconfirmed = watched.values().filter(|receiver| match &*receiver.borrow() {
            Some(known) => known.origin != Origin::Live,
            None => true,
        });
        ConfigStatus { watched: watched.len(), unconfirmed: unconfirmed.count() }
    }

    fn receiver(&self, key: &str) -> watch::Receiver<Option<Known>> {
        let mut watched = self.inner.watched.lock();
        if let Some(receiver) = watched.get(key) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        let poll = poll::Poll {
            key: key.to_owned(),
            remote: Arc::clone(&self.inner.remote),
            last_good: self.inner.last_good.clone(),
            wait: self.inner.wait,
            known: sender,
        };
        let ended = self.inner.ended.clone();
        tokio::spawn(async move { ended.run_until_cancelled(poll.run()).await });
        watched.insert(key.to_owned(), receiver.clone());
        receiver
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigStatus {
    pub watched: usize,
    pub unconfirmed: usize,
}

/// Ends its callback when dropped.
#[derive(Debug)]
pub struct ConfigWatch {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ConfigWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn typed<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|source| Error::Decode {
        method: "GET".to_owned(),
        path: key.to_owned(),
        source,
    })
}

/// The time since `started`, for pauses between polls.
fn rest(started: Instant, least: Duration) -> Duration {
    least.saturating_sub(started.elapsed())
}
