//! Our HTTP/1.1 client towards upstreams: one function, [`send`].
//!
//! It is driven inside the request's own future (no connection task, no channels), keeps one pool per worker, streams
//! bodies both ways at once, takes header values as slices of the read buffer, and is strict about what it accepts:
//! anything whose framing could be read in two ways is an error and closes the connection.

pub mod ahead;
pub mod body;
pub mod chunked;
pub mod connection;
pub mod error;
pub mod head;
pub mod http2;
pub mod pool;
pub mod request;
pub mod stream;
pub mod tls;
pub mod upgrade;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpStream;

pub use ahead::{ReadAhead, ReadAheadSettings, Streamed};
pub use body::UpstreamBody;
pub use connection::{Connection, Limits, Pump};
pub use error::Fault;
pub use pool::{PoolKey, PoolSettings, Pools};
pub use request::{BodyTooLarge, Coding, Piece, RequestBody, TooLong, Ungathered};
pub use tls::{TlsSettingsError, TlsSpec, TlsTarget, mesh_service};

use body::{Decoding, Home};
use head::{Asked, Framing};
use stream::Stream;

/// Where and how to send a request.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// The address.
    pub address: SocketAddr,
    /// Speak TLS.
    pub tls: Option<&'a Arc<TlsTarget>>,
    /// Name of the target, for SNI and its certificate; where it is no such name, the service's own is taken.
    pub name: &'a str,
    /// Limit for TCP and TLS handshake together.
    pub connect_timeout: Duration,
    /// Limits of the exchange.
    pub limits: Limits,
}

/// What is sent besides the body.
pub struct Outgoing<'a> {
    /// The method, for the response's framing and for what may be repeated.
    pub method: &'a Method,
    /// The request asks for another protocol.
    pub upgrade: bool,
    /// Writes request line and headers, the empty line included.
    pub write_head: &'a dyn Fn(&mut Vec<u8>),
}

/// The body of a reply.
#[derive(Debug)]
pub enum ReplyBody {
    /// None.
    Empty,
    /// All of it, already here.
    Whole(Bytes),
    /// Still to be read.
    Stream(Streamed),
    /// Still to be read, over HTTP/2.
    Http2(Box<http2::Download>),
    /// 101: the connection itself.
    Upgraded(Box<Connection>),
}

/// An upstream's answer.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers as received.
    pub headers: HeaderMap,
    /// Body.
    pub body: ReplyBody,
}

/// A try that failed.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub fault: Fault,
    /// The request was sent at least in part.
    pub sent: bool,
}

/// Whether a request may be repeated after the upstream may have begun to act on it. The list is nginx's and Kong's:
/// everything but POST, PATCH and LOCK.
#[must_use]
pub fn repeatable(method: &Method) -> bool {
    *method != Method::POST && *method != Method::PATCH && method.as_str() != "LOCK"
}

/// Sends a request and gives back the response as soon as its head is here.
///
/// A kept connection that turns out to be closed is replaced by a fresh one without the caller noticing, as long as
/// that is safe: the method is [`repeatable`] and what was taken of the body is still known.
///
/// # Errors
/// [`Failure`]; `body` then holds the body, to be rewound by the caller for another try.
pub async fn send(
    pools: &Rc<Pools>,
    endpoint: &Endpoint<'_>,
    outgoing: &Outgoing<'_>,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    let key = PoolKey { address: endpoint.address, tls: endpoint.tls.map_or(0, |tls| tls.id) };
    let asked = Asked { method: outgoing.method, upgrade: outgoing.upgrade };
    let mut kept = pools.take(key);
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => connect(endpoint).await.map_err(|fault| Failure { fault, sent: false })?,
        };
        let was_kept = connection.reused();
        let outcome =
            connection::exchange(&mut connection, outgoing.write_head, body, asked, &endpoint.limits).await;
        match outcome {
            Ok(exchanged) => {
                let home = Home { pools: pools.clone(), key };
                return Ok(reply(connection, exchanged, home, endpoint.limits.read_timeout));
            }
            Err(fault) => {
                let untouched = connection.read.is_empty();
                let stale = was_kept && fault.is_stale() && untouched;
                if stale && repeatable(outgoing.method) && body.rewind() {
                    continue;
                }
                return Err(Failure { fault, sent: true });
            }
        }
    }
}

/// Opens a connection.
async fn connect(endpoint: &Endpoint<'_>) -> Result<Connection, Fault> {
    open(endpoint).await.map(Connection::new)
}

/// TCP and TLS.
async fn open(endpoint: &Endpoint<'_>) -> Result<Stream, Fault> {
    let opened = crate::tick::within(endpoint.connect_timeout, async {
        let tcp = TcpStream::connect(endpoint.address).await.map_err(Fault::Connect)?;
        tcp.set_nodelay(true).map_err(Fault::Connect)?;
        let Some(tls) = endpoint.tls else { return Ok(Stream::Tcp(tcp)) };
        let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
        let stream = connector.connect(tls.name_for(endpoint.name), tcp).await.map_err(Fault::Tls)?;
        Ok(Stream::Tls(Box::new(stream)))
    });
    // boxed: rare and large, so it does not swell every request's future
    Box::pin(opened).await.unwrap_or(Err(Fault::ConnectTimeout))
}

/// Turns a finished head exchange into a reply; a connection without further use goes home at once.
fn reply(
    mut connection: Connection,
    exchanged: connection::Exchanged,
    home: Home,
    read_timeout: Duration,
) -> Reply {
    let head::Head { status, headers, framing, keep_alive } = exchanged.head;
    let pump = exchanged.pump;
    let body = match framing {
        Framing::Upgrade => ReplyBody::Upgraded(Box::new(connection)),
        Framing::None => {
            if keep_alive && pump.is_none() {
                home.pools.put(home.key, connection);
            }
            ReplyBody::Empty
        }
        Framing::Length(length) if pump.is_none() && connection.read.len() as u64 >= length => {
            let whole = connection.read.split_to(usize::try_from(length).unwrap_or(usize::MAX)).freeze();
            if keep_alive {
                home.pools.put(home.key, connection);
            }
            ReplyBody::Whole(whole)
        }
        Framing::Length(_) | Framing::Chunked | Framing::Close => {
            ReplyBody::Stream(Streamed::new(UpstreamBody {
                connection: Some(connection),
                decoding: match framing {
                    Framing::Length(length) => Decoding::Length(length),
                    Framing::Chunked => Decoding::Chunked(chunked::Decoder::default()),
                    _ => Decoding::Close,
                },
                pump,
                home: keep_alive.then_some(home),
                read_timeout,
                waiting: false,
                polled: false,
                ahead: std::collections::VecDeque::new(),
                ahead_bytes: 0,
                in_flight: None,
            }))
        }
    };
    Reply { status, headers, body }
}
