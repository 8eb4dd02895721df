//! Chunked transfer coding of responses: an incremental, strict decoder without copying.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::error::Fault;
use super::head;

/// Longest chunk-size line (size, extensions), and longest trailer section.
const LINE_LIMIT: usize = 4 * 1024;
const TRAILER_LIMIT: usize = 16 * 1024;

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk-size line.
    Size,
    /// In a chunk's data, this many bytes left.
    Data(u64),
    /// At the line end after a chunk's data.
    DataEnd,
    /// In the trailer section.
    Trailers,
    /// Behind the last byte.
    End,
}

/// One decoded piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Body bytes, never empty.
    Data(Bytes),
    /// The trailer fields; then the end.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// More input is needed.
    More,
}

/// Decoder of one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size }
    }
}

impl Decoder {
    /// Takes the next piece off the front of `buffer`. Bytes behind the end stay in it.
    ///
    /// # Errors
    /// [`Fault::BadBody`] on anything that is not exactly the coding.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Fault> {
        loop {
            match self.state {
                State::Size => match line(buffer, LINE_LIMIT)? {
                    None => return Ok(Piece::More),
                    Some(text) => {
                        let size = chunk_size(&text)?;
                        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                    }
                },
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::More);
                    }
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - here as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Piece::Data(buffer.split_to(here).freeze()));
                }
                State::DataEnd => {
                    if buffer.len() < 2 {
                        return if buffer.first().is_some_and(|byte| *byte != b'\r') {
                            Err(Fault::BadBody("chunk longer than its size"))
                        } else {
                            Ok(Piece::More)
                        };
                    }
                    if &buffer[..2] != b"\r\n" {
                        return Err(Fault::BadBody("chunk longer than its size"));
                    }
                    buffer.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => return self.trailers(buffer),
                State::End => return Ok(Piece::End),
            }
        }
    }

    /// The trailer section is parsed when it is there in full.
    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Piece, Fault> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.state = State::End;
            return Ok(Piece::End);
        }
        let end = buffer.windows(4).position(|four| four == b"\r\n\r\n");
        // the same limit whether the section comes whole or in pieces
        if end.unwrap_or(buffer.len()) > TRAILER_LIMIT {
            return Err(Fault::BadBody("trailers too large"));
        }
        let Some(end) = end else { return Ok(Piece::More) };
        let section = buffer.split_to(end + 2);
        buffer.advance(2);
        self.state = State::End;
        Ok(Piece::Trailers(head::trailers(section)?))
    }

    /// The whole body was decoded.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.state == State::End
    }
}

/// Takes a line ended by CRLF; a bare LF is refused.
fn line(buffer: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, Fault> {
    match buffer.iter().position(|byte| *byte == b'\n') {
        None if buffer.len() > limit => Err(Fault::BadBody("chunk-size line too long")),
        None => Ok(None),
        Some(at) if at > limit => Err(Fault::BadBody("chunk-size line too long")),
        Some(at) => {
            let mut text = buffer.split_to(at + 1);
            if !text.ends_with(b"\r\n") {
                return Err(Fault::BadBody("line without carriage return"));
            }
            text.truncate(at - 1);
            Ok(Some(text))
        }
    }
}

/// `1*HEXDIG [ ; extensions ]`
fn chunk_size(text: &[u8]) -> Result<u64, Fault> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = text[digits..].trim_ascii_start();
    if digits == 0 || digits > 16 || !(rest.is_empty() || rest.starts_with(b";")) || rest.contains(&b'\r') {
        return Err(Fault::BadBody("bad chunk size"));
    }
    std::str::from_utf8(&text[..digits])
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(Fault::BadBody("bad chunk size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in steps of `step` bytes.
    fn decode(text: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Fault> {
        let mut decoder = Decoder::default();
        let (mut buffer, mut body, mut trailers) = (BytesMut::new(), Vec::new(), None);
        let mut input = text.chunks(step);
        loop {
            match decoder.next(&mut buffer)? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::Trailers(found) => trailers = Some(found),
                Piece::End => {
                    return Ok((body, trailers, buffer.len() + input.map(<[u8]>::len).sum::<usize>()));
                }
                Piece::More => match input.next() {
                    Some(more) => buffer.extend_from_slice(more),
                    None => return Err(Fault::Closed),
                },
            }
        }
    }

    #[test]
    fn decodes_at_any_split() {
        let text = b"4\r\nWiki\r\n5;a=b\r\npedia\r\nE \r\n in\r\n\r\nchunks.\r\n0\r\nx-sum: 1\r\n\r\nNEXT";
        for step in 1..text.len() {
            let (body, trailers, rest) = decode(text, step).unwrap();
            assert_eq!(body, b"Wikipedia in\r\n\r\nchunks.", "step {step}");
            assert_eq!(trailers.unwrap()["x-sum"], "1");
            assert_eq!(rest, 4, "step {step}");
        }
    }

    #[test]
    fn an_empty_body_ends_at_once() {
        assert_eq!(decode(b"0\r\n\r\n", 1).unwrap().0, b"");
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for text in [
            &b"4\nWiki\n0\n\n"[..],
            b"\r\nWiki\r\n",
            b"-4\r\nWiki\r\n",
            b"0x4\r\nWiki\r\n",
            b"4 4\r\nWiki\r\n",
            b"11111111111111111\r\n",
            b"4\r\nWikipedia\r\n0\r\n\r\n",
            b"4\r\nWikiX",
            b"0\r\ncontent-length: 4\r\n\r\n",
            b"0\r\nbad trailer\r\n\r\n",
        ] {
            assert!(
                matches!(decode(text, 1), Err(Fault::BadBody(_))),
                "accepted {:?}",
                String::from_utf8_lossy(text)
            );
        }
        let long = [b"4;".as_slice(), &[b'a'; 5000]].concat();
        assert!(matches!(decode(&long, 7), Err(Fault::BadBody(_))));
        let trailers = [b"0\r\nx: ".as_slice(), &[b'a'; TRAILER_LIMIT], b"\r\n\r\n"].concat();
        for step in [7, trailers.len()] {
            assert!(matches!(decode(&trailers, step), Err(Fault::BadBody(_))), "in steps of {step}");
        }
    }

    #[test]
    fn a_body_that_stops_short_is_not_complete() {
        for text in [
            &b"4\r\nWi"[..],
            b"4\r\nWiki",
            b"4\r\nWiki\r\n",
            b"4\r\nWiki\r\n0\r\n",
            b"4\r\nWiki\r\n0\r\nx: y\r\n",
        ] {
            assert!(matches!(decode(text, 3), Err(Fault::Closed)));
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_never_invents_bytes(text: Vec<u8>, step in 1_usize..20) {
            if let Ok((body, _, _)) = decode(&text, step) {
                proptest::prop_assert!(body.len() <= text.len());
            }
        }
    }
}
