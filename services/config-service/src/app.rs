//! Wiring.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use plinth_events::sql::PoolSettings;
use plinth_events::{Bus, Database, EventPublisher, Rabbit, Relay, RelaySettings, outbox};
use plinth_kit::settings::Faults;
use plinth_kit::{App, AppBuilder, Context, Routes, Service};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::configuration::Configuration;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::routes::{self, AppState};
use crate::store::{self, EVENT_LANE, KV_LANE, STEPS, Store};
use crate::tasks::follow::Follow;
use crate::tasks::publish::KvPublisher;
use crate::tasks::reconcile::{Reconcile, Suspects};
use crate::tasks::sole_writer::{Identity, Permission, SoleWriter};
use crate::{Error, Settings};

/// What `main` and `plinth up` start.
pub const SERVICE: Service =
    Service::new("config-service", env!("CARGO_PKG_VERSION")).port(8520).document(routes::document);

/// PostgreSQL schema of this service.
const SCHEMA: &str = "plinth_config";
/// Longest wait for the writer's lock before the service starts without it.
const FIRST_LOCK: Duration = Duration::from_millis(500);
/// Pause between tries to migrate a database that is away.
const MIGRATE_RETRY: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_secs(1);
/// Rows older than this make the outbox's health check fail.
const OLD_ROW: Duration = Duration::from_secs(60);

/// Starts the service: binds first, then opens the history, then sets its tasks going.
///
/// # Errors
/// An address or database that cannot be used; [`Error::SecondWriter`].
pub async fn start(settings: Settings, context: Context) -> Result<App, Error> {
    let listener = context.bind().await.map_err(|error| Error::Start(error.into()))?;
    let metrics = Arc::new(Metrics::register(&context.metrics.registry)?);
    let permission = Arc::new(Permission::default());
    let (database, writer) = open(&settings, &context, &permission).await?;
    let parts = Parts {
        store: store::open(&database),
        live: Arc::new(Live::default()),
        suspects: Arc::new(Suspects::default()),
        stop: CancellationToken::new(),
        database,
        metrics,
        permission,
        settings,
    };
    let publisher = KvPublisher::new(context.consul.clone(), parts.store.clone());
    let kv_relay = Relay::new(parts.database.clone(), KV_LANE, publisher, kv_settings());
    let rabbit = parts.settings.events.clone().map(Rabbit::new);
    if let Some(rabbit) = rabbit.clone() {
        context.components.add("rabbitmq", false, move || rabbit_health(rabbit.clone()));
    }
    let event_relay = parts.event_relay(rabbit);
    let kv_relay = kv_relay.with_observer(parts.metrics.clone()).followed_by(event_relay.nudge());
    let nudge = kv_relay.nudge();

    parts.observe(&context);
    let configuration = Arc::new(parts.configuration(nudge.clone()));
    let api = routes::router(AppState { configuration });
    let router = context
        .router(Routes::default().waiting(api), routes::document())
        .map_err(|error| Error::Start(error.into()))?;

    let builder = AppBuilder::new(&context).http(listener, router);
    let builder = parts.tasks(builder, &context, (kv_relay, event_relay), nudge);
    let builder = match writer {
        Some(writer) => builder.task("sole-writer", |stop| writer.run(stop)),
        None => builder,
    };
    builder.start().await.map_err(|error| Error::Start(error.into()))
}

/// What the service consists of.
struct Parts {
    store: Arc<dyn Store>,
    live: Arc<Live>,
    suspects: Arc<Suspects>,
    /// Ends long polls and event streams at the shutdown.
    stop: CancellationToken,
    database: Database,
    metrics: Arc<Metrics>,
    permission: Arc<Permission>,
    settings: Settings,
}

impl Parts {
    fn configuration(&self, nudge: Arc<Notify>) -> Configuration {
        Configuration::new(
            self.store.clone(),
            self.live.clone(),
            self.permission.clone(),
            nudge,
            self.metrics.clone(),
            self.settings.limits.clone(),
            self.stop.clone(),
        )
    }

    fn event_relay(&self, rabbit: Option<Rabbit>) -> Relay<EventPublisher> {
        let events = rabbit.map_or_else(|| EventPublisher::Bus(Bus::default()), EventPublisher::Rabbit);
        Relay::new(self.database.clone(), EVENT_LANE, events, RelaySettings::default())
            .with_observer(self.metrics.clone())
    }

    fn tasks(
        &self,
        builder: AppBuilder,
        context: &Context,
        (kv_relay, event_relay): (Relay<KvPublisher>, Relay<EventPublisher>),
        nudge: Arc<Notify>,
    ) -> AppBuilder {
        let follow = Follow {
            client: context.consul.clone(),
            store: self.store.clone(),
            live: self.live.clone(),
            suspects: self.suspects.clone(),
            metrics: self.metrics.clone(),
        };
        let reconcile = Reconcile {
            client: context.consul.clone(),
            store: self.store.clone(),
            live: self.live.clone(),
            suspects: self.suspects.clone(),
            metrics: self.metrics.clone(),
            nudge,
            interval: self.settings.reconcile_interval,
        };
        let (database, permission) = (self.database.clone(), self.permission.clone());
        builder
            .task("follow", |stop| endless(follow.run(stop)))
            .task("migrate", |stop| endless(migrate(database, permission, stop)))
            .task("publish", |stop| self.once_permitted(stop, |stop| kv_relay.run(stop)))
            .task("events", |stop| self.once_permitted(stop, |stop| event_relay.run(stop)))
            .task("reconcile", |stop| self.once_permitted(stop, |stop| reconcile.run(stop)))
            .task("readiness", |stop| endless(self.readiness(context, stop)))
            .task("gauges", |stop| endless(gauges(self.live.clone(), self.metrics.clone(), stop)))
            .task("streams", |stop| endless(end_streams(context.clone(), self.stop.clone(), stop)))
    }

