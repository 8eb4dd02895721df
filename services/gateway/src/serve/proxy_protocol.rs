//! The PROXY protocol, versions 1 and 2, at the beginning of a connection (listener flag `proxy_protocol`): who the client
//! in front of a load balancer is. Source: haproxy's proxy-protocol.txt.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::tick;

const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, and how much of version 2 (addresses and extensions) is taken.
const V1_LIMIT: usize = 107;
const V2_LIMIT: usize = 4096;

/// What the beginning of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// More bytes are needed.
    More,
    /// A header of this many bytes; the client, if it names one.
    Done(usize, Option<SocketAddr>),
    /// No header.
    Bad,
}

/// Takes the header off the stream. `None`: the balancer speaks for itself (health checks) or hides the client.
///
/// # Errors
/// `InvalidData` without a proper header, `TimedOut` when it does not come; such connections are to be closed.
pub async fn take(stream: &mut TcpStream, limit: Duration) -> io::Result<Option<SocketAddr>> {
    let reading = async {
        let mut first = [0; V2_LIMIT];
        let mut seen = 0;
        loop {
            let here = stream.peek(&mut first).await?;
            match parse(&first[..here]) {
                Parsed::Done(length, client) => {
                    stream.read_exact(&mut first[..length]).await?;
                    return Ok(client);
                }
                Parsed::Bad => return Err(io::ErrorKind::InvalidData.into()),
                Parsed::More if here == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                // a header in pieces: rare enough to wait a tick for more
                Parsed::More if here == seen => tokio::time::sleep(tick::TICK).await,
                Parsed::More => seen = here,
            }
        }
    };
    // boxed: rare, and its buffer is larger than all else of a connection
    tick::within(limit, Box::pin(reading)).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(V2.len());
    if bytes[..common] == V2[..common] && common > 0 {
        return if common < V2.len() { Parsed::More } else { version_2(bytes) };
    }
    version_1(bytes)
}

fn version_1(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(6);
    if bytes[..common] != b"PROXY "[..common] {
        return Parsed::Bad;
    }
    let Some(end) = bytes.iter().take(V1_LIMIT).position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_LIMIT { Parsed::More } else { Parsed::Bad };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let Some(line) = line else { return Parsed::Bad };
    let fields: Vec<&str> = line.split(' ').collect();
    match fields.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Parsed::Done(end + 1, None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, port, other] => {
            let both =
                (source.parse::<IpAddr>(), destination.parse::<IpAddr>(), port.parse(), other.parse::<u16>());
            match both {
                (Ok(source), Ok(destination), Ok(port), Ok(_))
                    if source.is_ipv4() == (*family == "TCP4")
                        && destination.is_ipv4() == source.is_ipv4() =>
                {
                    Parsed::Done(end + 1, Some(SocketAddr::new(source, port)))
                }
                _ => Parsed::Bad,
            }
        }
        _ => Parsed::Bad,
    }
}

fn version_2(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.get(12..16) else { return Parsed::More };
    let length = 16 + usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[0] >> 4 != 2 || length > V2_LIMIT {
        return Parsed::Bad;
    }
    let Some(addresses) = bytes.get(16..length) else { return Parsed::More };
    let port = |at: usize| addresses.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let client = match (head[0] & 15, head[1]) {
        // LOCAL: the balancer itself
        (0, _) => None,
        // TCP over IPv4
        (1, 0x11) => {
            let ip = addresses.get(..4).and_then(|ip| <[u8; 4]>::try_from(ip).ok());
            match (ip, port(8)) {
                (Some(ip), Some(port)) => Some(SocketAddr::from((Ipv4Addr::from(ip), port))),
                _ => return Parsed::Bad,
            }
        }
        // TCP over IPv6
        (1, 0x21) => {
            let ip = addresses.get(..16).and_then(|ip| <[u8; 16]>::try_from(ip).ok());
            match (ip, port(32)) {
                (Some(ip), Some(port)) => Some(SocketAddr::from((Ipv6Addr::from(ip), port))),
                _ => return Parsed::Bad,
            }
        }
        // unspecified, datagrams, UNIX sockets
        (1, _) => None,
        _ => return Parsed::Bad,
    };
    Parsed::Done(length, client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [&V2[..], &[0x20 | command, family], &length, addresses].concat()
    }

    #[test]
    fn both_versions_are_read_at_any_split() {
        let v4 = [&[203, 0, 113, 9, 10, 0, 0, 1][..], &[0x1f, 0x90, 0, 80], &[3, 0, 4, 1, 2, 3, 4]].concat();
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0x1f, 0x90, 0, 80]].concat();
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 8080 80\r\n".to_vec(), Some("203.0.113.9:8080")),
            (b"PROXY TCP6 ::1 ::2 8080 80\r\n".to_vec(), Some("[::1]:8080")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN anything at all\r\n".to_vec(), None),
            (v2(1, 0x11, &v4), Some("203.0.113.9:8080")),
            (v2(1, 0x21, &v6), Some("[::1]:8080")),
            (v2(0, 0, &[]), None),
            (v2(1, 0x31, &[0; 216]), None),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            for cut in 1..header.len() {
                assert_eq!(parse(&header[..cut]), Parsed::More, "{header:?} cut at {cut}");
            }
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&followed), Parsed::Done(header.len(), client), "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 80\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n".to_vec(),
            format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)).into_bytes(),
            v2(1, 0x11, &[1, 2, 3]),
            v2(2, 0x11, &[0; 12]),
            v2(1, 0x11, &[0; 5000]),
        ] {
            assert_eq!(parse(&bytes), Parsed::Bad, "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            if let Parsed::Done(length, _) = parse(&bytes) {
                proptest::prop_assert!(length <= bytes.len());
            }
        }
    }
}
