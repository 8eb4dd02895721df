//! The client, registration and discovery against real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod discovery;
mod faults;
mod fleet;
mod registration;
mod self_registration;
mod server;
mod tls;
