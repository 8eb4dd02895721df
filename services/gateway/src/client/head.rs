//! Response heads: parsing without copying values, and the strict decision how the body is framed.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::error::Fault;

/// How a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body follows.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection closes.
    Close,
    /// 101: the connection now belongs to another protocol.
    Upgrade,
}

/// A parsed response head.
#[derive(Debug)]
pub struct Head {
    /// Status.
    pub status: StatusCode,
    /// Headers that are meant for the client: those of the connection itself (hop-by-hop ones, and those that
    /// `Connection` lists) are left out, except on a 101.
    pub headers: HeaderMap,
    /// How the body ends.
    pub framing: Framing,
    /// The connection may serve another request after this one.
    pub keep_alive: bool,
}

/// What the request was, as far as the response's framing depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a Method,
    /// It asked for an upgrade, so 101 is a final answer.
    pub upgrade: bool,
}

/// Header count served from the stack; heads with more are parsed a second time with [`MANY`].
const FEW: usize = 48;
/// Most headers of a response.
const MANY: usize = 256;

/// Takes a complete head off the front of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// [`Fault::BadHead`] with the reason when the bytes are not an unambiguous HTTP/1 response head.
pub fn take(buffer: &mut BytesMut, asked: Asked<'_>) -> Result<Option<Head>, Fault> {
    match take_up_to::<FEW>(buffer, asked) {
        Err(Parse::TooManyHeaders) => match take_up_to::<MANY>(buffer, asked) {
            Err(Parse::TooManyHeaders) => Err(Fault::BadHead("more than 256 headers")),
            Err(Parse::Fault(fault)) => Err(fault),
            Ok(head) => Ok(head),
        },
        Err(Parse::Fault(fault)) => Err(fault),
        Ok(head) => Ok(head),
    }
}

enum Parse {
    TooManyHeaders,
    Fault(Fault),
}

#[derive(Clone, Copy, Default)]
struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

fn take_up_to<const N: usize>(buffer: &mut BytesMut, asked: Asked<'_>) -> Result<Option<Head>, Parse> {
    let mut fields = [Field::default(); N];
    let mut storage = [const { std::mem::MaybeUninit::uninit() }; N];
    let mut parsed = httparse::Response::new(&mut []);
    let outcome = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        buffer,
        &mut storage,
    );
    let used = match outcome {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Parse::TooManyHeaders),
        Err(_) => return Err(Parse::Fault(Fault::BadHead("not an HTTP/1 response head"))),
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Parse::Fault(Fault::BadHead("no status line")));
    };
    let base = buffer.as_ptr().addr();
    let count = parsed.headers.len();
    for (field, found) in fields.iter_mut().zip(parsed.headers.iter()) {
        field.name = place(base, found.name.as_bytes());
        field.value = place(base, found.value);
    }
    head_from(buffer, used, &fields[..count], code, minor, asked).map(Some).map_err(Parse::Fault)
}

/// Offset and length of a slice of the buffer at `base`. Heads are far below 4 GiB.
fn place(base: usize, part: &[u8]) -> (u32, u32) {
    let start = part.as_ptr().addr().wrapping_sub(base);
    (u32::try_from(start).unwrap_or(0), u32::try_from(part.len()).unwrap_or(0))
}

