//! The whole route table.

mod history;
mod items;
mod list;
mod parameters;
mod views;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use plinth_kit::problem::Problem;
use utoipa::OpenApi;

use crate::configuration::Configuration;

/// What the handlers share.
#[derive(Clone)]
pub struct AppState {
    pub configuration: Arc<Configuration>,
}

pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/api/v1/config", get(list::namespaces))
        .route("/api/v1/config/{namespace}/{environment}", get(list::list))
        .route(
            "/api/v1/config/{namespace}/{environment}/{*key}",
            get(items::get).put(items::put).delete(items::delete),
        )
        .route("/api/v1/history/{namespace}/{environment}/{*key}", get(history::history))
        .route("/api/v1/watch/{namespace}/{environment}", get(watch::watch))
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
        title = "Plinth config-service",
        description = "Live configuration: JSON values in namespaces and environments, with history, optimistic \
            concurrency and watches.\n\nA value is stored as plain JSON at Consul KV \
            `plinth/config/<namespace>/<environment>/<key>`, its revision in the KV entry's Flags.\n\nIndexes: every \
            answer carries `X-Plinth-Index`. `index=N` makes a read wait for at least that state (503 after 5 s); \
            `index=N&wait=30s` blocks until what was asked for changed after N, or the wait is over.\n\nA write is \
            durable when it is answered. 200/201/204: this replica's reads show it. 202: Consul could not be reached \
            in time; the write is on its way and reads show it when it has arrived."
    ),
    paths(
        list::namespaces,
        list::list,
        items::get,
        items::put,
        items::delete,
        history::history,
        watch::watch
    ),
    components(schemas(Problem))
)]
struct ApiDoc;
