//! The API gateway: reads Kong's declarative configuration and proxies HTTP by it.
//!
//! Data plane: worker threads that share nothing on the request path but one immutable [`snapshot::Snapshot`] of the
//! configuration; control plane: everything slow, on the process's multi-thread runtime. A configuration is applied as
//! a whole or not at all, and requests keep the one they began with. Without its configuration source, Consul or DNS
//! the gateway goes on with what it knew last.

pub mod admin;
pub mod app;
pub mod certificates;
pub mod client;
pub mod compile;
pub mod context;
pub mod error;
pub mod handover;
pub mod identity;
pub mod kong_metrics;
pub mod listen;
pub mod loader;
pub mod metrics;
pub mod plugins;
pub mod proxy;
pub mod reload;
pub mod router;
pub mod serve;
pub mod settings;
pub mod snapshot;
pub mod store;
pub mod tick;
pub mod trace;
pub mod trusted;
pub mod upstream;
pub mod worker;

pub use app::{SERVICE, start, start_process};
pub use error::Error;
pub use settings::Settings;
