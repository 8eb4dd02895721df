//! Listeners: Kong's notation for them, binding, and taking connections off them.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::worker::Accepted;

/// One address to listen on, as `KONG_PROXY_LISTEN` writes it: `0.0.0.0:8443 ssl http2 reuseport backlog=16384`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// TLS.
    pub ssl: bool,
    /// HTTP/2: by ALPN with `ssl`, by prior knowledge without.
    pub http2: bool,
    /// One listener for each worker with `SO_REUSEPORT`, instead of one acceptor for all.
    pub reuseport: bool,
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Length of the accept queue.
    pub backlog: u32,
}

/// Why an address cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ListenError {
    /// Not `HOST:PORT`.
    #[error("{0:?} is not an address and port")]
    Address(String),
    /// Not a flag known.
    #[error(
        "{0:?} is not a flag of a listener: ssl, http2, reuseport, deferred, bind, backlog=N, proxy_protocol"
    )]
    Flag(String),
}

/// What to listen on; empty for `off`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listens(pub Vec<Listen>);

impl FromStr for Listens {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if text.trim().eq_ignore_ascii_case("off") || text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl std::fmt::Display for Listens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("off");
        }
        for (at, listen) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", listen.address)?;
            let flags = [
                ("ssl", listen.ssl),
                ("http2", listen.http2),
                ("reuseport", listen.reuseport),
                ("proxy_protocol", listen.proxy_protocol),
            ];
            for (flag, set) in flags {
                if set {
                    write!(f, " {flag}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let mut words = text.split_whitespace();
        let address = words.next().unwrap_or_default();
        let bad = || ListenError::Address(address.to_owned());
        let address = match address.parse() {
            Ok(address) => address,
            Err(_) => {
                let address = address.replace('*', "0.0.0.0");
                address.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(bad)?
            }
        };
        let mut listen = Self {
            address,
            ssl: false,
            http2: false,
            reuseport: false,
            proxy_protocol: false,
            backlog: 4096,
        };
        for flag in words {
            match flag {
                "ssl" => listen.ssl = true,
                "http2" => listen.http2 = true,
                "reuseport" => listen.reuseport = true,
                // the first is nginx's tuning of accept, the second its default for listed addresses
                "deferred" | "bind" => {}
                "proxy_protocol" => listen.proxy_protocol = true,
                other => {
                    let backlog = other.strip_prefix("backlog=").and_then(|number| number.parse().ok());
                    listen.backlog = backlog.ok_or_else(|| ListenError::Flag(other.to_owned()))?;
                }
            }
        }
        Ok(listen)
    }
}

/// A bound listener's facts.
#[derive(Debug)]
pub struct Bound {
    /// As configured.
    pub listen: Listen,
    /// The address with its real port.
    pub address: SocketAddr,
    /// TLS towards clients.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Binds one address `copies` times (more than once only with `reuseport`).
///
/// # Errors
/// The system's.
pub fn bind(listen: &Listen, copies: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let mut address = listen.address;
    let mut listeners = Vec::with_capacity(copies);
    for _ in 0..copies.max(1) {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if listen.reuseport {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(listen.backlog).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok((address, listeners))
}

/// The sockets of an address: those there are, and as many more as are missing.
///
/// # Errors
/// The system's.
pub fn complete(
    listen: &Listen,
    copies: usize,
    mut there: Vec<TcpListener>,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let Some(first) = there.first() else { return bind(listen, copies) };
    let address = first.local_addr()?;
    for socket in &there {
        socket.set_nonblocking(true)?;
    }
    if there.len() < copies {
        // only sockets of processes that had the flag too can share their port
        let missing = copies - there.len();
        there.extend(bind(&Listen { address, ..listen.clone() }, missing)?.1);
    }
    Ok((address, there))
}

/// Takes connections off a listener and hands each to `take`. Told to stop, it takes those that wait in the queue
/// already (closing would reset them) and closes the listener.
pub async fn accept(
    listener: TcpListener,
    bound: Arc<Bound>,
    take: impl Fn(Accepted),
    stop: CancellationToken,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, address = %bound.address, "cannot wait for connections");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted.and_then(|(stream, peer)| Ok((detached(stream)?, peer))) {
            Ok((socket, peer)) => take(Accepted { socket, peer, listener: bound.clone() }),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// The socket without the runtime it was accepted on.
fn detached(stream: tokio::net::TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    stream.into_std()
}

/// A connection that died while it waited is nothing; without descriptors left, trying at once is useless.
async fn pause_after(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NotConnected
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(%error, "cannot accept connections");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kongs_notation_is_read() {
        let Listens(all) = "0.0.0.0:8000 reuseport backlog=16384, 127.0.0.1:8443 http2 ssl".parse().unwrap();
        assert_eq!(all.len(), 2);
        assert!(all[0].reuseport && !all[0].ssl && all[0].backlog == 16384);
        assert!(all[1].ssl && all[1].http2 && all[1].address.port() == 8443);
        assert_eq!("off".parse(), Ok(Listens::default()));
        assert_eq!("[::]:80".parse::<Listens>().unwrap().0[0].address.to_string(), "[::]:80");
        assert!(matches!("8000".parse::<Listens>(), Err(ListenError::Address(_))));
        assert!(matches!("1.2.3.4:80 quick".parse::<Listens>(), Err(ListenError::Flag(_))));
        assert!(matches!("1.2.3.4:80 backlog=x".parse::<Listens>(), Err(ListenError::Flag(_))));
        let behind: Listens = "1.2.3.4:80 ssl proxy_protocol".parse().unwrap();
        assert!(behind.0[0].proxy_protocol);
        assert_eq!(behind.to_string(), "1.2.3.4:80 ssl proxy_protocol");
    }

    #[test]
    fn reuseport_binds_one_port_several_times() {
        let listen = Listen { reuseport: true, .."127.0.0.1:0".parse().unwrap() };
        let (address, listeners) = bind(&listen, 2).unwrap();
        assert_eq!(listeners.len(), 2);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
    }
}
