//! The service as a process of its own, on real Consul and on the embedded agent, with what it depends on killed and
//! brought back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod auth;
mod bad_input;
mod client;
mod events;
mod outages;
mod postgres;
mod replicas;
mod sections;
mod shutdown;
mod support;
mod watches;

/// Runs each test on a real Consul and on the embedded agent.
macro_rules! on_both {
    ($($(#[$meta:meta])* $name:ident)*) => {
        mod on_consul {
            $( $(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::support::Consul::real().await).await; } )*
        }
        mod on_agent {
            $( $(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::support::Consul::agent().await).await; } )*
        }
    };
}
pub(crate) use on_both;
