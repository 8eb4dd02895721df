//! health-aggregator: knows how every instance is.
//!
//! It owns the status of all instances registered through Plinth (catalog nodes with `plinth=true`): it alone probes them,
//! changes their status and removes them. Instances that agents registered are their agents' business.
//!
//! Invariants
//! - Every write compares: a status with the check's index, a removal with document and check. Two replicas that
//!   both take an instance for theirs cost a probe, never a wrong status.
//! - Written is only what changes. An instance that is taken over starts from the status that the catalog has.
//! - A status gets worse only after as many bad results in a row as the settings say, and not at all while most instances turned at
//!   once and no other replica sees the same (the brake).
//!
//! How it fails
//! - Consul away: probing goes on, the last catalog serves; what has to be written is written when Consul is back.
//! - A replica dies: the others notice by looking at it directly, twice a second apart, and take its instances over.
//! - All replicas dead: statuses stay as they are; nothing is removed.

mod app;
pub mod domain;
mod error;
mod metrics;
mod routes;
mod settings;
mod tasks;

pub use app::{SERVICE, start};
pub use error::Error;
pub use routes::document;
pub use settings::Settings;
