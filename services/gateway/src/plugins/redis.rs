//! Redis, as plugins ask it: shared by several gateways, and never in the way of a worker.
//!
//! A worker never touches a socket of Redis: the question (one pipeline, one round trip) goes to the control runtime and is answered within a
//! deadline. All questions to one Redis share one connection. A Redis that does not answer opens a circuit; while it is open questions fail at
//! once, and one task keeps asking whether Redis is back.

mod address;
mod synced;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use plinth_kong::RedisConfig;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisError, cmd};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use address::Address;
pub(super) use synced::Synced;

/// Timeouts in a row that count as a dead Redis. A refused connection counts at once.
const TIMEOUTS: u32 = 3;
/// Between two looks at a dead Redis.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// What one look waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Connecting, TLS and login included. Not what a request waits: it goes on when the request has given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way to one Redis; beyond it they fail at once.
const QUESTIONS: u32 = 4096;

/// Redis cannot be asked, or did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

/// One client for each Redis, however many plugins use it and however often configurations change.
#[derive(Debug)]
pub(super) struct Pools {
    control: Handle,
    /// What a request that can do without Redis waits for it at most; `redis.timeout` only shortens it.
    deadline: Duration,
    clients: Mutex<HashMap<String, Weak<Client>>>,
    synced: Mutex<HashMap<String, Weak<Synced>>>,
    errors: IntCounterVec,
    up: IntGaugeVec,
}

impl Pools {
    pub fn new(
        control: Handle,
        deadline: Duration,
        registry: &prometheus::Registry,
    ) -> Result<Pools, prometheus::Error> {
        let errors = IntCounterVec::new(
            Opts::new("gateway_redis_errors_total", "Questions of plugins that Redis did not answer."),
            &["redis", "reason"],
        )?;
        let up = IntGaugeVec::new(
            Opts::new("gateway_redis_up", "1 while Redis answers, 0 while its circuit is open."),
            &["redis"],
        )?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(up.clone()))?;
        Ok(Pools { control, deadline, clients: Mutex::default(), synced: Mutex::default(), errors, up })
    }

    /// For what a request can do without: limits and caches.
    ///
    /// # Errors
    /// An address that cannot be used; secrets stay out of the message.
    pub fn client(&self, config: &RedisConfig) -> Result<Arc<Client>, String> {
        self.within(config, self.deadline.min(Duration::from_millis(config.timeout.into())))
    }

    /// For what a request cannot do without: it waits as long as `redis.timeout` says.
    ///
    /// # Errors
    /// An address that cannot be used; secrets stay out of the message.
    pub fn patient(&self, config: &RedisConfig) -> Result<Arc<Client>, String> {
        self.within(config, Duration::from_millis(config.timeout.into()))
    }

    fn within(&self, config: &RedisConfig, deadline: Duration) -> Result<Arc<Client>, String> {
        let address = Address::new(config)?;
        let key = format!("{} {deadline:?}", address.key());
        let mut clients = self.clients.lock();
        clients.retain(|_, client| client.strong_count() > 0);
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let name = address.name();
        let up = self.up.with_label_values(&[name.as_str()]);
        up.set(1);
        let client = Arc::new(Client {
            address,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            control: self.control.clone(),
            deadline,
            circuit: Circuit::default(),
            errors: self.errors.clone(),
            up,
            name,
        });
        clients.insert(key, Arc::downgrade(&client));
        // The first request finds the connection there. One that does not come about is the first question's to report.
        let early = Arc::downgrade(&client);
        self.control.spawn(async move {
            if let Some(client) = early.upgrade() {
                let _ = client.connection().await;
            }
        });
        Ok(client)
    }

    /// Counters that are told to Redis every `rate` instead of at once.
    pub fn synced(&self, config: &RedisConfig, rate: Duration) -> Result<Arc<Synced>, String> {
        let client = self.client(config)?;
        let key = format!("{} {rate:?}", client.address.key());
        let mut all = self.synced.lock();
        all.retain(|_, synced| synced.strong_count() > 0);
        if let Some(synced) = all.get(&key).and_then(Weak::upgrade) {
            return Ok(synced);
        }
        let synced = Synced::start(client, rate);
        all.insert(key, Arc::downgrade(&synced));
        Ok(synced)
    }
}

/// One Redis.
pub(super) struct Client {
    address: Address,
    current: Mutex<Option<MultiplexedConnection>>,
    /// One attempt at a time.
    connecting: tokio::sync::Mutex<()>,
    control: Handle,
    deadline: Duration,
    circuit: Circuit,
    errors: IntCounterVec,
    up: prometheus::IntGauge,
    name: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.name)
    }
}

#[derive(Default)]
struct Circuit {
    open: AtomicBool,
    timeouts: AtomicU32,
    questions: AtomicU32,
}

/// A question under way.
pub(super) struct Question<T> {
    answer: oneshot::Receiver<Result<T, Unavailable>>,
}

impl<T> Question<T> {
    pub async fn answer(self) -> Result<T, Unavailable> {
        self.answer.await.unwrap_or(Err(Unavailable))
    }
}

