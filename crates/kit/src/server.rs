//! Listeners: bound early, HTTP/1.1 and HTTP/2 on one port, TLS on request, limits, graceful end.

mod accept;
mod listener;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use crate::settings::Reader;

pub use accept::{Stop, serve};
pub use listener::{BoundListener, Peer, ServerError};
pub use tls::{TlsError, TlsSettings, TlsSource};

/// Limits of one listener and of what it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSettings {
    /// Connections at a time; further ones wait in the kernel's queue. Default 10,000.
    pub max_connections: usize,
    /// Time for a request's head, from the connection's start or the previous answer; so it also ends idle
    /// connections. Default 75 s.
    pub header_timeout: Duration,
    /// Time for a TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// Time until the head of an answer. Default 60 s.
    pub request_timeout: Duration,
    /// The same for routes that wait for a change. Default 11 min.
    pub long_poll_timeout: Duration,
    /// Largest request body in bytes. Default 2 MiB.
    pub max_body: usize,
    /// HTTP/2 requests at a time on one connection. Default 128.
    pub max_streams: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            max_connections: 10_000,
            header_timeout: Duration::from_secs(75),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            long_poll_timeout: Duration::from_secs(660),
            max_body: 2 << 20,
            max_streams: 128,
        }
    }
}

impl ServerSettings {
    /// Reads `server.*`.
    pub fn read(reader: &mut Reader) -> ServerSettings {
        let defaults = ServerSettings::default();
        let range = Duration::from_millis(100)..=Duration::from_secs(3600);
        ServerSettings {
            max_connections: reader.get_in(
                "server.max_connections",
                "connections at a time; further ones wait",
                defaults.max_connections,
                1..=1_000_000,
            ),
            header_timeout: reader.duration_in(
                "server.header_timeout",
                "time for a request's head, counted from the connection's start or the previous answer",
                defaults.header_timeout,
                range.clone(),
            ),
            handshake_timeout: reader.duration_in(
                "server.handshake_timeout",
                "time for a TLS handshake",
                defaults.handshake_timeout,
                range.clone(),
            ),
            request_timeout: reader.duration_in(
                "server.request_timeout",
                "time until the head of an answer",
                defaults.request_timeout,
                range.clone(),
            ),
            long_poll_timeout: reader.duration_in(
                "server.long_poll_timeout",
                "time until the head of an answer of routes that wait for a change",
                defaults.long_poll_timeout,
                range,
            ),
            max_body: usize::try_from(reader.bytes(
                "server.max_body",
                "largest request body",
                defaults.max_body as u64,
            ))
            .unwrap_or(usize::MAX),
            max_streams: reader.get_in(
                "server.max_streams",
                "HTTP/2 requests at a time on one connection",
                defaults.max_streams,
                1..=10_000,
            ),
        }
    }
}
