//! The registry: services register themselves here, and others find them.
//!
//! It owns the REST surface over `plinth_core::registration` and `plinth_core::discovery`; the truth is in Consul.
//!
//! Invariants
//! - A read is answered from immutable snapshots, never by asking Consul; while Consul is away the last good state is
//!   served together with its age.
//! - A write is answered once this replica's own reads have it; other replicas reach it with `index=`.
//! - Only an owner (the token's subject) or `services:admin` changes an instance.
//! - Probes go to the registered address only, unless `services:admin` says otherwise.
//!
//! Failures: without Consul writes are 503 and `/health` is degraded; before the first snapshot reads are 503.

pub mod app;
pub mod openapi;
pub mod settings;

mod answers;
mod domain;
mod error;
mod metrics;
mod registry;
mod routes;
mod tasks;

pub use app::start;
pub use error::Error;
pub use settings::Settings;

/// The name of this service: in settings, telemetry and the catalog.
pub const NAME: &str = "registry-service";
/// Where it listens by default.
pub const PORT: u16 = 8510;
/// What `main` and `plinth up` run.
pub const SERVICE: plinth_kit::Service =
    plinth_kit::Service::new(NAME, env!("CARGO_PKG_VERSION")).port(PORT).document(openapi::document);
