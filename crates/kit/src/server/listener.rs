//! A bound socket, with or without TLS.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use plinth_core::identity::Caller;
use tokio::net::TcpListener;

use super::tls::{TlsError, TlsSource};

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("a socket of another process cannot be listened on")]
    Adopt(#[source] std::io::Error),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
}

/// Who is at the other end of a connection; an extension of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// True when the connection is encrypted.
    pub tls: bool,
    /// The caller's identity, with mutual TLS.
    pub caller: Option<Arc<Caller>>,
}

/// A socket that is bound, so its port is known and clients may connect, but not yet served.
#[derive(Debug)]
pub struct BoundListener {
    pub(super) socket: TcpListener,
    pub(super) tls: Option<TlsSource>,
    name: &'static str,
    address: SocketAddr,
}

impl BoundListener {
    /// Binds `address` (port 0: any free one). `name` is for people: `http`, `admin`.
    ///
    /// # Errors
    /// The address is taken or not of this machine.
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        tls: Option<TlsSource>,
    ) -> Result<BoundListener, ServerError> {
        let failed = |source| ServerError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(BoundListener { socket, tls, name, address })
    }

    /// Takes over a socket that is bound and listening already.
    ///
    /// # Errors
    /// It is no such socket.
    pub fn adopt(
        name: &'static str,
        socket: std::net::TcpListener,
        tls: Option<TlsSource>,
    ) -> Result<BoundListener, ServerError> {
        let adopted = || {
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok((TcpListener::from_std(socket)?, address))
        };
        let (socket, address) = adopted().map_err(ServerError::Adopt)?;
        Ok(BoundListener { socket, tls, name, address })
    }

    /// The listener's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The bound address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The socket, to be copied for another process.
impl AsFd for BoundListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