fn head_from(
    buffer: &mut BytesMut,
    used: usize,
    fields: &[Field],
    code: u16,
    minor: u8,
    asked: Asked<'_>,
) -> Result<Head, Fault> {
    let status = StatusCode::from_u16(code).map_err(|_| Fault::BadHead("status out of range"))?;
    let bytes = buffer.split_to(used).freeze();
    let mut headers = HeaderMap::with_capacity(fields.len() + 8);
    let mut seen = Seen::default();
    for field in fields {
        let (at, len) = (field.name.0 as usize, field.name.1 as usize);
        let name =
            HeaderName::from_bytes(&bytes[at..at + len]).map_err(|_| Fault::BadHead("bad header name"))?;
        let (at, len) = (field.value.0 as usize, field.value.1 as usize);
        let value = HeaderValue::from_maybe_shared(bytes.slice(at..at + len))
            .map_err(|_| Fault::BadHead("bad header value"))?;
        seen.note(&name, &value)?;
        if !hop_by_hop(&name) || status == StatusCode::SWITCHING_PROTOCOLS {
            headers.append(name, value);
        }
    }
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    // `Connection: upgrade` of a 101 speaks of the client's connection as well
    for listed in seen.listed.iter().filter(|listed| !(switching && **listed == header::UPGRADE)) {
        headers.remove(listed);
    }
    let http11 = minor == 1;
    let framing = framing(status, http11, &seen, asked)?;
    let keep_alive = !seen.close
        && (http11 || seen.keep_alive)
        && matches!(framing, Framing::None | Framing::Length(_) | Framing::Chunked);
    Ok(Head { status, headers, framing, keep_alive })
}

/// The headers that decide about framing.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    transfer_encoding: bool,
    close: bool,
    keep_alive: bool,
    /// Other headers that `Connection` lists.
    listed: Vec<HeaderName>,
}

/// Headers about this connection only. `Trailer` and `Content-Length` describe the message and stay.
fn hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == header::TE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

impl Seen {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Fault> {
        if *name == header::CONTENT_LENGTH {
            if self.length.is_some() {
                return Err(Fault::BadHead("more than one Content-Length"));
            }
            self.length = Some(digits(value.as_bytes()).ok_or(Fault::BadHead("bad Content-Length"))?);
        } else if *name == header::TRANSFER_ENCODING {
            if self.transfer_encoding || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::BadHead("Transfer-Encoding other than chunked"));
            }
            self.transfer_encoding = true;
        } else if *name == header::CONNECTION {
            for token in value.as_bytes().split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                if let Ok(name) = HeaderName::from_bytes(token)
                    && name != header::CONTENT_LENGTH
                    && !matches!(name.as_str(), "close" | "keep-alive")
                {
                    self.listed.push(name);
                }
            }
        }
        Ok(())
    }
}

/// A number of ASCII digits only: no sign, no blanks, no overflow.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn framing(status: StatusCode, http11: bool, seen: &Seen, asked: Asked<'_>) -> Result<Framing, Fault> {
    if seen.transfer_encoding && seen.length.is_some() {
        return Err(Fault::BadHead("both Content-Length and Transfer-Encoding"));
    }
    if seen.transfer_encoding && !http11 {
        return Err(Fault::BadHead("Transfer-Encoding on HTTP/1.0"));
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return if asked.upgrade && http11 {
            Ok(Framing::Upgrade)
        } else {
            Err(Fault::BadHead("101 without being asked"))
        };
    }
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || asked.method == Method::HEAD;
    Ok(if bodiless {
        Framing::None
    } else if seen.transfer_encoding {
        Framing::Chunked
    } else {
        match seen.length {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    })
}

/// Parses the trailer section of a chunked body (without its last empty line). Fields that would change framing or
/// routing are refused.
///
/// # Errors
/// [`Fault::BadBody`] when it is not a header block or names a forbidden field.
pub fn trailers(mut section: BytesMut) -> Result<HeaderMap, Fault> {
    section.extend_from_slice(b"\r\n");
    let mut storage = [httparse::EMPTY_HEADER; 32];
    let mut trailers = HeaderMap::new();
    let used = match httparse::parse_headers(&section, &mut storage) {
        Ok(httparse::Status::Complete((used, fields))) => {
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes())
                    .map_err(|_| Fault::BadBody("bad trailer name"))?;
                if forbidden_trailer(&name) {
                    return Err(Fault::BadBody("forbidden trailer field"));
                }
                let value =
                    HeaderValue::from_bytes(field.value).map_err(|_| Fault::BadBody("bad trailer value"))?;
                trailers.append(name, value);
            }
            used
        }
        _ => return Err(Fault::BadBody("bad trailers")),
    };
    section.advance(used);
    if section.is_empty() { Ok(trailers) } else { Err(Fault::BadBody("bytes after the trailers")) }
}

