//! Real servers for tests: Consul, PostgreSQL, Redis, RabbitMQ as private instances on free ports with temporary
//! folders, programmable HTTP upstreams, a TCP proxy that misbehaves on demand, and waiting on conditions.
//!
//! Everything here is for tests only and panics with a clear sentence when a server cannot be had; nothing is ever
//! skipped silently. Each started process ends when its handle is dropped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod chaos;
pub mod consul;
pub mod fuzz;
pub mod http_client;
pub mod port;
pub mod postgres;
pub mod process;
pub mod rabbitmq;
pub mod redis;
pub mod tls;
pub mod tools;
pub mod upstream;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

pub use port::{PortLease, free_port};

/// Polls `condition` every 10 ms until it gives a value; panics with `what` and the last refusal after `deadline`.
pub async fn eventually<T, E, F, Fut>(what: &str, deadline: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Display,
{
    let end = tokio::time::Instant::now() + deadline;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) if tokio::time::Instant::now() >= end => {
                panic!("not within {deadline:?}: {what}; last state: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Turns a yes/no into what [`eventually`] wants.
pub fn holds(yes: bool, state: impl Into<String>) -> Result<(), String> {
    if yes { Ok(()) } else { Err(state.into()) }
}
