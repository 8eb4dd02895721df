//! Wiring only: listener, snapshots, tasks, routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use plinth_core::discovery::{Discovery, DiscoverySettings};
use plinth_core::registration::Registrar;
use plinth_kit::health::Condition;
use plinth_kit::{App, AppBuilder, Context};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::tasks::directory;
use crate::tasks::probes::{AGGREGATOR, Probes};
use crate::{openapi, routes};

/// A directory older than this is not being refreshed: its watch is confirmed every 30 s and a little at the latest.
const STALE: Duration = Duration::from_secs(60);
/// How often gauges take over what discovery says.
const GAUGES: Duration = Duration::from_secs(1);

/// Starts the service; it listens when this returns.
///
/// # Errors
/// The address cannot be bound, or there is none to advertise.
pub async fn start(settings: Settings, context: Context) -> Result<App, Error> {
    let listener = context.bind().await.map_err(Error::start)?;
    let (publisher, directory) = directory::channel();
    let registry = Arc::new(Registry {
        registrar: Registrar::new(context.consul.clone()),
        discovery: start_discovery(&settings, &context),
        directory,
        probed: Arc::default(),
        answers: Arc::default(),
        metrics: Metrics::new(&context.metrics.registry).map_err(Error::start)?,
        waiting: Semaphore::new(settings.max_waiting),
        shutdown: context.shutdown.clone(),
        settings,
    });
    add_checks(&context, &registry);
    let known = context.readiness.condition("snapshots");
    let router =
        context.router(routes::routes(Arc::clone(&registry)), openapi::document()).map_err(Error::start)?;
    let consul = context.consul.clone();
    let app = AppBuilder::new(&context)
        .http(listener, router)
        .task("directory", |stop| directory::follow(consul, publisher, stop))
        .task("probe times", |stop| probes(&registry, &context).run(stop))
        .task("gauges", |stop| gauges(Arc::clone(&registry), stop))
        .task("readiness", |stop| meet(Arc::clone(&registry), known, stop));
    app.start().await.map_err(Error::start)
}

fn start_discovery(settings: &Settings, context: &Context) -> Discovery {
    let watching = DiscoverySettings {
        max_watches: settings.max_watches,
        idle: settings.watch_idle,
        ..DiscoverySettings::default()
    };
    Discovery::start(context.consul.clone(), watching, &context.control)
}

fn probes(registry: &Registry, context: &Context) -> Probes {
    Probes {
        discovery: registry.discovery.clone(),
        answers: Arc::clone(&registry.answers),
        publish: Arc::clone(&registry.probed),
        interval: registry.settings.probe_times_every,
        idle: registry.settings.watch_idle,
        token: registry.settings.aggregator_token.clone(),
        identity: context.identity(),
    }
}

/// Ready is who can answer reads: the catalog's names and the registrations are known.
async fn meet(registry: Arc<Registry>, known: Condition, stop: CancellationToken) -> Result<(), Infallible> {
    let first = async {
        registry.discovery.services_changed(0).await;
        registry.directory.known().await;
    };
    if stop.run_until_cancelled(first).await.is_some() {
        known.meet();
    }
    Ok(())
}

async fn gauges(registry: Arc<Registry>, stop: CancellationToken) -> Result<(), Infallible> {
    let mut timer = tokio::time::interval(GAUGES);
    while stop.run_until_cancelled(timer.tick()).await.is_some() {
        registry.metrics.observe(&registry.discovery);
    }
    Ok(())
}

/// Neither is critical: reads go on without fresh snapshots and without anybody who probes.
fn add_checks(context: &Context, registry: &Arc<Registry>) {
    let of = Arc::clone(registry);
    context.components.add("snapshots", false, move || {
        let registry = Arc::clone(&of);
        async move {
            let Some(directory) = registry.directory.current() else {
                return Err("no answer from Consul yet".to_owned());
            };
            let status = registry.discovery.status();
            let age = directory.fetched.elapsed();
            if age > STALE || !status.connected {
                return Err(format!("not refreshed; the registrations served are {} s old", age.as_secs()));
            }
            Ok(json!({
                "registrations": directory.documents.len(),
                "index": directory.index,
                "age_seconds": age.as_secs(),
                "watches": status.watches,
                "swept": status.swept,
            }))
        }
    });
    let of = Arc::clone(registry);
    context.components.add(AGGREGATOR.replace('-', "_"), false, move || {
        let registry = Arc::clone(&of);
        async move {
            let found = registry.discovery.service(AGGREGATOR).await;
            match found.map_or(0, |snapshot| snapshot.passing().count()) {
                0 => Err("no health-aggregator passes its checks; nobody probes the instances".to_owned()),
                passing => Ok(json!({"passing": passing})),
            }
        }
    });
}
