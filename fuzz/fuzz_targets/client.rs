//! The gateway's reading of what upstreams send, without the rest of the gateway: its files as they are.
#![allow(dead_code)]

#[path = "../../services/gateway/src/client/chunked.rs"]
pub mod chunked;
#[path = "../../services/gateway/src/client/error.rs"]
pub mod error;
#[path = "../../services/gateway/src/client/head.rs"]
pub mod head;
