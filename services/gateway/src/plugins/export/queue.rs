//! One queue and the task that empties it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plinth_kong::QueueConfig;
use tokio::sync::Notify;

use super::{Counters, Sink};

/// Between two complaints about the same receiver.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// A queue nobody feeds any more tries this long to deliver what is left.
const LAST_TRIES: Duration = Duration::from_secs(10);

/// How a queue waits, gathers and tries again.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plugins) struct Limits {
    pub batch: usize,
    /// How long a batch waits to become full.
    pub gather: Duration,
    pub entries: usize,
    pub bytes: Option<usize>,
    /// A batch is given up after failing for so long; `None` after the first failure.
    pub retry: Option<Duration>,
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// Several batches at the same time.
    pub concurrent: bool,
}

impl From<&QueueConfig> for Limits {
    fn from(config: &QueueConfig) -> Limits {
        let seconds = |value: f64| Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX);
        Limits {
            batch: config.max_batch_size.max(1) as usize,
            gather: seconds(config.max_coalescing_delay),
            entries: config.max_entries.max(1) as usize,
            bytes: config.max_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            retry: (config.max_retry_time >= 0.0).then(|| seconds(config.max_retry_time)),
            first_pause: seconds(config.initial_retry_delay),
            longest_pause: seconds(config.max_retry_delay),
            concurrent: config.concurrency_limit < 0,
        }
    }
}

/// A queue as plugins see it. With the last of them its task delivers what is left and ends.
#[derive(Debug)]
pub(in crate::plugins) struct Queue {
    plugin: &'static str,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    counters: Counters,
    state: Mutex<State>,
    /// Something to do for a task.
    arrived: Notify,
    /// A batch is done with.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Entries taken out and not yet delivered or given up.
    under_way: usize,
    /// Batches no longer wait to become full.
    hurry: bool,
    /// Since when nobody feeds it any more.
    closed: Option<Instant>,
}

impl Queue {
    pub fn new(plugin: &'static str, limits: Limits, counters: Counters) -> Queue {
        let shared =
            Shared { limits, counters, state: Mutex::default(), arrived: Notify::new(), done: Notify::new() };
        Queue { plugin, shared: Arc::new(shared) }
    }

    pub fn plugin(&self) -> &'static str {
        self.plugin
    }

    /// Puts an entry in; the oldest ones make room. Never waits for more than another worker's or task's push or pop.
    pub fn push(&self, entry: Vec<u8>) {
        let Shared { limits, counters, arrived, .. } = &*self.shared;
        if limits.bytes.is_some_and(|most| entry.len() > most) {
            return counters.too_large.inc();
        }
        let length = {
            let mut state = self.shared.state.lock();
            while state.entries.len() >= limits.entries
                || limits.bytes.is_some_and(|most| state.bytes + entry.len() > most)
            {
                if state.pop().is_none() {
                    break;
                }
                counters.full.inc();
            }
            state.bytes += entry.len();
            state.entries.push_back(entry);
            state.entries.len()
        };
        // in between a task is gathering or sending: it looks again by itself
        if length == 1 || length == limits.batch {
            arrived.notify_one();
        }
    }

    /// Entries queued or under way.
    pub fn waiting(&self) -> usize {
        let state = self.shared.state.lock();
        state.entries.len() + state.under_way
    }

    /// Returns once everything is delivered or given up.
    pub async fn drained(&self) {
        self.shared.state.lock().hurry = true;
        self.shared.wake();
        loop {
            let done = self.shared.done.notified();
            if self.waiting() == 0 {
                return;
            }
            done.await;
        }
    }

    /// A task that takes batches out until the queue is closed and empty.
    pub fn deliver(&self, sink: Sink) -> impl Future<Output = ()> + Send + use<> {
        run(self.plugin, Arc::clone(&self.shared), sink)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.state.lock().closed = Some(Instant::now());
        self.shared.wake();
    }
}

impl State {
    fn pop(&mut self) -> Option<Vec<u8>> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.len();
        Some(entry)
    }
}

impl Shared {
    /// All tasks look at the state again.
    fn wake(&self) {
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    /// The next batch; `None` when there will be none.
    async fn next(&self) -> Option<Vec<Vec<u8>>> {
        loop {
            let arrived = self.arrived.notified();
            {
                let state = self.state.lock();
                if !state.entries.is_empty() {
                    break;
                }
                if state.closed.is_some() {
                    // the next task of this queue ends as well
                    self.arrived.notify_one();
                    return None;
                }
            }
            arrived.await;
        }
        let until = tokio::time::Instant::now() + self.limits.gather;
        loop {
            let arrived = self.arrived.notified();
            {
                let state = self.state.lock();
                if state.entries.len() >= self.limits.batch || state.hurry || state.closed.is_some() {
                    break;
                }
            }
            if tokio::time::timeout_at(until, arrived).await.is_err() {
                break;
            }
        }
        let mut state = self.state.lock();
        let mut batch = Vec::with_capacity(self.limits.batch.min(state.entries.len()));
        while batch.len() < self.limits.batch
            && let Some(entry) = state.pop()
        {
            batch.push(entry);
        }
        state.under_way += batch.len();
        if !state.entries.is_empty() {
            self.arrived.notify_one();
        }
        Some(batch)
    }

    fn finished(&self, entries: usize) {
        self.state.lock().under_way -= entries;
        self.done.notify_waiters();
    }
}

async fn run(plugin: &'static str, shared: Arc<Shared>, mut sink: Sink) {
    let mut complaints = Complaints { plugin, last: None };
    while let Some(batch) = shared.next().await {
        let entries = batch.len();
        // another task was quicker
        if entries > 0 {
            deliver(&shared, &mut sink, batch, &mut complaints).await;
        }
        shared.finished(entries);
    }
}

async fn deliver(shared: &Shared, sink: &mut Sink, mut batch: Vec<Vec<u8>>, complaints: &mut Complaints) {
    let Shared { limits, counters, .. } = shared;
    let started = Instant::now();
    let mut pause = limits.first_pause;
    while !batch.is_empty() {
        let Err(mut failure) = sink.send(&batch).await else {
            counters.sent.inc_by(batch.len() as u64);
            complaints.works();
            return;
        };
        counters.failures.inc();
        counters.sent.inc_by(failure.sent as u64);
        batch.drain(..failure.sent.min(batch.len()));
        if failure.hopeless {
            batch.drain(..1.min(batch.len()));
            counters.too_large.inc();
            continue;
        }
        let closed = shared.state.lock().closed.is_some_and(|since| since.elapsed() >= LAST_TRIES);
        if closed || limits.retry.is_none_or(|longest| started.elapsed() > longest) {
            counters.given_up.inc_by(batch.len() as u64);
            failure.why = format!("{}; {} entries given up", failure.why, batch.len());
            complaints.say(&failure.why);
            return;
        }
        complaints.say(&failure.why);
        tokio::time::sleep(pause.min(limits.longest_pause)).await;
        pause = pause.saturating_mul(2);
    }
}

/// A receiver that is away must not fill the log.
struct Complaints {
    plugin: &'static str,
    last: Option<Instant>,
}

impl Complaints {
    fn say(&mut self, why: &str) {
        if self.last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.last = Some(Instant::now());
            tracing::error!(plugin = self.plugin, error = why, "entries cannot be delivered");
        }
    }

    fn works(&mut self) {
        if self.last.take().is_some() {
            tracing::info!(plugin = self.plugin, "entries are delivered again");
        }
    }
}