/// Fields that must not be sent after the body (RFC 9110 section 6.5.1).
#[must_use]
pub fn forbidden_trailer(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::HOST,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::AUTHORIZATION,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked<'static> = Asked { method: &Method::GET, upgrade: false };

    fn parse(text: &str, asked: Asked<'_>) -> Result<Option<(Head, BytesMut)>, Fault> {
        let mut buffer = BytesMut::from(text);
        Ok(take(&mut buffer, asked)?.map(|head| (head, buffer)))
    }

    fn framing_of(text: &str, asked: Asked<'_>) -> Framing {
        parse(text, asked).unwrap().unwrap().0.framing
    }

    #[test]
    fn a_head_is_taken_off_and_the_rest_stays() {
        let (head, rest) =
            parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello", GET).unwrap().unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["x-a"], "b");
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.keep_alive);
        assert_eq!(&rest[..], b"hello");
    }

    #[test]
    fn an_incomplete_head_leaves_the_buffer_alone() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Le");
        assert!(take(&mut buffer, GET).unwrap().is_none());
        assert_eq!(buffer.len(), 27);
    }

    #[test]
    fn framing_follows_method_and_status() {
        let head = Asked { method: &Method::HEAD, upgrade: false };
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head), Framing::None);
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", head), Framing::None);
        assert_eq!(framing_of("HTTP/1.1 204 No Content\r\n\r\n", GET), Framing::None);
        assert_eq!(framing_of("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", GET), Framing::None);
        assert_eq!(
            framing_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", GET),
            Framing::Chunked
        );
        assert_eq!(framing_of("HTTP/1.1 200 OK\r\n\r\n", GET), Framing::Close);
        assert_eq!(framing_of("HTTP/1.1 100 Continue\r\n\r\n", GET), Framing::None);
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-A: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "garbage\r\n\r\n",
        ] {
            assert!(parse(text, GET).is_err(), "accepted: {text:?}");
        }
    }

    #[test]
    fn connections_are_kept_only_when_both_want_it() {
        let keeps = |text| parse(text, GET).unwrap().unwrap().0.keep_alive;
        assert!(keeps("HTTP/1.1 204 No Content\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 204 No Content\r\nConnection: foo, Close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"));
        assert!(keeps("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\n\r\n"));
    }

    #[test]
    fn headers_of_the_connection_are_left_out() {
        let text = "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                    Upgrade: h2c\r\nContent-Length: 0\r\nX-Stays: 1\r\n\r\n";
        let (head, _) = parse(text, GET).unwrap().unwrap();
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "x-stays"]);
    }

    #[test]
    fn an_asked_for_upgrade_is_final() {
        let asked = Asked { method: &Method::GET, upgrade: true };
        assert_eq!(framing_of("HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", asked), Framing::Upgrade);
    }

    #[test]
    fn many_headers_are_taken_too_many_refused() {
        let text = |count: usize| {
            let mut text = String::from("HTTP/1.1 200 OK\r\n");
            (0..count).for_each(|n| text.push_str(&format!("x-{n}: {n}\r\n")));
            text + "\r\n"
        };
        assert_eq!(parse(&text(200), GET).unwrap().unwrap().0.headers.len(), 200);
        assert!(parse(&text(257), GET).is_err());
    }

    #[test]
    fn trailers_are_parsed_and_dangerous_ones_refused() {
        let ok = trailers(BytesMut::from("grpc-status: 0\r\nx-sum: abc\r\n")).unwrap();
        assert_eq!(ok["grpc-status"], "0");
        assert!(trailers(BytesMut::from("content-length: 3\r\n")).is_err());
        assert!(trailers(BytesMut::from("no colon\r\n")).is_err());
    }
}
