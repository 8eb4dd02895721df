//! The names the gateway goes by. Clients and dashboards of Kong look for these, so they are Kong's.

/// In `Via`, without the protocol version.
pub const VIA: &str = "1.1 kong/3.9.3";
/// In `Server` of the gateway's own answers.
pub const SERVER: &str = "kong/3.9.3";
/// The version the Admin API reports.
pub const VERSION: &str = "3.9.3";
