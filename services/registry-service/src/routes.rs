//! The route table.

pub mod access;
pub mod discover;
pub mod instances;
pub mod register;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};
use plinth_kit::Routes;

use crate::registry::Registry;

/// Header of every answer about the catalog: Consul's index of the state it shows, or of the write it confirms.
pub const INDEX: &str = "x-plinth-index";
/// Header of reads: milliseconds since Consul last confirmed what the answer shows.
pub const AGE: &str = "x-plinth-age-ms";

/// All routes of this service; the common ones (`/health`, `/metrics`, `/docs` ...) come from kit.
pub fn routes(registry: Arc<Registry>) -> Routes {
    let quick = Router::new()
        .route("/api/v1/services/register", post(register::register))
        .route("/api/v1/services", get(instances::list))
        .route(
            "/api/v1/services/{service_id}",
            get(instances::get).put(register::upsert).delete(instances::deregister),
        )
        .route("/api/v1/services/{service_id}/heartbeat", put(instances::heartbeat))
        .with_state(Arc::clone(&registry));
    let waiting = Router::new()
        .route("/api/v1/services/discover/{service_name}", get(discover::discover))
        .with_state(registry);
    Routes::new(quick).waiting(waiting)
}

/// A service id as one segment of a path.
pub(crate) fn id_segment(service_id: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(service_id, SEGMENT)
}

const SEGMENT: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
