//! Sending entries elsewhere without ever holding up a worker: bounded queues, batches, retries with growing pauses.
//!
//! A worker makes the entry's bytes and puts them into a queue; tasks on the control runtime take them out. A queue that is
//! full loses its oldest entry, as Kong's does, and counts it. Queues outlive configurations that do not change them.

mod http;
mod queue;
mod socket;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts};
use tokio::runtime::Handle;

pub(super) use http::{Body, Endpoint, Http, Timeouts, trusted, unverified};
pub(super) use queue::{Limits, Queue};
pub(super) use socket::{Syslog, Tcp, Udp};

/// Longest time a stop waits for what is still queued.
const FLUSH: Duration = Duration::from_secs(3);
/// Tasks of a queue that may send several batches at the same time (`concurrency_limit: -1`).
const CONCURRENT: usize = 16;

/// Where a queue's entries go. Made once for each task of the queue: it owns its connection.
pub(super) enum Sink {
    Http(Box<Http>),
    Tcp(Tcp),
    Udp(Udp),
    Syslog(Syslog),
}

/// Why a batch, or the rest of it, did not arrive.
#[derive(Debug)]
pub(super) struct Failure {
    /// Entries at the batch's beginning that did.
    pub sent: usize,
    pub why: String,
    /// The next entry can never be sent.
    pub hopeless: bool,
}

impl Failure {
    fn new(why: impl Into<String>) -> Failure {
        Failure { sent: 0, why: why.into(), hopeless: false }
    }
}

impl Sink {
    async fn send(&mut self, batch: &[Vec<u8>]) -> Result<(), Failure> {
        match self {
            Sink::Http(sink) => sink.send(batch).await.map_err(Failure::new),
            Sink::Tcp(sink) => sink.send(batch).await.map_err(Failure::new),
            Sink::Udp(sink) => sink.send(batch).await,
            Sink::Syslog(sink) => sink.send(batch).await,
        }
    }
}

/// What one kind of plugin counts.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    pub sent: IntCounter,
    /// Tries that failed.
    pub failures: IntCounter,
    pub full: IntCounter,
    pub too_large: IntCounter,
    pub given_up: IntCounter,
}

/// The queues in use, one for each different configuration whatever the number of plugins.
#[derive(Debug)]
pub(super) struct Exports {
    control: Handle,
    queues: Mutex<HashMap<String, Weak<Queue>>>,
    sent: IntCounterVec,
    failures: IntCounterVec,
    lost: IntCounterVec,
}

impl Exports {
    pub fn new(control: Handle, registry: &prometheus::Registry) -> Result<Exports, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        Ok(Exports {
            control,
            queues: Mutex::default(),
            sent: counter("gateway_export_sent_total", "Entries delivered, by plugin.", &["plugin"])?,
            failures: counter(
                "gateway_export_failures_total",
                "Tries to deliver entries that failed, by plugin.",
                &["plugin"],
            )?,
            lost: counter(
                "gateway_export_lost_total",
                "Entries lost, by plugin and reason (queue_full, too_large, given_up).",
                &["plugin", "reason"],
            )?,
        })
    }

    /// The queue of a configuration, `key` telling it from all others. `sink` makes one sink for each task.
    pub fn queue(
        &self,
        plugin: &'static str,
        key: &str,
        limits: Limits,
        sink: impl Fn() -> Sink,
    ) -> Arc<Queue> {
        let key = format!("{plugin} {key}");
        let mut queues = self.queues.lock();
        queues.retain(|_, queue| queue.strong_count() > 0);
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        let sinks = if limits.concurrent { CONCURRENT } else { 1 };
        let queue = Arc::new(Queue::new(plugin, limits, self.counters(plugin)));
        for sink in std::iter::repeat_with(sink).take(sinks) {
            self.control.spawn(queue.deliver(sink));
        }
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }

    fn counters(&self, plugin: &str) -> Counters {
        let lost = |reason: &str| self.lost.with_label_values(&[plugin, reason]);
        Counters {
            sent: self.sent.with_label_values(&[plugin]),
            failures: self.failures.with_label_values(&[plugin]),
            full: lost("queue_full"),
            too_large: lost("too_large"),
            given_up: lost("given_up"),
        }
    }

    /// Waits (blocking) until all queues are empty, three seconds at most.
    pub fn flush(&self) {
        let queues: Vec<Arc<Queue>> = self.queues.lock().values().filter_map(Weak::upgrade).collect();
        if queues.is_empty() {
            return;
        }
        self.control.block_on(async {
            let all = futures_util::future::join_all(queues.iter().map(|queue| queue.drained()));
            if tokio::time::timeout(FLUSH, all).await.is_err() {
                for queue in queues.iter().filter(|queue| queue.waiting() > 0) {
                    tracing::error!(
                        plugin = queue.plugin(),
                        entries = queue.waiting(),
                        "stopped before all entries were sent"
                    );
                }
            }
        });
    }
}
