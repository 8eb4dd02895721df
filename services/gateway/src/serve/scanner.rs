//! Looks over the bytes of an HTTP/1 client connection beside hyper, for what hyper takes and a strict server refuses: bare
//! line feeds, continued lines, `Content-Length` beside `Transfer-Encoding` or twice, codings other than `chunked`.
//!
//! It never changes what hyper reads. It numbers the heads it sees, so that the request whose head was doubtful is the
//! one that is refused, and gives up on a connection after that: nothing behind a doubtful head can be trusted.

/// Longest part of a line kept when it comes in pieces; longer lines are no framing headers.
const KEEP: usize = 256;

/// Where in the stream the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a request line or header line.
    Head,
    /// In a body, this many bytes left.
    Body(u64),
    /// In a chunk-size line.
    ChunkSize,
    /// In a chunk and the line end behind it.
    Chunk(u64),
    /// In the trailer section.
    Trailers,
    /// Behind something doubtful.
    Lost,
}

/// What one head said about its body.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    lines: u32,
    length: Option<u64>,
    chunked: bool,
}

/// Follows one connection's requests.
#[derive(Debug)]
pub struct Scanner {
    at: At,
    framing: Framing,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// Bytes of the present line so far, kept or not.
    line_bytes: usize,
    /// The last of them.
    last: u8,
    request_line: usize,
    heads: u64,
    doubtful: Option<u64>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            at: At::Head,
            framing: Framing::default(),
            begun: Vec::new(),
            line_bytes: 0,
            last: 0,
            request_line: 0,
            heads: 0,
            doubtful: None,
        }
    }
}

impl Scanner {
    /// Complete heads seen.
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Number of the head, counted from 0, that must not be served, nor anything behind it.
    #[must_use]
    pub fn doubtful(&self) -> Option<u64> {
        self.doubtful
    }

    /// A head has begun and not ended.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.at == At::Head && (self.framing.lines > 0 || self.line_bytes > 0)
    }

    /// Bytes of the request line of the present head, or of the last one between heads.
    #[must_use]
    pub fn request_line(&self) -> usize {
        if self.at == At::Head && self.framing.lines == 0 && self.line_bytes > 0 {
            self.line_bytes
        } else {
            self.request_line
        }
    }

    /// Takes the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Lost => return,
                At::Body(left) | At::Chunk(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= here as u64;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.at = if matches!(self.at, At::Chunk(_)) { At::ChunkSize } else { At::Head };
                    }
                }
                At::Head | At::ChunkSize | At::Trailers => match memchr::memchr(b'\n', bytes) {
                    None => {
                        self.keep(bytes);
                        return;
                    }
                    Some(end) => {
                        let (line, rest) = bytes.split_at(end + 1);
                        bytes = rest;
                        self.end_line(line);
                    }
                },
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEEP.saturating_sub(self.begun.len()).min(bytes.len());
        self.begun.extend_from_slice(&bytes[..room]);
        self.line_bytes += bytes.len();
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// `end` is the end of a line, its line feed included.
    fn end_line(&mut self, end: &[u8]) {
        if self.at == At::Head && self.framing.lines == 0 {
            self.request_line = self.line_bytes + end.len();
        }
        let before = if end.len() > 1 { end[end.len() - 2] } else { self.last };
        let taken = if before != b'\r' {
            None
        } else if self.line_bytes == 0 {
            self.line(end)
        } else {
            self.keep(end);
            let whole = std::mem::take(&mut self.begun);
            let taken = self.line(&whole);
            self.begun = whole;
            self.begun.clear();
            taken
        };
        (self.line_bytes, self.last) = (0, 0);
        if taken.is_none() {
            self.at = At::Lost;
            self.doubtful = Some(self.doubtful.unwrap_or(self.heads));
        }
    }

    /// A whole line; `None` when it is doubtful.
    fn line(&mut self, line: &[u8]) -> Option<()> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match self.at {
            At::Head => self.head_line(text),
            At::ChunkSize => {
                let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = std::str::from_utf8(&text[..digits]).ok()?;
                let size = u64::from_str_radix(size, 16).ok()?;
                // the line end behind the data goes with it
                self.at = if size == 0 { At::Trailers } else { At::Chunk(size.checked_add(2)?) };
                Some(())
            }
            At::Trailers => {
                if text.is_empty() {
                    self.at = At::Head;
                }
                Some(())
            }
            At::Body(_) | At::Chunk(_) | At::Lost => Some(()),
        }
    }

    fn head_line(&mut self, text: &[u8]) -> Option<()> {
        if text.is_empty() {
            // an empty line before a request is nothing
            return if self.framing.lines == 0 { Some(()) } else { self.end_head() };
        }
        self.framing.lines += 1;
        if self.framing.lines == 1 {
            return Some(());
        }
        match text[0] {
            b' ' | b'\t' => None,
            b'c' | b'C' => match named(text, b"content-length") {
                None => Some(()),
                Some(value) if self.framing.length.is_none() => {
                    self.framing.length = Some(digits(value)?);
                    Some(())
                }
                Some(_) => None,
            },
            b't' | b'T' => match named(text, b"transfer-encoding") {
                None => Some(()),
                Some(value) if value.eq_ignore_ascii_case(b"chunked") && !self.framing.chunked => {
                    self.framing.chunked = true;
                    Some(())
                }
                Some(_) => None,
            },
            _ => Some(()),
        }
    }

    fn end_head(&mut self) -> Option<()> {
        let Framing { length, chunked, .. } = std::mem::take(&mut self.framing);
        if chunked && length.is_some() {
            self.doubtful = Some(self.heads);
        }
        self.heads += 1;
        self.at = match (chunked, length) {
            (true, Some(_)) => At::Lost,
            (true, None) => At::ChunkSize,
            (false, Some(length)) if length > 0 => At::Body(length),
            (false, _) => At::Head,
        };
        Some(())
    }
}

