//! Idle upstream connections of one worker: last in, first out, so that the least used ones age out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Connection;
use crate::metrics::WorkerStats;

/// Connections are alike when they lead to the same address with the same TLS settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Where to.
    pub address: SocketAddr,
    /// [`super::TlsTarget::id`], 0 for plain.
    pub tls: u64,
}

/// Sizes of the pools. All are per worker, as in Kong.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Idle connections kept for each key.
    pub size: usize,
    /// An idle connection is closed after this long.
    pub idle_timeout: Duration,
    /// A connection serves at most this many requests.
    pub max_requests: u32,
}

impl Default for PoolSettings {
    /// 512 for each key, 60 s, 10,000 requests.
    fn default() -> Self {
        Self { size: 512, idle_timeout: Duration::from_secs(60), max_requests: 10_000 }
    }
}

/// How often [`Pools::reap`] is to be called.
pub const REAP_EVERY: Duration = Duration::from_secs(1);

/// One worker's idle upstream connections.
#[derive(Debug)]
pub struct Pools {
    settings: PoolSettings,
    idle: RefCell<HashMap<PoolKey, Vec<Connection>, foldhash::fast::RandomState>>,
    stats: Arc<WorkerStats>,
    /// Connections shared by many requests at once.
    pub(super) http2: super::http2::Connections,
}

impl Pools {
    /// Empty pools, which say in `stats` how many connections they keep.
    #[must_use]
    pub fn new(settings: PoolSettings, stats: Arc<WorkerStats>) -> Self {
        Self { settings, idle: RefCell::default(), stats, http2: super::http2::Connections::default() }
    }

    /// The most recently used idle connection that is still open as far as the kernel has told.
    #[must_use]
    pub fn take(&self, key: PoolKey) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&key)?;
        while let Some(mut connection) = connections.pop() {
            self.stats.pool_idle.sub(1);
            if connection.stream.is_quiet() {
                connection.idle_rounds = 0;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless the pool is full, the connection has served its share, or
    /// bytes are left on it that belong to no response.
    pub fn put(&self, key: PoolKey, connection: Connection) {
        if !connection.read.is_empty() || connection.requests >= self.settings.max_requests {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < self.settings.size {
            connections.push(connection);
            self.stats.pool_idle.add(1);
        }
    }

    /// Closes connections idle for too long or closed by the other side.
    pub fn reap(&self) {
        let rounds = u32::try_from(self.settings.idle_timeout.as_millis() / REAP_EVERY.as_millis())
            .unwrap_or(u32::MAX);
        let mut left = 0;
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain_mut(|connection| {
                connection.idle_rounds += 1;
                connection.idle_rounds <= rounds && connection.stream.is_quiet()
            });
            left += connections.len() as u64;
            !connections.is_empty()
        });
        self.stats.pool_idle.set(left);
        self.http2.reap(rounds);
    }

    /// Idle connections now.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.stats.pool_idle.get()
    }

    /// No idle connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes all.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.stats.pool_idle.set(0);
    }
}
