//! The OpenAPI document of this service.

use utoipa::OpenApi;

use crate::routes::{discover, instances, register};

/// Everything under `/api/v1/services`.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Plinth registry-service",
        description = "Services register here and are found here. Errors are RFC 9457 problem documents.",
    ),
    paths(
        register::register,
        discover::discover,
        instances::list,
        instances::get,
        register::upsert,
        instances::deregister,
        instances::heartbeat,
    ),
    tags(
        (name = "registration", description = "Register, replace, look at and remove instances"),
        (name = "discovery", description = "Find the instances of a service"),
    ),
)]
struct Api;

/// The document; the security scheme comes from kit.
pub fn document() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
