//! Counters in Redis, shared by several gateways.
//!
//! A worker never touches a socket of Redis: the question goes to the control runtime and is answered within a deadline. A Redis that does
//! not answer opens a circuit; while it is open questions fail at once, and one task keeps asking whether Redis is back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use deadpool_redis::redis::{Pipeline, RedisError, cmd, pipe};
use deadpool_redis::{Manager, Pool, PoolError};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use plinth_kong::RedisConfig;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::limits::{Limit, Scope, Usage, Window};
use super::rate_limiting::redis_key;

/// What a request waits for Redis at most; `redis.timeout` only shortens it.
const DEADLINE: Duration = Duration::from_millis(50);
/// Timeouts in a row that count as a dead Redis. A refused connection counts at once.
const TIMEOUTS: u32 = 3;
/// Between two looks at a dead Redis.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// What one look waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections to one Redis.
const CONNECTIONS: usize = 16;
/// Questions under way to one Redis; beyond it they fail at once.
const QUESTIONS: u32 = 4096;

/// Redis cannot be asked, or did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

/// One pool for each Redis, however many plugins use it and however often configurations change.
#[derive(Debug)]
pub(super) struct Pools {
    control: Handle,
    clients: Mutex<HashMap<String, Weak<Client>>>,
    errors: IntCounterVec,
    up: IntGaugeVec,
}

impl Pools {
    pub fn new(control: Handle, registry: &prometheus::Registry) -> Result<Pools, prometheus::Error> {
        let errors = IntCounterVec::new(
            Opts::new(
                "gateway_rate_limiting_redis_errors_total",
                "Requests whose limits could not be counted in Redis.",
            ),
            &["redis", "reason"],
        )?;
        let up = IntGaugeVec::new(
            Opts::new(
                "gateway_rate_limiting_redis_up",
                "1 while Redis answers, 0 while its circuit is open.",
            ),
            &["redis"],
        )?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(up.clone()))?;
        Ok(Pools { control, clients: Mutex::default(), errors, up })
    }

    pub fn client(&self, config: &RedisConfig) -> Result<Arc<Client>, String> {
        let (url, name) = url(config)?;
        let deadline = DEADLINE.min(Duration::from_millis(config.timeout.into()));
        let key = format!("{url} {deadline:?}");
        let mut clients = self.clients.lock();
        clients.retain(|_, client| client.strong_count() > 0);
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        // The error could show the URL with its password.
        let manager = Manager::new(url).map_err(|_| "redis: not a usable address".to_owned())?;
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build();
        let up = self.up.with_label_values(&[&name]);
        up.set(1);
        let client = Arc::new(Client {
            pool: pool.map_err(|error| error.to_string())?,
            control: self.control.clone(),
            deadline,
            circuit: Circuit::default(),
            errors: self.errors.clone(),
            up,
            name,
        });
        clients.insert(key, Arc::downgrade(&client));
        Ok(client)
    }
}

/// The URL, secrets included, and the name without them.
fn url(config: &RedisConfig) -> Result<(String, String), String> {
    let Some(host) = &config.host else {
        return Err("in 'redis': in 'host': required field missing".to_owned());
    };
    if config.ssl {
        return Err("in 'redis': in 'ssl': TLS to Redis is not supported yet".to_owned());
    }
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let user = config.username.as_deref().map(encoded).unwrap_or_default();
    let login = match config.password.as_deref().filter(|password| !password.is_empty()) {
        Some(password) => format!("{user}:{}@", encoded(password)),
        None => String::new(),
    };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
    let name = format!("{host}:{}/{}", config.port, config.database);
    Ok((format!("redis://{login}{name}"), name))
}

/// One Redis.
pub(super) struct Client {
    pool: Pool,
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
pub(super) struct Question {
    answer: oneshot::Receiver<Result<Usage, Unavailable>>,
}

impl Question {
    pub async fn answer(self) -> Result<Usage, Unavailable> {
        self.answer.await.unwrap_or(Err(Unavailable))
    }
}

/// Why an attempt failed, as the metric names it.
enum Failure {
    Timeout,
    Connection,
    Answer,
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(_) => Failure::Timeout,
            _ => Failure::Connection,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_io_error() || error.is_connection_dropped() {
            Failure::Connection
        } else {
            Failure::Answer
        }
    }
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Connection => "connection",
            Failure::Answer => "answer",
        }
    }
}

