//! Answers compressed for who asks for it. A body that many watchers share is compressed once.

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

use super::reply::Reply;

/// Shorter bodies are sent as they are, in bytes: Consul's limit.
const SHORTEST: usize = 1400;
/// Compressed bodies kept for those who are sent the same body next.
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub struct Compressor {
    /// Plain and compressed, the latest last.
    recent: Mutex<VecDeque<(Bytes, Bytes)>>,
}

impl Compressor {
    pub fn apply(&self, request: &HeaderMap, mut reply: Reply) -> Reply {
        if reply.body.len() < SHORTEST {
            return reply;
        }
        // a snapshot is compressed already, and large: it must not be kept here either
        let packed = reply.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/x-gzip");
        let encoded = packed || reply.headers.contains_key(header::CONTENT_ENCODING);
        if encoded || !wants_gzip(request) {
            return reply;
        }
        match self.compressed(&reply.body) {
            Ok(body) => {
                reply.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                reply.body = body;
            }
            Err(error) => tracing::warn!(%error, "cannot compress an answer; sent as it is"),
        }
        reply
    }

    fn compressed(&self, plain: &Bytes) -> std::io::Result<Bytes> {
        let same =
            |(known, _): &&(Bytes, Bytes)| known.as_ptr() == plain.as_ptr() && known.len() == plain.len();
        if let Some((_, body)) = self.recent.lock().iter().rev().find(same) {
            return Ok(body.clone());
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
        encoder.write_all(plain)?;
        let body = Bytes::from(encoder.finish()?);
        let mut recent = self.recent.lock();
        if recent.len() >= KEPT {
            recent.pop_front();
        }
        recent.push_back((plain.clone(), body.clone()));
        Ok(body)
    }
}

/// `gzip` among the accepted codings with a weight above zero (RFC 9110 section 12.5.3).
fn wants_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        named && weight.is_none_or(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn only_for_who_asks() {
        for (given, wanted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, given.parse().unwrap())]);
            assert_eq!(wants_gzip(&headers), wanted, "{given}");
        }
    }

    #[test]
    fn a_shared_body_is_compressed_once() {
        let compressor = Compressor::default();
        let plain = Bytes::from(b"abc".repeat(1000));
        let first = compressor.compressed(&plain).unwrap();
        let second = compressor.compressed(&plain.clone()).unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&first[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, plain);
        for size in 0..2 * KEPT {
            compressor.compressed(&Bytes::from(vec![b'x'; 2000 + size])).unwrap();
        }
        assert!(compressor.recent.lock().len() <= KEPT);
    }
}
