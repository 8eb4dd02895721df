//! The whole route table.

pub mod health;
pub mod internal;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use parking_lot::Mutex;
use plinth_core::health::Prober;
use tokio::sync::watch;
use utoipa::OpenApi;

use crate::domain::warden::{Catalog, Warden};
use crate::tasks::members::Members;

/// What the handlers share.
#[derive(Clone)]
pub struct AppState {
    /// This replica's service id.
    pub me: String,
    /// Locked for moments only, never across an await.
    pub warden: Arc<Mutex<Warden>>,
    pub catalog: watch::Receiver<Option<Catalog>>,
    pub members: watch::Receiver<Members>,
    pub prober: Prober,
}

pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/api/v1/health/system", get(health::system))
        .route("/api/v1/health/services", get(health::services))
        .route("/api/v1/health/services/{name}", get(health::service))
        .route("/api/v1/health/instances", get(health::instances))
        .route("/api/v1/internal/member", get(internal::member))
        .route("/api/v1/internal/probe", post(internal::probe))
        .with_state(state)
}

/// The API's description.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = ApiDoc::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Plinth health-aggregator",
        description = "How the instances registered through Plinth are. A service is `healthy` when all its instances pass, \
            `unhealthy` when none does, else `degraded`; the system is as bad as its worst service.\n\nScopes: \
            `health:read[:<service glob>]`; `health:probe` between replicas."
    ),
    paths(
        health::system,
        health::services,
        health::service,
        health::instances,
        internal::member,
        internal::probe
    ),
    tags((name = "health"), (name = "internal", description = "Between replicas"))
)]
struct ApiDoc;