impl Client {
    /// Counts a request in each window, in one round trip, refused or not (as Kong does with Redis).
    pub fn question(
        self: &Arc<Self>,
        scope: Scope,
        who: &str,
        limits: &Arc<[Limit]>,
        now: SystemTime,
    ) -> Result<Question, Unavailable> {
        if self.circuit.open.load(Relaxed) {
            self.errors.with_label_values(&[self.name.as_str(), "circuit_open"]).inc();
            return Err(Unavailable);
        }
        if self.circuit.questions.fetch_add(1, Relaxed) >= QUESTIONS {
            self.circuit.questions.fetch_sub(1, Relaxed);
            self.errors.with_label_values(&[self.name.as_str(), "overload"]).inc();
            return Err(Unavailable);
        }
        let pipeline = pipeline(scope, who, limits, now);
        let (client, limits) = (Arc::clone(self), Arc::clone(limits));
        let (reply, answer) = oneshot::channel();
        self.control.spawn(async move {
            let result = client.ask(&pipeline).await;
            client.circuit.questions.fetch_sub(1, Relaxed);
            let usage = result.map(|counts| usage(&limits, &counts));
            // Nobody listens when the client of the request went away.
            let _ = reply.send(usage);
        });
        Ok(Question { answer })
    }

    async fn ask(self: &Arc<Self>, pipeline: &Pipeline) -> Result<Vec<u64>, Unavailable> {
        let attempt = async {
            let mut connection = self.pool.get().await?;
            Ok(pipeline.query_async::<Vec<u64>>(&mut connection).await?)
        };
        let result = tokio::time::timeout(self.deadline, attempt).await.unwrap_or(Err(Failure::Timeout));
        match result {
            Ok(counts) => {
                self.circuit.timeouts.store(0, Relaxed);
                Ok(counts)
            }
            Err(failure) => {
                self.failed(&failure);
                Err(Unavailable)
            }
        }
    }

    fn failed(self: &Arc<Self>, failure: &Failure) {
        self.errors.with_label_values(&[self.name.as_str(), failure.reason()]).inc();
        let dead = match failure {
            Failure::Connection => true,
            Failure::Timeout => self.circuit.timeouts.fetch_add(1, Relaxed) + 1 >= TIMEOUTS,
            Failure::Answer => false,
        };
        if dead && !self.circuit.open.swap(true, Relaxed) {
            self.up.set(0);
            tracing::error!(
                redis = self.name,
                reason = failure.reason(),
                "rate limiting: Redis does not answer"
            );
            self.control.spawn(watch(Arc::downgrade(self)));
        }
    }

    async fn answers(&self) -> bool {
        let look = async {
            let mut connection = self.pool.get().await.map_err(Failure::from)?;
            cmd("PING").query_async::<String>(&mut connection).await.map_err(Failure::from)
        };
        matches!(tokio::time::timeout(PROBE_TIMEOUT, look).await, Ok(Ok(_)))
    }
}

/// Looks after a dead Redis until it answers or nobody needs it any more.
async fn watch(client: Weak<Client>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let Some(client) = client.upgrade() else { return };
        // Connections from before the death are worth nothing.
        client.pool.retain(|_, _| false);
        if client.answers().await {
            client.circuit.timeouts.store(0, Relaxed);
            client.circuit.open.store(false, Relaxed);
            client.up.set(1);
            tracing::info!(redis = client.name, "rate limiting: Redis answers again");
            return;
        }
    }
}

fn pipeline(scope: Scope, who: &str, limits: &[Limit], now: SystemTime) -> Pipeline {
    let mut pipeline = pipe();
    for limit in limits {
        let window = Window::of(limit.period, now);
        let key = redis_key(scope, who, window, limit.period);
        pipeline.cmd("INCR").arg(&key);
        pipeline.cmd("EXPIRE").arg(&key).arg(window.length).ignore();
    }
    pipeline
}

/// What was used before this request.
fn usage(limits: &[Limit], counts: &[u64]) -> Usage {
    let mut usage = Usage::default();
    for (limit, count) in limits.iter().zip(counts) {
        usage[limit.period as usize] = count.saturating_sub(1);
    }
    usage
}

#[cfg(test)]
mod tests;
