//! Typed client of Consul's HTTP API over HTTP(S) and unix sockets.
//!
//! One [`Client`] per process: it pools connections, caps blocking queries and puts a hard deadline on every request, so that
//! a half-open connection shows as an error instead of a hang. [`watch()`] turns a blocking query into an endless stream.

pub mod duration;
pub mod wire;

mod agent;
mod call;
mod catalog;
mod client;
mod connect;
mod health;
mod kv;
mod read;
mod session;
mod settings;
mod status;
mod token;
mod txn;
mod watch;

pub use crate::transport::Address;
pub use agent::Agent;
pub use catalog::Catalog;
pub use client::{Client, HeaderHook};
pub use connect::Connect;
pub use health::Health;
pub use kv::{Kv, MAX_VALUE, PutOptions};
pub use read::{Consistency, Read, Reply};
pub use session::Sessions;
pub use settings::Settings;
pub use status::Status;
pub use txn::{MAX_TXN_OPS, TxnResults};
pub use watch::{watch, watch_from};
