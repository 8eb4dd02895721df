//! The OpenAPI document of the Admin and the Status API.

use utoipa::OpenApi;

use super::{cache, collections, config, explain, health};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Plinth gateway",
        description = "Admin and Status API. Its resources are those of Kong's Admin API without a database: lists and \
                       single entities are read-only, `POST /config` replaces the whole configuration. A token needs \
                       the scope gateway:admin.",
    ),
    paths(
        super::root,
        super::enabled,
        super::status,
        super::ready,
        super::metrics,
        health::upstream,
        health::set,
        explain::explain,
        config::show,
        config::replace,
        cache::purge,
        cache::entry,
        cache::remove,
        cache::entry_of,
        cache::remove_of,
        collections::list,
        collections::refuse_create,
        collections::one,
        collections::nested,
        collections::child,
        collections::tags,
        collections::endpoints,
        collections::schema,
    ),
    tags(
        (name = "node", description = "What this gateway is"),
        (name = "status", description = "How it is; on the Status API too"),
        (name = "configuration", description = "The whole configuration"),
        (name = "cache", description = "Answers kept by proxy-cache plugins"),
        (name = "entities", description = "Services, routes, consumers and what else is configured, read-only"),
    ),
)]
struct Api;

/// The document; the security scheme comes from kit.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
