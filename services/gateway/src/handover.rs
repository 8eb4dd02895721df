//! A running gateway hands its listeners to the one that takes its place, so that an upgrade loses no request.
//!
//! On SIGUSR2 the gateway starts its own program again, with the same arguments and environment, and passes the sockets it
//! listens on over a Unix socket that is the new process's standard input. Both accept from then on; when the new one is
//! ready it says so, and the old one closes its listeners and finishes what it has. A new one that ends or does not get
//! ready in time changes nothing. Sockets of systemd (`LISTEN_FDS`) are taken over in the same way.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plinth_kit::lifecycle::{Shutdown, Stage};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::metrics::Metrics;

/// Says to a new process that its standard input is a socket with listeners.
const VARIABLE: &str = "PLINTH_HANDOVER";
const STDIN: &str = "stdin";
/// The sockets are sent before the new process runs: it never waits this long.
const RECEIVE_LIMIT: Duration = Duration::from_secs(10);
/// The first descriptor systemd passes.
const FIRST_FD: i32 = 3;
/// Linux passes 253 at once.
const MOST: usize = 250;
const READY: &[u8] = b"ready\n";

/// Listeners could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The signal cannot be listened for.
    #[error("SIGUSR2 cannot be listened for")]
    Signal(#[source] io::Error),
    /// What the old process sent, or the system's answer to it.
    #[error("the listeners of the process before cannot be taken over")]
    Receive(#[source] io::Error),
    /// A listener cannot be copied for the next process.
    #[error("a listener cannot be kept for the next process")]
    Copy(#[source] io::Error),
    /// systemd's descriptors.
    #[error("the sockets of LISTEN_FDS cannot be taken over")]
    Activation(#[source] io::Error),
}

/// What goes along with the sockets: whose they are, in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    listeners: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The address as it is in the settings: port 0 stays port 0.
    address: SocketAddr,
    sockets: usize,
}

/// Sockets this process was started with, until they are asked for.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Mutex<Vec<(Option<SocketAddr>, Vec<TcpListener>)>>,
    /// The process before, which waits for this one to get ready.
    before: Mutex<Option<UnixStream>>,
}

impl Inherited {
    /// What the environment says there is: nothing, usually.
    ///
    /// # Errors
    /// Sockets that were announced and cannot be had.
    pub fn receive() -> Result<Self, HandoverError> {
        if std::env::var_os(VARIABLE).is_some_and(|value| value == STDIN) {
            return from_before().map_err(HandoverError::Receive);
        }
        let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
        let ours = number("LISTEN_PID") == Some(getpid().as_raw_nonzero().get());
        match number("LISTEN_FDS").filter(|_| ours) {
            Some(count) => activated(count).map_err(HandoverError::Activation),
            None => Ok(Self::default()),
        }
    }

    /// The sockets for an address of the settings; none when it has to be bound.
    pub fn take(&self, address: SocketAddr) -> Vec<TcpListener> {
        let mut all = self.sockets.lock();
        let bound_to = |sockets: &[TcpListener]| {
            sockets.first().and_then(|socket| socket.local_addr().ok()) == Some(address)
        };
        let place = all
            .iter()
            .position(|(of, _)| *of == Some(address))
            .or_else(|| all.iter().position(|(_, sockets)| bound_to(sockets)));
        place.map(|place| all.remove(place).1).unwrap_or_default()
    }

    /// Nobody asked for these: the settings have changed.
    pub fn close_rest(&self) {
        for (_, sockets) in self.sockets.lock().drain(..) {
            for socket in sockets {
                let address = socket.local_addr().map(|address| address.to_string()).unwrap_or_default();
                tracing::warn!(address, "a listener was handed over that the settings do not have");
            }
        }
    }

    /// Tells the process before that it may go.
    pub fn ready(&self) {
        let Some(mut before) = self.before.lock().take() else { return };
        match before.write_all(READY) {
            Ok(()) => tracing::info!("took over from the process before"),
            Err(error) => tracing::warn!(%error, "the process before is gone already"),
        }
    }
}

fn from_before() -> io::Result<Inherited> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_read_timeout(Some(RECEIVE_LIMIT))?;
    let mut text = Vec::new();
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    while !text.ends_with(b"\n") {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&bytes[..received.bytes]);
    }
    let manifest: Manifest = serde_json::from_slice(&text)?;
    let mut descriptors = descriptors.into_iter();
    let mut sockets = Vec::new();
    for Entry { address, sockets: count } in manifest.listeners {
        let own: Vec<TcpListener> = descriptors.by_ref().take(count).map(TcpListener::from).collect();
        if own.len() < count {
            return Err(io::Error::other(format!("the sockets of {address} are missing")));
        }
        sockets.push((Some(address), own));
    }
    Ok(Inherited { sockets: Mutex::new(sockets), before: Mutex::new(Some(stream)) })
}

/// A descriptor that is there as a number only is taken from this very process as if from another: it arrives owned.
fn activated(count: i32) -> io::Result<Inherited> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut sockets = Vec::new();
    for descriptor in FIRST_FD..FIRST_FD.saturating_add(count) {
        let socket = TcpListener::from(pidfd_getfd(&own, descriptor, PidfdGetfdFlags::empty())?);
        socket.set_nonblocking(true)?;
        sockets.push((None, vec![socket]));
    }
    Ok(Inherited { sockets: Mutex::new(sockets), before: Mutex::default() })
}

/// Copies of this process's listeners, for the next one.
#[derive(Debug, Default)]
pub struct Listeners(Vec<(SocketAddr, Vec<OwnedFd>)>);

