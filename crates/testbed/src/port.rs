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
    pub fn take() -> Self {
        let folder = std::env::temp_dir().join("plinth-test-ports");
        std::fs::create_dir_all(&folder).expect("folder for port claims");
        let range = range();
        let width = range.end - range.start;
        let start = fastrand::u16(0..width);
        for step in 0..width {
            let port = range.start + (start + step) % width;
            let claim = File::create(folder.join(port.to_string())).expect("port claim file");
            if rustix::fs::flock(&claim, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Self { port, _claim: claim };
            }
        }
        panic!("no free loopback port in {range:?}")
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Outside of the ports that the kernel gives to outgoing connections and to listeners on port 0: a server that is killed
/// must find its port free when it comes back.
fn range() -> std::ops::Range<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    match (ends.next().unwrap_or(32_768), ends.next().unwrap_or(60_999)) {
        (first, _) if first >= 12_000 => (first.min(32_000) - 10_000).max(10_000)..first.min(32_000),
        (_, last) if last <= 63_000 => last + 1..u16::MAX,
        _ => 20_100..32_000,
    }
}

/// A port where nothing listens, kept from other tests until this process ends. Prefer port 0 or a [`PortLease`].
pub fn free_port() -> u16 {
    let lease = PortLease::take();
    let port = lease.port();
    std::mem::forget(lease);
    port
}
