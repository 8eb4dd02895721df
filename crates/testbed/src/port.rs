//! Ports for servers that cannot bind port 0 themselves.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

/// A loopback port that no other test process takes while this value lives: the claim is a locked file, so two test
/// processes that probe the same free port at the same time cannot both get it.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _claim: File,
}

impl PortLease {
    /// Below Linux's ephemeral range, so that outgoing connections of other tests do not collide with it.
    const RANGE: std::ops::Range<u16> = 20_100..32_000;

    pub fn take() -> Self {
        let folder = std::env::temp_dir().join("plinth-test-ports");
        std::fs::create_dir_all(&folder).expect("folder for port claims");
        let width = Self::RANGE.end - Self::RANGE.start;
        let start = fastrand::u16(0..width);
        for step in 0..width {
            let port = Self::RANGE.start + (start + step) % width;
            let claim = File::create(folder.join(port.to_string())).expect("port claim file");
            if rustix::fs::flock(&claim, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Self { port, _claim: claim };
            }
        }
        panic!("no free loopback port in {:?}", Self::RANGE)
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A port that is free right now. Prefer port 0 or a [`PortLease`]; this one may be taken by somebody else.
pub fn free_port() -> u16 {
    PortLease::take().port()
}
