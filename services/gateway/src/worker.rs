//! Worker threads: each a single-threaded runtime that serves its connections alone, with its own upstream pools.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use plinth_core::balance::Clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::{PoolSettings, Pools, ReadAhead, ReadAheadSettings, pool};
use crate::listen::Bound;
use crate::metrics::WorkerStats;
use crate::serve::{self, Drain};
use crate::snapshot::Snapshot;
use crate::tick;
use crate::trusted::Trust;

/// Limits of the data plane.
#[derive(Clone, Debug)]
pub struct DataPlane {
    /// Idle upstream connections of each worker.
    pub pool: PoolSettings,
    /// How far answers are read ahead of slow clients.
    pub read_ahead: ReadAheadSettings,
    /// Largest head of an upstream's response, bytes.
    pub response_head_bytes: usize,
    /// Largest head of a client's request, bytes.
    pub request_head_bytes: usize,
    /// A client must send a whole head within this time, idle keep-alive time included.
    pub header_timeout: Duration,
    /// A client must go on with its body within this time.
    pub client_body_timeout: Duration,
    /// Limit for a client's TLS handshake.
    pub handshake_timeout: Duration,
    /// Bytes of a request body remembered for another try.
    pub replay_bytes: usize,
    /// Bytes of a body held in memory for plugins that look into it. Parsing takes about a millisecond of the worker's time for
    /// each MiB.
    pub plugin_body_bytes: usize,
    /// HTTP/2 streams of a connection.
    pub h2_streams: u32,
    /// HTTP/2 connections are told to go after about this long.
    pub h2_max_age: Duration,
    /// HTTP/2 connections are told to go after about this many requests.
    pub h2_max_requests: u64,
    /// Largest request body, bytes; 0 = no limit.
    pub body_limit: u64,
    /// Whose forwarding headers are believed.
    pub trust: Trust,
}

impl Default for DataPlane {
    fn default() -> Self {
        Self {
            pool: PoolSettings::default(),
            read_ahead: ReadAheadSettings::default(),
            response_head_bytes: 64 * 1024,
            request_head_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(60),
            client_body_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            replay_bytes: 64 * 1024,
            plugin_body_bytes: 1024 * 1024,
            h2_streams: 128,
            h2_max_age: Duration::from_secs(3600),
            h2_max_requests: 10_000,
            body_limit: 0,
            trust: Trust::default(),
        }
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    current: ArcSwap<Snapshot>,
    generation: AtomicU64,
    /// The data plane's limits.
    pub data_plane: DataPlane,
    /// One monotonic clock for latency averages.
    pub clock: Clock,
}

impl Shared {
    /// Starts with `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, data_plane: DataPlane) -> Self {
        let generation = AtomicU64::new(snapshot.generation);
        Self { current: ArcSwap::new(snapshot), generation, data_plane, clock: Clock::new() }
    }

    /// The running configuration.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.current.store(snapshot);
        self.generation.store(generation, Ordering::Release);
    }
}

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking.
    pub socket: std::net::TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// Where it was accepted.
    pub listener: Arc<Bound>,
}

#[derive(Debug)]
enum Command {
    Serve(Accepted),
    Listen(std::net::TcpListener, Arc<Bound>),
    Refresh,
    Drain,
    Stop,
}

/// One worker, seen from its own thread.
#[derive(Debug)]
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    /// Idle upstream connections.
    pub pools: Rc<Pools>,
    /// Reads answers ahead of slow clients.
    pub ahead: Rc<ReadAhead>,
    /// Counters.
    pub stats: Arc<WorkerStats>,
    /// Randomness for balancing.
    pub rng: RefCell<fastrand::Rng>,
    /// Tells connections to go.
    pub drain: Rc<Drain>,
    /// Requests clone the `Rc`: cloning the `Arc` would make all workers write to one counter.
    #[allow(clippy::redundant_allocation)]
    cached: RefCell<Rc<Arc<Snapshot>>>,
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// The configuration to serve the next request from.
    #[must_use]
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        let newest = self.shared.generation.load(Ordering::Acquire);
        if self.cached.borrow().generation != newest {
            self.refresh();
        }
        self.cached.borrow().clone()
    }

    fn refresh(&self) {
        *self.cached.borrow_mut() = Rc::new(self.shared.current());
    }

    /// The address is a trusted peer's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.shared.data_plane.trust.trusts(address)
    }
}

