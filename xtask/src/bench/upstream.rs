//! The cheapest upstream there is: one thread, epoll, a canned answer. Cheaper than nginx, so that the proxy under
//! test is the limit.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::process::Failed;

const BODY: usize = 1024;
const LISTENER: u64 = u64::MAX;

/// Serves until it is ended. Requests have no body; each ends with an empty line.
pub fn serve(address: SocketAddr) -> Result<(), Failed> {
    let fault = |error: &dyn std::fmt::Display| Failed(format!("upstream on {address}: {error}"));
    let listener = TcpListener::bind(address).map_err(|error| fault(&error))?;
    listener.set_nonblocking(true).map_err(|error| fault(&error))?;
    let poll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| fault(&error))?;
    epoll::add(&poll, listener.as_fd(), EventData::new_u64(LISTENER), EventFlags::IN)
        .map_err(|error| fault(&error))?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nServer: up\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n{}",
        "x".repeat(BODY)
    );
    let (mut connections, mut next) = (HashMap::new(), 0_u64);
    let mut events = Vec::with_capacity(256);
    loop {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)
            .map_err(|error| fault(&error))?;
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        stream
                            .set_nonblocking(true)
                            .and_then(|()| stream.set_nodelay(true))
                            .map_err(|error| fault(&error))?;
                        epoll::add(&poll, stream.as_fd(), EventData::new_u64(next), EventFlags::IN)
                            .map_err(|error| fault(&error))?;
                        connections.insert(next, stream);
                        next += 1;
                    }
                }
                id => {
                    if connections.get_mut(&id).is_some_and(|stream| !exchange(stream, answer.as_bytes())) {
                        connections.remove(&id);
                    }
                }
            }
        }
    }
}

/// False when the connection is over.
fn exchange(stream: &mut TcpStream, answer: &[u8]) -> bool {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            let requests = buffer[..count].windows(4).filter(|window| *window == b"\r\n\r\n").count();
            (0..requests).all(|_| stream.write_all(answer).is_ok())
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
