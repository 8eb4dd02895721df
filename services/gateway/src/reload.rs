//! Applying configurations: at start, when the file changes, on SIGHUP, from the Admin API. Each is applied as a whole or
//! not at all; a bad one leaves the running one alone and is reported until a good one comes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use plinth_kong::{Config, Format, Loaded};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::compile::Compiler;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::ConfigSource;
use crate::snapshot::Snapshot;
use crate::worker::Workers;

/// What became of the last configuration offered.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Why it was refused; `None` when it runs.
    pub last_error: Option<String>,
    /// Where it came from.
    pub origin: String,
    /// When.
    pub at: Option<SystemTime>,
}

/// The answer to an offered configuration.
#[derive(Debug)]
pub enum Applied {
    /// It runs now.
    New(Arc<Snapshot>),
    /// It is the one that runs already.
    Same,
}

/// Applies configurations, one at a time.
#[derive(Debug)]
pub struct Configurator {
    compiler: tokio::sync::Mutex<Compiler>,
    workers: Arc<Workers>,
    certificates: Option<Arc<Certificates>>,
    metrics: Metrics,
    status: Mutex<Status>,
    /// What the file looked like just before it was last read.
    seen: Mutex<Option<Stamp>>,
    applied: tokio::sync::watch::Sender<u64>,
}

