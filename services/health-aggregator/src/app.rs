//! Wiring.

use std::sync::Arc;

use parking_lot::Mutex;
use plinth_core::health::Prober;
use plinth_kit::{App, AppBuilder, Context, Routes, Service};
use prometheus::Gauge;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::warden::{Catalog, Warden};
use crate::metrics::Metrics;
use crate::routes::{self, AppState};
use crate::tasks::catalog::{self, Contact};
use crate::tasks::members::{self, Looks, Members};
use crate::tasks::patrol::Patrol;
use crate::{Error, Settings};

/// What `main` and `plinth up` start.
pub const SERVICE: Service =
    Service::new("health-aggregator", env!("CARGO_PKG_VERSION")).port(8530).document(routes::document);

/// Starts the service: binds first, then watches, then acts.
///
/// # Errors
/// An address that cannot be bound or advertised.
pub async fn start(settings: Settings, context: Context) -> Result<App, Error> {
    let listener = context.bind().await.map_err(|error| Error::Start(error.into()))?;
    let metrics = Metrics::new(&context.metrics.registry)?;
    let me = context.service_id(listener.address()).map_err(|error| Error::Start(error.into()))?;
    let (catalog_sender, catalog) = watch::channel(None);
    let (member_sender, members) = watch::channel(Members::default());
    let prober = Prober::new().with_identity(context.identity());
    let state = AppState {
        me: me.clone(),
        warden: Arc::new(Mutex::new(Warden::new(me.clone(), settings.thresholds))),
        catalog: catalog.clone(),
        members: members.clone(),
        prober: prober.clone(),
    };
    let contact = Contact::default();
    add_checks(&context, &state, &contact, metrics.catalog_age.clone());
    let patrol = Patrol {
        warden: Arc::clone(&state.warden),
        client: context.consul.clone(),
        prober: prober.clone(),
        metrics,
        concurrency: Arc::new(Semaphore::new(settings.concurrency)),
        peer_token: settings.peer_token,
        catalog: catalog.clone(),
        members,
    };
    let mesh = context.mtls.is_some();
    let looks =
        Looks { me, mesh, interval: settings.member_interval, failures: settings.member_failures, prober };
    let router = context
        .router(Routes::new(routes::router(state)), routes::document())
        .map_err(|error| Error::Start(error.into()))?;
    let (client, ready) = (context.consul.clone(), context.readiness.condition("catalog"));
    AppBuilder::new(&context)
        .http(listener, router)
        .task("catalog", |stop| until(stop, catalog::run(client, contact, catalog_sender)))
        .task("members", |stop| until(stop, members::run(looks, catalog.clone(), member_sender)))
        .task("patrol", |stop| until(stop, patrol.run()))
        .task("readiness", |stop| {
            until(stop, async move {
                let mut catalog: watch::Receiver<Option<Catalog>> = catalog;
                if catalog.wait_for(Option::is_some).await.is_ok() {
                    ready.meet();
                }
            })
        })
        .start()
        .await
        .map_err(|error| Error::Start(error.into()))
}

fn add_checks(context: &Context, state: &AppState, contact: &Contact, catalog_age: Gauge) {
    let contact = contact.clone();
    context.components.add("catalog", false, move || {
        let (failure, last) = (contact.failure(), contact.last_answer());
        catalog_age.set(last.map(|at| at.elapsed()).unwrap_or_default().as_secs_f64());
        let age = last.map(|at| at.elapsed().as_secs());
        async move {
            match failure {
                None => Ok(json!({"last_answer_seconds_ago": age})),
                Some(why) => Err(format!("the catalog cannot be read: {why}")),
            }
        }
    });
    let warden = Arc::clone(&state.warden);
    context.components.add("brake", false, move || {
        let (brake, owned) = {
            let warden = warden.lock();
            (warden.brake(), warden.owned())
        };
        async move {
            match brake {
                None => Ok(json!({"owned": owned})),
                Some(brake) => Err(routes::health::brake_message(&brake, owned)),
            }
        }
    });
}

/// Runs work that has no end of its own until the service stops.
async fn until(
    stop: CancellationToken,
    work: impl Future<Output = ()>,
) -> Result<(), std::convert::Infallible> {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    Ok(())
}
