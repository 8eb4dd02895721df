//! The first byte is the size of the pieces in which the body comes. What is decoded does not depend on it, is never more
//! than was sent, and what is behind the end stays.
#![no_main]

mod client;

use bytes::BytesMut;
use client::chunked::{Decoder, Piece};
use http::HeaderMap;

/// The body, its trailers and how much is left; none: malformed, or not at its end.
fn decoded(bytes: &[u8], step: usize) -> Option<(Vec<u8>, HeaderMap, usize)> {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut pieces = bytes.chunks(step);
    loop {
        match decoder.next(&mut buffer).ok()? {
            Piece::Data(data) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Piece::Trailers(found) => trailers = found,
            Piece::End => {
                assert!(decoder.ended());
                return Some((body, trailers, buffer.len() + pieces.map(<[u8]>::len).sum::<usize>()));
            }
            Piece::More => buffer.extend_from_slice(pieces.next()?),
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let whole = decoded(bytes, bytes.len().max(1));
    let pieces = decoded(bytes, usize::from(*step).max(1));
    assert_eq!(whole, pieces);
    if let Some((body, _, left)) = whole {
        assert!(body.len() + left <= bytes.len());
    }
});
