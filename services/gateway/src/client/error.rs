//! What can go wrong on the way to an upstream and back.

use std::io;

/// Why a request got no answer from an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection: refused, unreachable, reset while connecting.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// Connecting took longer than allowed.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The connection broke while the request was being sent.
    #[error("sending the request failed")]
    Write(#[source] io::Error),
    /// No byte could be sent for longer than allowed.
    #[error("sending the request took too long")]
    WriteTimeout,
    /// The connection broke before the response was complete.
    #[error("reading the response failed")]
    Read(#[source] io::Error),
    /// The upstream closed the connection before the response was complete.
    #[error("the upstream closed the connection")]
    Closed,
    /// No byte came for longer than allowed.
    #[error("the upstream sent nothing for too long")]
    ReadTimeout,
    /// The response head is not acceptable HTTP/1.
    #[error("bad response head: {0}")]
    BadHead(&'static str),
    /// The response head is larger than the limit.
    #[error("response head too large")]
    HeadTooLarge,
    /// The response body is not acceptable.
    #[error("bad response body: {0}")]
    BadBody(&'static str),
    /// HTTP/2 with the upstream failed.
    #[error("HTTP/2 failed")]
    Http2(#[source] hyper::Error),
    /// The request cannot be put into a form the upstream understands.
    #[error("the request cannot be sent")]
    Unsendable(#[source] http::Error),
    /// A plugin rewrites the response's body, and it is larger than may be held in memory for that.
    #[error("response body larger than plugins may hold in memory")]
    BodyTooLarge,
    /// The client's request body broke off or was malformed.
    #[error("the client's request body broke off")]
    RequestBody(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client sent nothing of its request body for longer than allowed.
    #[error("the client sent nothing of its body for too long")]
    RequestBodyTimeout,
}

impl Fault {
    /// The fault is a timeout of the upstream's (504, and `timeouts` of health checks).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::WriteTimeout | Self::ReadTimeout)
    }

    /// No connection came about, so nothing was sent.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Tls(_) | Self::ConnectTimeout)
    }

    /// The client is to blame, not the endpoint.
    #[must_use]
    pub fn is_clients(&self) -> bool {
        matches!(self, Self::RequestBody(_) | Self::RequestBodyTimeout)
    }

    /// What a kept connection shows when the other side had closed it already.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Closed | Self::Write(_) | Self::Read(_))
    }
}
