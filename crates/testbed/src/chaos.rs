//! A TCP proxy that misbehaves on demand.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::PortLease;

/// What happens to connections. A change takes effect on open connections as well as on new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is passed on.
    Pass,
    /// Nothing listens: connections are refused, open ones are reset.
    Refuse,
    /// Connections are accepted and reset at once, open ones too.
    Reset,
    /// Connections are accepted, bytes are taken and never passed on, ends are not reported: a half-open peer.
    BlackHole,
    /// Each chunk waits this long in each direction.
    Latency(Duration),
    /// Each connection is reset after so many bytes of the answer.
    ResetAfter(usize),
    /// The first bytes of each request are answered with `500 Internal Server Error`.
    Status500,
}

pub struct Proxy {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    /// Nobody else gets the port while [`Mode::Refuse`] has it closed.
    _lease: PortLease,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let lease = PortLease::take();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, lease.port()));
        let listener = bind(addr).await;
        let (mode, changes) = watch::channel(Mode::Pass);
        let accepted = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, target, changes, accepted.clone()));
        Self { addr, mode, accepted, task, _lease: lease }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    accepted: Arc<AtomicUsize>,
) {
    let addr = listener.local_addr().expect("bound address");
    let mut listener = Some(listener);
    loop {
        let now = *mode.borrow_and_update();
        match (now, &listener) {
            (Mode::Refuse, _) => {
                listener = None;
                if mode.changed().await.is_err() {
                    return;
                }
            }
            (_, None) => listener = Some(bind(addr).await),
            (_, Some(open)) => tokio::select! {
                changed = mode.changed() => if changed.is_err() { return },
                connection = open.accept() => if let Ok((client, _)) = connection {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve(client, target, mode.clone()));
                },
            },
        }
    }
}

async fn bind(addr: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(addr).expect("the proxy's own port");
    socket.listen(1024).expect("listen")
}

async fn serve(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>) {
    if matches!(*mode.borrow(), Mode::Reset | Mode::Refuse) {
        reset(&client);
        return;
    }
    let now = *mode.borrow();
    let server = match now {
        Mode::BlackHole | Mode::Status500 => None,
        _ => TcpStream::connect(target).await.ok(),
    };
    match server {
        Some(server) => relay(client, server, mode).await,
        None => alone(client, target, mode).await,
    }
}

/// A connection without a server behind it: swallows or answers 500 until the mode allows to connect.
async fn alone(mut client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let mut held = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Reset | Mode::Refuse => return reset(&client),
            Mode::BlackHole | Mode::Status500 => {}
            _ if held.is_empty() => match TcpStream::connect(target).await {
                Ok(server) => return relay(client, server, mode).await,
                Err(_) => return reset(&client),
            },
            // Bytes were swallowed: this connection can never be whole again.
            _ => return reset(&client),
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            read = client.read(&mut buffer) => match read {
                Ok(0) | Err(_) if now == Mode::BlackHole => { let _sender_gone = mode.changed().await; }
                Ok(0) | Err(_) => return,
                Ok(_) if now == Mode::Status500 => {
                    let answer = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 5\r\n\r\nchaos";
                    if client.write_all(answer).await.is_err() { return }
                }
                Ok(count) => held.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

async fn relay(client: TcpStream, server: TcpStream, mode: watch::Receiver<Mode>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let outcome = {
        let up = copy(&mut from_client, &mut to_server, mode.clone(), false);
        let down = copy(&mut from_server, &mut to_client, mode, true);
        tokio::pin!(up, down);
        tokio::select! {
            outcome = &mut up => match outcome {
                // A half-closed client may still wait for its answer.
                Outcome::Ended => down.await,
                Outcome::Reset => Outcome::Reset,
            },
            outcome = &mut down => outcome,
        }
    };
    if let (Outcome::Reset, Ok(client)) = (outcome, from_client.reunite(to_client)) {
        reset(&client);
    }
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Ended,
    Reset,
}

async fn copy(
    from: &mut tcp::OwnedReadHalf,
    to: &mut tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    answer: bool,
) -> Outcome {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        let now = *mode.borrow_and_update();
        if matches!(now, Mode::Reset | Mode::Refuse | Mode::Status500) {
            return Outcome::Reset;
        }
        let count = tokio::select! {
            changed = mode.changed() => match changed { Ok(()) => continue, Err(_) => return Outcome::Ended },
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        match now {
            Mode::BlackHole => {
                if count == 0 && mode.changed().await.is_err() {
                    return Outcome::Ended;
                }
                continue;
            }
            Mode::Latency(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        if count == 0 {
            let _peer_gone = to.shutdown().await;
            return Outcome::Ended;
        }
        let allowed = match now {
            Mode::ResetAfter(limit) if answer => count.min(limit.saturating_sub(passed)),
            _ => count,
        };
        if to.write_all(&buffer[..allowed]).await.is_err() {
            return Outcome::Ended;
        }
        passed += allowed;
        if allowed < count {
            return Outcome::Reset;
        }
    }
}

/// Closing with a zero linger time sends RST instead of FIN.
fn reset(stream: &TcpStream) {
    let _already_closed = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
