//! What every part of Plinth stands on: the Consul client, registration, discovery, health checks, load balancing and the
//! client of the configuration service. No web framework and no database here.
//!
//! Invariants: requests are served from immutable snapshots, whatever Consul does; every request has a deadline; nothing here
//! is process-wide.

pub mod balance;
pub mod config_client;
pub mod consul;
pub mod contents;
pub mod discovery;
pub mod error;
pub mod health;
pub mod identity;
pub mod registration;
pub mod tls;

mod secret;
mod transport;

pub use error::Error;
pub use secret::Secret;
