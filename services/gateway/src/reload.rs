//! Applying configurations: at start, when the file changes, on SIGHUP, from the Admin API. Each is applied as a whole or
//! not at all; a bad one leaves the running one alone and is reported until a good one comes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use plinth_kong::{Config, Format, Loaded, Reloader, Secrets};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::compile::Compiler;
use crate::compile::changes::same;
use crate::error::Error;
use crate::loader::Loader;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::settings::ConfigSource;
use crate::snapshot::Snapshot;
use crate::store::{Store, Stored, read_head};
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
    loader: Loader,
    line: tokio::sync::Mutex<Line>,
    workers: Arc<Workers>,
    certificates: Option<Arc<Certificates>>,
    metrics: Metrics,
    status: Mutex<Status>,
    /// What the file looked like just before it was last read.
    seen: Mutex<Option<Stamp>>,
    applied: tokio::sync::watch::Sender<u64>,
    /// Former snapshots, until no worker and no request has them any more: they are freed here, not on a worker.
    retired: Mutex<Vec<Arc<Snapshot>>>,
    /// config-service, when the configuration is there.
    store: Option<Store>,
    /// Revision of its key that runs here.
    stored: AtomicU64,
    /// One at a time, so that an older one never follows a newer one.
    taking: tokio::sync::Mutex<()>,
}

/// What makes snapshots of texts, one after the other.
#[derive(Debug)]
struct Line {
    reloader: Reloader,
    compiler: Compiler,
}

/// Between two tries to read a configuration from config-service.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// More than the longest tick of Linux, 10 ms.
const TICKS: Duration = Duration::from_millis(20);
/// Warnings of one configuration that are logged one by one.
const WARNINGS: usize = 20;

