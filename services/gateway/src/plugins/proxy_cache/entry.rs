//! A kept answer, and its form in Redis.

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};

/// Changes with the form below; others are not read.
const VERSION: &str = "1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Seconds since 1970.
    pub stored_at: u64,
    /// Seconds it is fresh.
    pub ttl: u64,
}

/// About one exchange or one client, not about the answer.
fn passing(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.contains("ratelimit")
        || name.starts_with("x-kong-")
        || matches!(
            name,
            "age"
                | "connection"
                | "content-length"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "trailers"
                | "transfer-encoding"
                | "upgrade"
                | "via"
                | "x-cache-key"
                | "x-cache-status"
        )
}

impl Entry {
    /// Without its body, which follows.
    pub fn new(head: &response::Parts, stored_at: u64, ttl: u64) -> Entry {
        let mut headers = HeaderMap::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            if !passing(name) {
                // Values point into a buffer of the connection; a copy does not keep that alive.
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
                headers.append(name.clone(), value);
            }
        }
        Entry { status: head.status, headers, body: Bytes::new(), stored_at, ttl }
    }

    /// Memory it takes, about.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        self.body.len() + headers + 256
    }

    /// A line about the answer, lines for its headers, an empty line, the body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        // Writing to memory does not fail.
        let _ = write!(out, "{VERSION} {} {} {}\r\n", self.status.as_u16(), self.stored_at, self.ttl);
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    pub fn decode(bytes: Bytes) -> Option<Entry> {
        let mut at = 0;
        let mut line = || {
            let rest = bytes.get(at..)?;
            let end = memchr::memmem::find(rest, b"\r\n")?;
            at += end + 2;
            rest.get(..end)
        };
        let mut first = std::str::from_utf8(line()?).ok()?.split(' ');
        if first.next()? != VERSION {
            return None;
        }
        let status = StatusCode::from_u16(first.next()?.parse().ok()?).ok()?;
        let stored_at = first.next()?.parse().ok()?;
        let ttl = first.next()?.parse().ok()?;
        let mut headers = HeaderMap::new();
        loop {
            let line = line()?;
            if line.is_empty() {
                break;
            }
            let colon = memchr::memmem::find(line, b": ")?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            headers.append(name, HeaderValue::from_bytes(&line[colon + 2..]).ok()?);
        }
        Some(Entry { status, headers, body: bytes.slice(at..), stored_at, ttl })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            names in prop::collection::vec(("[a-z-]{1,8}", "[ -~]{0,12}"), 0..5), body in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &names {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            let entry = Entry { status: StatusCode::NOT_FOUND, headers, body: body.into(), stored_at: 17, ttl: 4 };
            prop_assert_eq!(Entry::decode(entry.encode().into()), Some(entry));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in "1 200 1 1\r\n[a: \r\n]{0,20}") {
            let _ = Entry::decode(bytes.into());
            let _ = Entry::decode(Bytes::from(cut));
        }
    }
}