/// Why an attempt failed, as the metric names it.
#[derive(Debug)]
enum Failure {
    Timeout,
    Connection(String),
    Answer(String),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_io_error() || error.is_connection_dropped() {
            Failure::Connection(error.to_string())
        } else {
            Failure::Answer(error.to_string())
        }
    }
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Connection(_) => "connection",
            Failure::Answer(_) => "answer",
        }
    }
}

impl Client {
    /// Its address without secrets, as metrics name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends commands in one round trip. The answer comes within the deadline, or not at all.
    pub fn ask<T: FromRedisValue + Send + 'static>(
        self: &Arc<Self>,
        pipeline: Pipeline,
    ) -> Result<Question<T>, Unavailable> {
        if self.circuit.open.load(Relaxed) {
            self.errors.with_label_values(&[self.name.as_str(), "circuit_open"]).inc();
            return Err(Unavailable);
        }
        if self.circuit.questions.fetch_add(1, Relaxed) >= QUESTIONS {
            self.circuit.questions.fetch_sub(1, Relaxed);
            self.errors.with_label_values(&[self.name.as_str(), "overload"]).inc();
            return Err(Unavailable);
        }
        let client = Arc::clone(self);
        let (reply, answer) = oneshot::channel();
        self.control.spawn(async move {
            let result = client.send(&pipeline).await;
            client.circuit.questions.fetch_sub(1, Relaxed);
            // Nobody listens when the client of the request went away.
            let _ = reply.send(result);
        });
        Ok(Question { answer })
    }

    /// Sends commands nobody waits for. What cannot be sent is counted among the errors.
    pub fn tell(self: &Arc<Self>, pipeline: Pipeline) {
        // The task goes on without its question.
        let _ = self.ask::<()>(pipeline);
    }

    async fn send<T: FromRedisValue>(self: &Arc<Self>, pipeline: &Pipeline) -> Result<T, Unavailable> {
        let attempt = async {
            let mut connection = self.connection().await?;
            Ok(pipeline.query_async::<T>(&mut connection).await?)
        };
        let result = tokio::time::timeout(self.deadline, attempt).await.unwrap_or(Err(Failure::Timeout));
        match result {
            Ok(answer) => {
                self.circuit.timeouts.store(0, Relaxed);
                Ok(answer)
            }
            Err(failure) => {
                self.failed(&failure);
                Err(Unavailable)
            }
        }
    }

    /// The connection all questions share. A new one is made in a task of its own, so that it comes about though the question gives up.
    async fn connection(self: &Arc<Self>) -> Result<MultiplexedConnection, Failure> {
        if let Some(connection) = self.current.lock().clone() {
            return Ok(connection);
        }
        let client = Arc::clone(self);
        let made = self.control.spawn(async move {
            let _alone = client.connecting.lock().await;
            if let Some(connection) = client.current.lock().clone() {
                return Ok(connection);
            }
            let made = tokio::time::timeout(CONNECT_TIMEOUT, client.address.connect(&client.control)).await;
            let connection = made.unwrap_or(Err(Failure::Timeout))?;
            *client.current.lock() = Some(connection.clone());
            Ok(connection)
        });
        made.await.unwrap_or_else(|error| Err(Failure::Connection(error.to_string())))
    }

    fn failed(self: &Arc<Self>, failure: &Failure) {
        self.errors.with_label_values(&[self.name.as_str(), failure.reason()]).inc();
        let dead = match failure {
            Failure::Connection(_) => true,
            Failure::Timeout => self.circuit.timeouts.fetch_add(1, Relaxed) + 1 >= TIMEOUTS,
            Failure::Answer(why) => {
                tracing::warn!(redis = self.name, why, "Redis refuses a command");
                false
            }
        };
        if dead && !self.circuit.open.swap(true, Relaxed) {
            self.up.set(0);
            let why = match failure {
                Failure::Connection(why) => why.as_str(),
                Failure::Timeout | Failure::Answer(_) => failure.reason(),
            };
            tracing::error!(redis = self.name, why, "Redis does not answer");
            self.control.spawn(watch(Arc::downgrade(self)));
        }
    }

    async fn answers(self: &Arc<Self>) -> bool {
        let look = async {
            let mut connection = self.connection().await?;
            cmd("PING").query_async::<String>(&mut connection).await.map_err(Failure::from)
        };
        matches!(tokio::time::timeout(PROBE_TIMEOUT, look).await, Ok(Ok(_)))
    }
}

/// Looks after a dead Redis until it answers or nobody needs it any more.
async fn watch(client: Weak<Client>) {
    loop {
        let Some(client) = client.upgrade() else { return };
        // A connection from before the death is worth nothing.
        *client.current.lock() = None;
        if client.answers().await {
            client.circuit.timeouts.store(0, Relaxed);
            client.circuit.open.store(false, Relaxed);
            client.up.set(1);
            tracing::info!(redis = client.name, "Redis answers again");
            return;
        }
        drop(client);
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