impl Configurator {
    /// Nothing applied yet. To be called in a runtime.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(
        secrets: Secrets,
        store: Option<Store>,
        compiler: Compiler,
        workers: Arc<Workers>,
        certificates: Option<Arc<Certificates>>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        Ok(Self {
            loader: Loader::start()?,
            line: tokio::sync::Mutex::new(Line { reloader: Reloader::new(secrets), compiler }),
            workers,
            certificates,
            metrics,
            status: Mutex::default(),
            seen: Mutex::default(),
            applied: tokio::sync::watch::Sender::new(0),
            retired: Mutex::default(),
            store,
            stored: AtomicU64::new(0),
            taking: tokio::sync::Mutex::default(),
        })
    }

    /// Does lasting work on the thread that configurations are loaded on.
    ///
    /// # Errors
    /// When it panicked.
    pub async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.loader.run(async move { work() }).await
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
        self: &Arc<Self>,
        text: Arc<str>,
        format: Format,
        origin: &str,
        unless_same: bool,
    ) -> Result<Applied, Error> {
        let (own, from) = (Arc::clone(self), origin.to_owned());
        let work = async move { own.apply(&text, format, &from, unless_same).await };
        let outcome = self.loader.run(work).await.and_then(std::convert::identity);
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

    /// Offers a text of the Admin API. With config-service it is written there first: when that fails nothing changes, and
    /// when it succeeds every gateway follows.
    ///
    /// # Errors
    /// As [`Self::offer`], and what config-service says.
    pub async fn post(
        self: &Arc<Self>,
        text: Arc<str>,
        format: Format,
        unless_same: bool,
    ) -> Result<Applied, Error> {
        const ORIGIN: &str = "Admin API";
        let Some(store) = &self.store else { return self.offer(text, format, ORIGIN, unless_same).await };
        if unless_same && self.current().hash == hash(&text) {
            return Ok(Applied::Same);
        }
        let (own, checked) = (Arc::clone(self), Arc::clone(&text));
        self.loader.run(async move { own.check(&checked, format, ORIGIN).await }).await??;
        let stored = store.publish(text, format).await?;
        self.take(store, stored).await
    }

    /// Whether a text could be applied, as far as that can be told without doing it.
    async fn check(&self, text: &str, format: Format, origin: &str) -> Result<(), Error> {
        let mut line = self.line.lock().await;
        let Loaded { config, .. } = line
            .reloader
            .load(text, format)
            .map_err(|faults| Error::Config { origin: origin.to_owned(), faults })?;
        if let Some(certificates) = &self.certificates {
            certificates.names(&config)?;
        }
        Router::new(&config)?;
        Ok(())
    }

    /// Applies what config-service holds, unless something newer from there runs.
    async fn take(self: &Arc<Self>, store: &Store, stored: Stored) -> Result<Applied, Error> {
        let _turn = self.taking.lock().await;
        if stored.item <= self.stored.load(Ordering::Acquire) {
            // it came by the watch already, or something newer did
            return Ok(Applied::New(self.current()));
        }
        let applied =
            self.offer(Arc::clone(&stored.text), stored.head.format(), &store.origin(), false).await?;
        self.stored.fetch_max(stored.item, Ordering::AcqRel);
        store.keep(&stored).await;
        Ok(applied)
    }

    /// The first configuration from config-service, or the copy of the last one when it is away.
    async fn load_stored(self: &Arc<Self>, store: &Store) -> Result<(), Error> {
        let reached = match store.head().await {
            Ok(None) => {
                tracing::warn!(
                    origin = store.origin(),
                    "there is no configuration yet; POST one to the Admin API"
                );
                return Ok(());
            }
            Ok(Some((item, head))) => store.text(&head).await.map(|text| Stored { item, head, text }),
            Err(error) => Err(error),
        };
        match reached {
            Ok(stored) => self.take(store, stored).await.map(drop),
            Err(error) => {
                tracing::warn!(
                    origin = store.origin(),
                    error = plinth_kit::problem::chain(&error),
                    "starting from the copy of the configuration that ran last, if there is one"
                );
                let Some(stored) = store.kept().await? else {
                    self.refused(&store.origin(), &error);
                    return Ok(());
                };
                let origin = format!("{} (copy)", store.origin());
                self.offer(Arc::clone(&stored.text), stored.head.format(), &origin, false).await?;
                self.stored.fetch_max(stored.item, Ordering::AcqRel);
                Ok(())
            }
        }
    }

    /// Follows config-service until told to stop. What cannot be had whole is tried again until something newer comes.
    async fn follow_stored(self: &Arc<Self>, store: &Store, mut hangup: Signal, stop: CancellationToken) {
        let mut states = store.watch();
        let mut again = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
                _ = hangup.recv() => {}
                () = tokio::time::sleep(STORE_RETRY), if again => {}
            }
            let item = states.borrow_and_update().as_ref().and_then(|known| known.item.clone());
            let Some(item) = item.filter(|item| item.revision > self.stored.load(Ordering::Acquire)) else {
                again = false;
                continue;
            };
            let outcome = match read_head(&item) {
                Ok((item, head)) => match store.text(&head).await {
                    Ok(text) => self.take(store, Stored { item, head, text }).await.map(drop),
                    Err(error) => {
                        self.refused(&store.origin(), &error);
                        Err(error)
                    }
                },
                Err(error) => {
                    self.refused(&store.origin(), &error);
                    Err(error)
                }
            };
            // a text that was refused is refused again: only what could not be read is worth another try
            again = matches!(outcome, Err(Error::Store(_) | Error::StoredConfig(_)));
        }
    }

    /// Notes why a configuration does not run.
    fn refused(&self, origin: &str, error: &Error) {
        let error = plinth_kit::problem::chain(error);
        self.metrics.last_reload_ok.set(0);
        self.metrics.reloads.with_label_values(&["refused"]).inc();
        tracing::error!(origin, error, "configuration refused; the running one stays");
        *self.status.lock() =
            Status { last_error: Some(error), origin: origin.to_owned(), at: Some(SystemTime::now()) };
    }

    async fn apply(
        &self,
        text: &str,
        format: Format,
        origin: &str,
        unless_same: bool,
    ) -> Result<Applied, Error> {
        let hash = hash(text);
        let began = Instant::now();
        let mut line = self.line.lock().await;
        let Line { reloader, compiler } = &mut *line;
        let before = self.current();
        if unless_same && before.hash == hash {
            return Ok(Applied::Same);
        }
        let Loaded { config, warnings, .. } = reloader
            .load(text, format)
            .map_err(|faults| Error::Config { origin: origin.to_owned(), faults })?;
        for warning in warnings.iter().take(WARNINGS) {
            tracing::warn!(origin, "{warning}");
        }
        if warnings.len() > WARNINGS {
            tracing::warn!(
                origin,
                "{} more warnings; `plinth gateway check` shows them",
                warnings.len() - WARNINGS
            );
        }
        let loaded = began.elapsed();
        let certificates_same = before.generation > 0
            && same(&before.config.certificates, &config.certificates)
            && same(&before.config.snis, &config.snis);
        let names = match &self.certificates {
            Some(certificates) if !certificates_same => Some(certificates.names(&config)?),
            _ => None,
        };
        let config: Arc<Config> = Arc::new(config);
        let snapshot = compiler.compile(config, hash).await?;
        if let (Some(certificates), Some(names)) = (&self.certificates, names) {
            certificates.publish(names);
        }
        self.workers.publish(snapshot.clone());
        self.retired.lock().push(before);
        let took = began.elapsed();
        self.metrics.apply_seconds.set(took.as_secs_f64());
        self.applied.send_replace(snapshot.generation);
        self.metrics.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.applied_at.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        tracing::info!(
            origin,
            generation = snapshot.generation,
            routes = snapshot.config.routes.len(),
            hash = snapshot.hash,
            loaded_us = u64::try_from(loaded.as_micros()).unwrap_or(u64::MAX),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "configuration applied"
        );
        Ok(Applied::New(snapshot))
    }

    /// Reads the source and applies it.
    ///
    /// # Errors
    /// As [`Self::offer`], and a file that cannot be read.
    pub async fn load(self: &Arc<Self>, source: &ConfigSource, unless_same: bool) -> Result<(), Error> {
        match source {
            ConfigSource::None => Ok(()),
            ConfigSource::Store(_) => match &self.store {
                Some(store) => self.load_stored(store).await,
                None => Ok(()),
            },
            ConfigSource::Text(text) => {
                let text = Arc::from(text.as_str());
                self.offer(text, Format::Yaml, "KONG_DECLARATIVE_CONFIG_STRING", unless_same).await.map(drop)
            }
            ConfigSource::File(path) => {
                let origin = path.display().to_string();
                // before reading, so that a change in between is noticed
                let stamp = settled(source).await;
                *self.seen.lock() = stamp;
                match tokio::fs::read_to_string(path).await {
                    Ok(text) => {
                        self.offer(text.into(), Format::of(&origin), &origin, unless_same).await.map(drop)
                    }
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
        if let (ConfigSource::Store(_), Some(store)) = (&source, &self.store) {
            return self.follow_stored(store, hangup, stop).await;
        }
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
        self.line.blocking_lock().compiler.flush();
    }

    /// The caches of the running configuration's plugins.
    pub async fn caches(&self) -> crate::plugins::Caches {
        let line = self.line.lock().await;
        line.compiler.caches(&self.current().config)
    }

    /// Opens log files anew on every SIGUSR1, until told to stop.
    pub async fn rotate(self: Arc<Self>, mut rotated: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rotated.recv() => self.line.lock().await.compiler.reopen(),
            }
        }
    }

    /// Reports endpoints by state and lets ejected ones back, for ever.
    pub async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut look = tokio::time::interval(crate::upstream::ejection::SWEEP_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut generation, mut reported) = (0, BTreeSet::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let unused: Vec<Arc<Snapshot>> =
                self.retired.lock().extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1).collect();
            if !unused.is_empty() {
                self.loader.free(unused);
            }
            let current = self.current();
            for (name, upstream) in current.upstreams.iter() {
                upstream.sweep(Instant::now());
                self.metrics.report_endpoints(name, upstream);
            }
            if current.generation != generation {
                generation = current.generation;
                let names: BTreeSet<String> = current.upstreams.keys().cloned().collect();
                // Those that are gone and no others, which a scrape would miss.
                reported.difference(&names).for_each(|name: &String| self.metrics.forget_endpoints(name));
                reported = names;
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

/// A stamp that the next change of the file differs from: modification times are as coarse as the kernel's tick, so that one
/// written just now is looked at a little later.
async fn settled(source: &ConfigSource) -> Option<Stamp> {
    let found = stamp(source).await;
    let age = found.and_then(|(modified, ..)| modified.elapsed().ok());
    match age.and_then(|age| TICKS.checked_sub(age)) {
        Some(rest) => {
            tokio::time::sleep(rest).await;
            stamp(source).await
        }
        None => found,
    }
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