impl Configurator {
    /// Nothing applied yet.
    #[must_use]
    pub fn new(
        compiler: Compiler,
        workers: Arc<Workers>,
        certificates: Option<Arc<Certificates>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            compiler: tokio::sync::Mutex::new(compiler),
            workers,
            certificates,
            metrics,
            status: Mutex::default(),
            seen: Mutex::default(),
            applied: tokio::sync::watch::Sender::new(0),
        }
    }

    /// The running snapshot.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.workers.shared().current()
    }

    /// What became of the last one offered.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Resolves once the first configuration runs.
    pub async fn first(&self) {
        // the sender lives in self, so this ends with a value only
        let _ = self.applied.subscribe().wait_for(|generation| *generation > 0).await;
    }

    /// Offers a text. Warnings of the loader are logged.
    ///
    /// # Errors
    /// All faults of the text, or what could not be compiled; the running configuration stays.
    pub async fn offer(
        &self,
        text: &str,
        format: Format,
        origin: &str,
        unless_same: bool,
    ) -> Result<Applied, Error> {
        let hash = hash(text);
        let outcome = self.apply(text, format, origin, hash, unless_same).await;
        let result = match &outcome {
            Ok(Applied::New(_)) => "applied",
            Ok(Applied::Same) => "unchanged",
            Err(_) => "refused",
        };
        self.metrics.reloads.with_label_values(&[result]).inc();
        self.metrics.last_reload_ok.set(i64::from(outcome.is_ok()));
        let last_error = outcome.as_ref().err().map(|error| plinth_kit::problem::chain(error));
        if let Some(error) = &last_error {
            tracing::error!(origin, error, "configuration refused; the running one stays");
        }
        *self.status.lock() = Status { last_error, origin: origin.to_owned(), at: Some(SystemTime::now()) };
        outcome
    }

    async fn apply(
        &self,
        text: &str,
        format: Format,
        origin: &str,
        hash: String,
        unless_same: bool,
    ) -> Result<Applied, Error> {
        let mut compiler = self.compiler.lock().await;
        if unless_same && self.current().hash == hash {
            return Ok(Applied::Same);
        }
        let Loaded { config, warnings, .. } = plinth_kong::load(text, format)
            .map_err(|faults| Error::Config { origin: origin.to_owned(), faults })?;
        for warning in &warnings {
            tracing::warn!(origin, "{warning}");
        }
        let names = match &self.certificates {
            Some(certificates) => Some(certificates.names(&config)?),
            None => None,
        };
        let config: Arc<Config> = Arc::new(config);
        let snapshot = compiler.compile(config, hash).await?;
        if let (Some(certificates), Some(names)) = (&self.certificates, names) {
            certificates.publish(names);
        }
        self.workers.publish(snapshot.clone());
        self.applied.send_replace(snapshot.generation);
        self.metrics.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.applied_at.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        tracing::info!(
            origin,
            generation = snapshot.generation,
            routes = snapshot.routes.len(),
            hash = snapshot.hash,
            "configuration applied"
        );
        Ok(Applied::New(snapshot))
    }

    /// Reads the source and applies it.
    ///
    /// # Errors
    /// As [`Self::offer`], and a file that cannot be read.
    pub async fn load(&self, source: &ConfigSource, unless_same: bool) -> Result<(), Error> {
        match source {
            ConfigSource::None => Ok(()),
            ConfigSource::Text(text) => {
                self.offer(text, Format::Yaml, "KONG_DECLARATIVE_CONFIG_STRING", unless_same).await.map(drop)
            }
            ConfigSource::File(path) => {
                let origin = path.display().to_string();
                // before reading, so that a change in between is noticed
                let stamp = stamp(source).await;
                *self.seen.lock() = stamp;
                match tokio::fs::read_to_string(path).await {
                    Ok(text) => self.offer(&text, Format::of(&origin), &origin, unless_same).await.map(drop),
                    Err(source) => {
                        let error = Error::ReadConfig { path: path.clone(), source };
                        self.metrics.last_reload_ok.set(0);
                        let last_error = Some(plinth_kit::problem::chain(&error));
                        *self.status.lock() = Status { last_error, origin, at: Some(SystemTime::now()) };
                        Err(error)
                    }
                }
            }
        }
    }

    /// Follows the source until told to stop: the file's changes every `poll`, and SIGHUP.
    pub async fn follow(
        self: Arc<Self>,
        source: ConfigSource,
        poll: Duration,
        mut hangup: Signal,
        stop: CancellationToken,
    ) {
        let mut look = tokio::time::interval(poll.max(Duration::from_millis(10)));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let forced = tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => false,
                _ = hangup.recv() => true,
            };
            let now = stamp(&source).await;
            if forced || now != *self.seen.lock() {
                // whoever writes the file may be half way: what is refused now is looked at again on the next change
                if let Err(error) = self.load(&source, true).await {
                    tracing::debug!(error = plinth_kit::problem::chain(&error), "not reloaded");
                }
            }
        }
    }

    /// Writes out what plugins still hold back. Blocks: not for worker or runtime threads.
    pub fn flush(&self) {
        self.compiler.blocking_lock().flush();
    }

    /// Opens log files anew on every SIGUSR1, until told to stop.
    pub async fn rotate(self: Arc<Self>, mut rotated: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rotated.recv() => self.compiler.lock().await.reopen(),
            }
        }
    }

    /// Reports endpoints by state and lets ejected ones back, for ever.
    pub async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut look = tokio::time::interval(crate::upstream::ejection::SWEEP_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            self.metrics.endpoints.reset();
            for (name, upstream) in &self.current().upstreams {
                upstream.sweep(std::time::Instant::now());
                let endpoints = upstream.endpoints();
                let set = endpoints.balancer.set();
                let healthy = i64::from(set.available());
                let all =
                    i64::try_from(set.endpoints().iter().filter(|endpoint| endpoint.weight > 0).count())
                        .unwrap_or(i64::MAX);
                let report = |state: &str, count: i64| {
                    self.metrics.endpoints.with_label_values(&[name.as_str(), state]).set(count);
                };
                report("healthy", healthy);
                report("unhealthy", all - healthy);
                report("ejected", i64::try_from(upstream.ejected()).unwrap_or(i64::MAX));
            }
        }
    }
}

/// SIGHUP, which from now on no longer ends the process.
///
/// # Errors
/// When the signal cannot be listened for.
pub fn hangup() -> Result<Signal, Error> {
    signal(SignalKind::hangup()).map_err(Error::Signal)
}

/// SIGUSR1, by which logrotate says that log files have new names. From now on it no longer ends the process.
///
/// # Errors
/// When the signal cannot be listened for.
pub fn rotated() -> Result<Signal, Error> {
    signal(SignalKind::user_defined1()).map_err(Error::Signal)
}

/// Modification time, size and inode: what changes whenever a file is written or replaced.
type Stamp = (SystemTime, u64, u64);

async fn stamp(source: &ConfigSource) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let ConfigSource::File(path) = source else { return None };
    let metadata = tokio::fs::metadata(Path::new(path)).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// 32 hex digits.
fn hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(16).fold(String::with_capacity(32), |mut out, byte| {
        // writing to a String cannot fail
        let _ = std::fmt::Write::write_fmt(&mut out, format_args!("{byte:02x}"));
        out
    })
}