impl Listeners {
    /// Copies the sockets of an address of the settings.
    ///
    /// # Errors
    /// The system's: no descriptors left.
    pub fn add<S: AsFd>(&mut self, address: SocketAddr, sockets: &[S]) -> io::Result<()> {
        let copies = sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned());
        self.0.push((address, copies.collect::<Result<_, _>>()?));
        Ok(())
    }

    fn send(&self, to: &UnixStream) -> io::Result<()> {
        let listeners =
            self.0.iter().map(|(address, sockets)| Entry { address: *address, sockets: sockets.len() });
        let mut text = serde_json::to_vec(&Manifest { listeners: listeners.collect() })?;
        text.push(b'\n');
        let descriptors: Vec<_> = self.0.iter().flat_map(|(_, sockets)| sockets).map(AsFd::as_fd).collect();
        if descriptors.len() > MOST {
            return Err(io::Error::other(format!("more than {MOST} sockets cannot be handed over")));
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("the sockets do not fit into one message"));
        }
        let sent = sendmsg(to, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
        (&*to).write_all(text.get(sent..).unwrap_or_default())
    }
}

/// SIGUSR2. From now on it no longer ends the process.
///
/// # Errors
/// When the signal cannot be listened for.
pub fn asked() -> Result<Signal, HandoverError> {
    signal(SignalKind::user_defined2()).map_err(HandoverError::Signal)
}

/// Waits for SIGUSR2 and hands over; a hand-over that fails changes nothing. Ends when the process is to stop, and with it
/// the copies of its listeners: as long as there are any, clients wait in their queues.
pub async fn run(
    listeners: Listeners,
    mut asked: Signal,
    limit: Duration,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let mut listeners = Some(listeners);
    loop {
        tokio::select! {
            () = shutdown.stopping() => return,
            _ = asked.recv() => {}
        }
        let Some(sockets) = listeners.take() else { return };
        tracing::info!("starting the process that takes over");
        let stopping = shutdown.clone();
        let attempt = tokio::task::spawn_blocking(move || {
            let outcome = start_next(&sockets, limit, &stopping);
            (sockets, outcome)
        });
        let outcome = match attempt.await {
            Ok((sockets, outcome)) => {
                listeners = Some(sockets);
                outcome
            }
            Err(error) => Err(io::Error::other(error)),
        };
        let result = if outcome.is_ok() { "completed" } else { "failed" };
        metrics.handovers.with_label_values(&[result]).inc();
        match outcome {
            Ok(process) => {
                tracing::info!(process, "the new process is ready; this one finishes what it has and ends");
                drop(listeners.take());
                tell_systemd(process);
                shutdown.hand_over();
                return;
            }
            Err(error) => tracing::error!(%error, "the hand-over failed; this process goes on"),
        }
    }
}

/// Starts the program again and waits until it is ready. Gives its number.
fn start_next(listeners: &Listeners, limit: Duration, shutdown: &Shutdown) -> io::Result<u32> {
    // by the name it was started with: the file may have been replaced since
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("gateway"));
    let (ours, theirs) = UnixStream::pair()?;
    listeners.send(&ours)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env(VARIABLE, STDIN)
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    match wait_ready(ours, &mut child, limit, shutdown) {
        Ok(()) => Ok(child.id()),
        Err(error) => {
            let _gone_already = child.kill();
            let status = child.wait()?;
            Err(io::Error::new(error.kind(), format!("{error} ({status})")))
        }
    }
}

fn wait_ready(
    mut from: UnixStream,
    child: &mut Child,
    limit: Duration,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let end = Instant::now() + limit;
    from.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut word = Vec::new();
    let mut bytes = [0; READY.len()];
    while word != READY {
        match from.read(&mut bytes) {
            Ok(0) => return Err(io::Error::other("the new process ended before it was ready")),
            Ok(length) => word.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("the new process ended: {status}")));
        }
        if shutdown.stage() != Stage::Running {
            return Err(io::Error::other("this process is to stop"));
        }
        if Instant::now() > end && word != READY {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the new process did not get ready in time"));
        }
    }
    Ok(())
}

/// A supervisor that follows the main process (systemd, `Type=notify`) is told which one it is from now on.
fn tell_systemd(process: u32) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name),
        None => std::os::unix::net::SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| {
        UnixDatagram::unbound()?.send_to_addr(format!("MAINPID={process}\nREADY=1").as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "systemd could not be told the new main process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_are_found_by_the_settings_address_or_their_own() {
        let (any, other) = (listener(), listener());
        let (any_is, other_is) = (any.local_addr().unwrap(), other.local_addr().unwrap());
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let sockets = Mutex::new(vec![(Some(free), vec![any]), (None, vec![other])]);
        let inherited = Inherited { sockets, ..Inherited::default() };
        assert_eq!(inherited.take(other_is)[0].local_addr().unwrap(), other_is);
        assert!(inherited.take(other_is).is_empty(), "it is taken");
        assert_eq!(inherited.take(free)[0].local_addr().unwrap(), any_is);
        assert!(inherited.take(free).is_empty());
    }

    #[test]
    fn copies_keep_listening() {
        let one = listener();
        let address = one.local_addr().unwrap();
        let mut listeners = Listeners::default();
        listeners.add(address, &[one]).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        listeners.send(&ours).unwrap();
        std::net::TcpStream::connect(address).unwrap();
        drop(listeners);
        drop(theirs);
    }
}
