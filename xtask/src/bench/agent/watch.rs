//! Many blocking queries from one thread: connects, asks, takes the time of every answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType};

use crate::process::Failed;

/// Connections of one client address: fewer than it has ephemeral ports.
const PER_ADDRESS: usize = 10_000;
/// How long one round may take.
const LONGEST: Duration = Duration::from_secs(60);

struct Watcher {
    stream: TcpStream,
    answer: Vec<u8>,
    index: u64,
}

/// Connections that all block on the same path.
pub struct Crowd {
    poll: std::os::fd::OwnedFd,
    watchers: Vec<Watcher>,
    path: String,
    address: SocketAddr,
}

/// When the answers of one round came, after the moment given.
pub struct Round {
    /// Milliseconds, sorted.
    pub after: Vec<f64>,
}

impl Round {
    pub fn at(&self, share: f64) -> f64 {
        let last = self.after.len().saturating_sub(1);
        self.after.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    }
}

impl Crowd {
    /// `count` connections that have all had one answer and now wait for the next.
    pub fn gather(address: SocketAddr, path: &str, count: usize) -> Result<Self, Failed> {
        let fault = |error: &dyn std::fmt::Display| Failed(format!("watchers of {path}: {error}"));
        let poll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| fault(&error))?;
        let mut crowd = Self { poll, watchers: Vec::new(), path: path.to_owned(), address };
        for number in 0..count {
            let stream = connect(address, number / PER_ADDRESS).map_err(|error| fault(&error))?;
            epoll::add(&crowd.poll, stream.as_fd(), EventData::new_u64(number as u64), EventFlags::IN)
                .map_err(|error| fault(&error))?;
            crowd.watchers.push(Watcher { stream, answer: Vec::new(), index: 0 });
        }
        // The first question does not block; a few at a time, as the server accepts and answers.
        for from in (0..count).step_by(256) {
            let these = from..count.min(from + 256);
            crowd.ask(these.clone())?;
            crowd.take(Instant::now(), these.len())?;
        }
        crowd.ask(0..count)?;
        Ok(crowd)
    }

    fn ask(&mut self, which: std::ops::Range<usize>) -> Result<(), Failed> {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        for watcher in &mut self.watchers[which] {
            let request = format!(
                "GET {}{joint}index={}&wait=10m HTTP/1.1\r\nhost: {}\r\n\r\n",
                self.path, watcher.index, self.address
            );
            watcher.answer.clear();
            watcher
                .stream
                .write_all(request.as_bytes())
                .map_err(|error| Failed(format!("watcher: {error}")))?;
        }
        Ok(())
    }

    /// Waits for everybody's answer to what was changed at `since`, then lets all ask again.
    pub fn round(&mut self, since: Instant) -> Result<Round, Failed> {
        let after = self.take(since, self.watchers.len())?;
        self.ask(0..self.watchers.len())?;
        Ok(Round { after })
    }

    fn take(&mut self, since: Instant, count: usize) -> Result<Vec<f64>, Failed> {
        let end = Instant::now() + LONGEST;
        let mut after = Vec::with_capacity(count);
        let mut events = Vec::with_capacity(1024);
        let patience = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        while after.len() < count {
            if Instant::now() > end {
                let missing = count - after.len();
                return Err(Failed(format!(
                    "{missing} of {count} watchers had no answer within {LONGEST:?}"
                )));
            }
            events.clear();
            epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&patience))
                .map_err(|error| Failed(format!("watchers: {error}")))?;
            for event in events.drain(..) {
                if self.watchers[event.data.u64() as usize].read()? {
                    after.push(since.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        after.sort_by(f64::total_cmp);
        Ok(after)
    }
}

fn connect(address: SocketAddr, nth: usize) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let own = Ipv4Addr::new(127, 0, 0, 2 + nth as u8);
    rustix::net::bind(&socket, &SocketAddr::V4(SocketAddrV4::new(own, 0)))?;
    rustix::net::connect(&socket, &address)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Watcher {
    /// True once the answer is whole; its index is the next question's.
    fn read(&mut self) -> Result<bool, Failed> {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Failed("a watcher's connection was closed".into())),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(Failed(format!("watcher: {error}"))),
            }
        }
        let Some(head) = self.answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(false);
        };
        let text = String::from_utf8_lossy(&self.answer[..head]).to_ascii_lowercase();
        let header = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        let whole = match header("content-length:").and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => self.answer.len() >= head + 4 + length,
            None => self.answer.ends_with(b"\r\n0\r\n\r\n"),
        };
        if whole {
            let index = header("x-consul-index:").and_then(|index| index.parse().ok());
            self.index = index.ok_or_else(|| Failed(format!("an answer without an index: {text}")))?;
        }
        Ok(whole)
    }
}
