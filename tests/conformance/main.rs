//! Real Consul clients, unchanged: the same scripts and expectations on the embedded agent (`plinth agent`, its own
//! process) and on a real Consul 1.8.7.
//!
//! What takes longer than a test run should says so with its reason, and `cargo xtask conformance` runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checks;
mod cli;
mod cli_lock;
mod cli_watch;
mod go_client;
mod http_edges;
mod node;
mod patroni;
// The system tests' own, of which less is used here.
#[allow(dead_code)]
#[path = "../support/program.rs"]
mod program;
mod prometheus;
mod python;
mod rust_client;
mod side;
mod traefik;