/// The value when the line has this name.
fn named<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// ASCII digits and nothing else.
fn digits(text: &[u8]) -> Option<u64> {
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| all)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads seen and the doubtful one, the bytes coming in steps of `step`.
    fn scan(text: &[u8], step: usize) -> (u64, Option<u64>) {
        let mut scanner = Scanner::default();
        text.chunks(step).for_each(|piece| scanner.take(piece));
        (scanner.heads(), scanner.doubtful())
    }

    #[test]
    fn plain_requests_are_followed_through_their_bodies() {
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\n\r\nPOST / HTTP/1.1\r\ncontent-LENGTH:  7 \r\n\r\n\r\nab\ncd\
            PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\n\n\n\n\n\n\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        for step in 1..text.len() {
            assert_eq!(scan(text, step), (4, None), "step {step}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_doubtful() {
        for head in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
        ] {
            let text = format!("GET / HTTP/1.1\r\n\r\n{head}GET / HTTP/1.1\r\n\r\n");
            for step in 1..text.len() {
                assert_eq!(scan(text.as_bytes(), step).1, Some(1), "{head:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn what_follows_a_broken_body_is_doubtful() {
        for body in ["x\r\n", "\r\n", "4\n1234\r\n", "fffffffffffffffff\r\n"] {
            let text = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(scan(text.as_bytes(), 1000), (1, Some(1)), "{body:?}");
        }
    }

    #[test]
    fn long_lines_in_pieces_are_measured_not_kept() {
        let long = "x".repeat(100_000);
        let text = format!("GET /{long} HTTP/1.1\r\nA: {long}\r\nContent-Length: 1\r\n\r\n");
        let mut scanner = Scanner::default();
        for piece in text.as_bytes().chunks(1000) {
            scanner.take(piece);
            assert!(scanner.begun.len() <= KEEP);
        }
        assert_eq!((scanner.heads(), scanner.doubtful(), scanner.at), (1, None, At::Body(1)));
    }

    proptest::proptest! {
        #[test]
        fn pieces_change_nothing(text in "[GET /HOST:ctCT01a\\-\r\n]{0,80}", step in 1_usize..9) {
            proptest::prop_assert_eq!(scan(text.as_bytes(), step), scan(text.as_bytes(), 1000));
        }
    }
}