/// A worker, seen from elsewhere.
#[derive(Debug)]
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    load: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// All workers.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    shared: Arc<Shared>,
}

impl Workers {
    /// Starts one thread for each of `stats`.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(shared: Arc<Shared>, stats: Vec<Arc<WorkerStats>>) -> std::io::Result<Self> {
        let mut handles = Vec::with_capacity(stats.len());
        for (index, stats) in stats.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (commands, inbox) = mpsc::unbounded_channel();
            let load = Arc::new(AtomicUsize::new(0));
            let (shared, own_load) = (shared.clone(), load.clone());
            let thread = std::thread::Builder::new().name(format!("gateway-{index}")).spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, run(shared, stats, own_load, inbox));
            })?;
            handles.push(Handle { commands, load, thread: Some(thread) });
        }
        Ok(Self { handles, shared })
    }

    /// What they share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// None, which does not happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// Hands a connection to the worker with the fewest.
    pub fn assign(&self, accepted: Accepted) {
        let Some(least) = self.handles.iter().min_by_key(|handle| handle.load.load(Ordering::Relaxed)) else {
            return;
        };
        least.load.fetch_add(1, Ordering::Relaxed);
        // a worker that is gone takes its connections along: the socket is closed here
        let _ = least.commands.send(Command::Serve(accepted));
    }

    /// Lets worker `index` accept from its own listener.
    pub fn listen(&self, index: usize, listener: std::net::TcpListener, bound: Arc<Bound>) {
        if let Some(handle) = self.handles.get(index) {
            let _ = handle.commands.send(Command::Listen(listener, bound));
        }
    }

    /// Makes a new configuration the running one and wakes every worker, so that the old one is freed soon.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.shared.publish(snapshot);
        self.tell(|| Command::Refresh);
    }

    /// Running requests finish, then their connections close; idle ones close now. Workers end with their last
    /// connection.
    pub fn drain(&self) {
        self.tell(|| Command::Drain);
    }

    /// Ends all workers and whatever runs on them.
    pub fn stop(&self) {
        self.tell(|| Command::Stop);
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for handle in &self.handles {
            let _ = handle.commands.send(command());
        }
    }

    /// All threads have ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.handles
            .iter()
            .all(|handle| handle.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
        for handle in &mut self.handles {
            if let Some(thread) = handle.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

/// A worker's life.
async fn run(
    shared: Arc<Shared>,
    stats: Arc<WorkerStats>,
    load: Arc<AtomicUsize>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
) {
    let pools = Rc::new(Pools::new(shared.data_plane.pool, stats.clone()));
    let ahead = Rc::new(ReadAhead::new(shared.data_plane.read_ahead));
    let cached = RefCell::new(Rc::new(shared.current()));
    let worker = Rc::new(Worker {
        shared,
        pools,
        ahead: ahead.clone(),
        stats,
        rng: RefCell::new(fastrand::Rng::new()),
        drain: Rc::new(Drain::default()),
        cached,
        load,
    });
    tokio::task::spawn_local(tick::run());
    tokio::task::spawn_local(ahead.run(worker.stats.clone()));
    tokio::task::spawn_local(reap(worker.clone()));
    let closing = CancellationToken::new();
    let mut draining = false;
    loop {
        let command = if draining {
            tokio::select! {
                command = inbox.recv() => command,
                () = worker.drain.empty() => return,
            }
        } else {
            inbox.recv().await
        };
        match command {
            Some(Command::Serve(accepted)) => begin(&worker, accepted),
            Some(Command::Listen(listener, bound)) => {
                let (worker, closing) = (worker.clone(), closing.clone());
                let take = move |accepted| {
                    worker.load.fetch_add(1, Ordering::Relaxed);
                    begin(&worker, accepted);
                };
                tokio::task::spawn_local(crate::listen::accept(listener, bound, take, closing));
            }
            Some(Command::Refresh) => worker.refresh(),
            Some(Command::Drain) => {
                draining = true;
                closing.cancel();
                worker.drain.start();
            }
            Some(Command::Stop) | None => return,
        }
    }
}

/// Serves a connection in a task of its own.
fn begin(worker: &Rc<Worker>, accepted: Accepted) {
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        worker.stats.accepted.add(1);
        worker.stats.connections.add(1);
        serve::connection(&worker, accepted).await;
        worker.stats.connections.sub(1);
        worker.load.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Ages idle upstream connections.
async fn reap(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(pool::REAP_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        worker.pools.reap();
    }
}
