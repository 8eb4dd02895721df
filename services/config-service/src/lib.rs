//! The configuration centre: JSON values in namespaces and environments, each change recorded, each reader told.
//!
//! Owns Consul's KV below `plinth/config/` and the history in its own SQL database. Invariants:
//! - A write that was answered is in the history, whatever dies afterwards; a crash between the database and KV is
//!   finished on restart from the outbox.
//! - KV is only written by check-and-set under the item's revision: an older value never replaces a newer one.
//! - Reads come from one immutable snapshot, kept by a watch on KV. Consul away: the last one is served, with its age.
//!   A write is answered when this replica's snapshot shows it (200, 201, 204), or as accepted (202) when that takes
//!   too long.
//! - KV is the current state and the history is the truth about the past: what somebody else writes into KV is recorded
//!   as an external revision; what KV loses is written again.
//!
//! The database away: reads go on, writes are refused (503). RabbitMQ away: events wait in the outbox.

mod app;
pub mod configuration;
pub mod domain;
mod error;
pub mod live;
pub mod metrics;
mod routes;
mod settings;
pub mod store;
pub mod tasks;

pub use app::{SERVICE, start};
pub use error::Error;
pub use routes::document;
pub use settings::Settings;