    /// Nothing touches the database's outbox or KV before this process may write.
    fn once_permitted<F: Future<Output = ()> + Send + 'static>(
        &self,
        stop: CancellationToken,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let permission = self.permission.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = permission.granted() => {}
            }
            run(stop).await;
            Ok(())
        }
    }

    /// Ready: there is a snapshot to serve, and this process has been able to write once.
    fn readiness(
        &self,
        context: &Context,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (snapshot, writer) =
            (context.readiness.condition("snapshot"), context.readiness.condition("writer"));
        let (mut snapshots, permission) = (self.live.subscribe(), self.permission.clone());
        async move {
            let both = async {
                let _ = snapshots.wait_for(Option::is_some).await;
                snapshot.meet();
                permission.granted().await;
                writer.meet();
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = both => {}
            }
        }
    }

    /// The components behind `/health`.
    fn observe(&self, context: &Context) {
        let database = self.database.clone();
        context.components.add("sql", false, move || {
            let database = database.clone();
            async move {
                let kind = database.kind();
                match database.ping().await {
                    Ok(()) => Ok(json!({ "kind": kind })),
                    Err(_) => Err(format!("{kind} does not answer; writes are refused")),
                }
            }
        });
        let (database, metrics) = (self.database.clone(), self.metrics.clone());
        context.components.add("outbox", false, move || outbox_health(database.clone(), metrics.clone()));
        let live = self.live.clone();
        context.components.add("configuration", true, move || {
            let live = live.clone();
            async move {
                let now = live.current().ok_or("nothing was read from Consul yet")?;
                let age = live.age().unwrap_or_default().as_secs_f64();
                Ok(json!({ "index": now.index, "items": now.entries.len(), "age_seconds": age }))
            }
        });
    }
}

async fn open(
    settings: &Settings,
    context: &Context,
    permission: &Arc<Permission>,
) -> Result<(Database, Option<SoleWriter>), Error> {
    if let Some(url) = &settings.database_url {
        let database = Database::postgres(url.expose(), SCHEMA, &settings.pool).map_err(|error| {
            let faults = Faults::one(context.service, "database.url", error.to_string());
            Error::Start(Box::new(faults))
        })?;
        return Ok((database, None));
    }
    // The lock comes before the file: two processes never have the same file open.
    let identity = Identity::claim(&settings.data_dir)?;
    let pool = PoolSettings { ..settings.pool.clone() };
    let database = Database::sqlite(&settings.data_dir.join("config.db"), &pool).await?;
    database.migrate(STEPS).await?;
    let mut writer = SoleWriter::new(context.consul.clone(), identity, permission.clone());
    writer.first(FIRST_LOCK).await?;
    Ok((database, Some(writer)))
}

/// PostgreSQL may come up after us. SQLite was migrated before.
async fn migrate(database: Database, permission: Arc<Permission>, stop: CancellationToken) {
    if matches!(database, Database::Sqlite(_)) {
        return;
    }
    let mut told = false;
    while let Err(error) = database.migrate(STEPS).await {
        if !told {
            tracing::warn!(reason = plinth_core::error::chain(&error), "the database is away; writes wait");
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(MIGRATE_RETRY) => {}
        }
    }
    permission.grant();
}

/// The KV lane is what writers wait for, so it comes back sooner than events do.
fn kv_settings() -> RelaySettings {
    RelaySettings { backoff: (Duration::from_millis(50), Duration::from_secs(1)), ..RelaySettings::default() }
}

async fn rabbit_health(rabbit: Rabbit) -> Result<serde_json::Value, String> {
    match rabbit.ping().await {
        Ok(()) => Ok(json!({ "unroutable": rabbit.unroutable() })),
        Err(error) => {
            tracing::debug!(reason = plinth_core::error::chain(&error), "RabbitMQ is away");
            Err("RabbitMQ does not answer; events wait in the outbox".to_owned())
        }
    }
}

async fn outbox_health(database: Database, metrics: Arc<Metrics>) -> Result<serde_json::Value, String> {
    let mut details = serde_json::Map::new();
    let mut late = Vec::new();
    for lane in [KV_LANE, EVENT_LANE] {
        let backlog =
            outbox::backlog(&database, lane).await.map_err(|_| "the outbox cannot be read".to_owned())?;
        let age = backlog.oldest.map(|at| Timestamp::now().duration_since(at));
        let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
        metrics.oldest_row(lane, age);
        if age > OLD_ROW {
            late.push(format!("{} rows of lane {lane} wait", backlog.rows));
        }
        details.insert(lane.to_owned(), backlog.rows.into());
    }
    if late.is_empty() { Ok(details.into()) } else { Err(late.join(", ")) }
}

async fn gauges(live: Arc<Live>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => metrics.snapshot_age.set(live.age().unwrap_or_default().as_secs_f64()),
        }
    }
}

/// Open streams would hold up the last stage of the shutdown.
async fn end_streams(context: Context, streams: CancellationToken, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = context.shutdown.stopping() => {}
    }
    streams.cancel();
}

/// A task that ends only with its token.
async fn endless(task: impl Future<Output = ()>) -> Result<(), Error> {
    task.await;
    Ok(())
}
