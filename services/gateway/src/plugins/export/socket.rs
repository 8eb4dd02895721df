//! Entries over plain sockets: TCP (with TLS), UDP, and the local syslog socket.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Failure;

/// `host:port`, a limit for each step, and how long an idle connection is kept.
#[derive(Clone, Debug)]
pub(in crate::plugins) struct Tcp {
    pub host: String,
    pub port: u16,
    pub tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    pub timeout: Duration,
    pub keepalive: Duration,
    pub connection: Kept,
}

/// The connection of a [`Tcp`]; a clone starts without one.
#[derive(Debug, Default)]
pub(in crate::plugins) struct Kept(Option<(Stream, Instant)>);

impl Clone for Kept {
    fn clone(&self) -> Self {
        Kept(None)
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The other side has closed it: what is written now would be lost without an error. What a receiver sends (TLS
    /// tickets, mostly) is read and forgotten.
    fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 256];
        let read = match self {
            Stream::Plain(stream) => stream.read(&mut bytes).now_or_never(),
            Stream::Tls(stream) => stream.read(&mut bytes).now_or_never(),
        };
        matches!(read, Some(Ok(0) | Err(_)))
    }
}

impl Tcp {
    pub async fn send(&mut self, batch: &[Vec<u8>]) -> Result<(), String> {
        let keepalive = self.keepalive;
        let mut kept = self.connection.0.take();
        let usable =
            |(stream, since): &mut (Stream, Instant)| since.elapsed() < keepalive && !stream.is_closed();
        let usable = kept.as_mut().is_some_and(usable);
        let mut stream = match kept {
            Some((stream, _)) if usable => stream,
            _ => self.connect().await?,
        };
        let bytes = batch.concat();
        let written = match &mut stream {
            Stream::Plain(stream) => self.write(stream, &bytes).await,
            Stream::Tls(stream) => self.write(&mut **stream, &bytes).await,
        };
        written.map_err(|error| format!("{}:{}: {error}", self.host, self.port))?;
        self.connection.0 = Some((stream, Instant::now()));
        Ok(())
    }

    async fn write(&self, stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
        let writing = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        tokio::time::timeout(self.timeout, writing).await.unwrap_or(Err(ErrorKind::TimedOut.into()))
    }

    async fn connect(&self) -> Result<Stream, String> {
        let connecting = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            Ok(match &self.tls {
                None => Stream::Plain(stream),
                Some((name, config)) => {
                    let connector = TlsConnector::from(Arc::clone(config));
                    Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?))
                }
            })
        };
        let connected = tokio::time::timeout(self.timeout, connecting).await;
        connected
            .unwrap_or_else(|_| Err(std::io::Error::from(ErrorKind::TimedOut)))
            .map_err(|error| format!("cannot connect to {}:{}: {error}", self.host, self.port))
    }
}

/// Sends each entry as one datagram.
#[derive(Debug)]
pub(in crate::plugins) struct Udp {
    pub host: String,
    pub port: u16,
    pub timeout: Duration,
    pub socket: Option<UdpSocket>,
}

impl Udp {
    pub async fn send(&mut self, batch: &[Vec<u8>]) -> Result<(), Failure> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let opened = tokio::time::timeout(self.timeout, open(&self.host, self.port)).await;
                opened
                    .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
                    .map_err(|error| Failure::new(format!("{}:{}: {error}", self.host, self.port)))?
            }
        };
        for (sent, entry) in batch.iter().enumerate() {
            // The newline is of the file format.
            if let Err(error) = socket.send(entry.trim_ascii_end()).await {
                let hopeless = is_too_large(&error);
                if hopeless {
                    self.socket = Some(socket);
                }
                return Err(Failure { sent, why: format!("{}:{}: {error}", self.host, self.port), hopeless });
            }
        }
        self.socket = Some(socket);
        Ok(())
    }
}

async fn open(host: &str, port: u16) -> std::io::Result<UdpSocket> {
    let mut last = std::io::Error::from(ErrorKind::NotFound);
    for address in tokio::net::lookup_host((host, port)).await? {
        let any: std::net::IpAddr = if address.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// EMSGSIZE: longer than a datagram can be.
fn is_too_large(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

/// The local syslog daemon's socket.
#[derive(Debug)]
pub(in crate::plugins) struct Syslog {
    pub path: PathBuf,
    pub timeout: Duration,
    pub socket: Option<UnixDatagram>,
}

impl Syslog {
    pub async fn send(&mut self, batch: &[Vec<u8>]) -> Result<(), Failure> {
        let why = |error: &std::io::Error| format!("{}: {error}", self.path.display());
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&self.path)?;
            Ok(socket)
        };
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect().map_err(|error| Failure::new(why(&error)))?,
        };
        for (sent, entry) in batch.iter().enumerate() {
            let sending = socket.send(entry.trim_ascii_end());
            let result = tokio::time::timeout(self.timeout, sending).await;
            if let Err(error) = result.unwrap_or(Err(ErrorKind::TimedOut.into())) {
                let hopeless = is_too_large(&error);
                let why = why(&error);
                if hopeless {
                    self.socket = Some(socket);
                }
                return Err(Failure { sent, why, hopeless });
            }
        }
        self.socket = Some(socket);
        Ok(())
    }
}
