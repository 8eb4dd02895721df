//! Stands between hyper and an HTTP/1 client's socket: scans what comes in, and puts Kong's answers in the place of hyper's
//! own bare ones when a head cannot be parsed or is too large.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scanner::Scanner;
use crate::context::RequestId;
use crate::identity;
use crate::proxy::answer::{Format, message};

/// hyper's own answers are shorter than this; ours are never that short.
const SHORT: usize = 200;
/// A request line above this makes a head too large by itself (nginx's buffer for one line).
const LONG_LINE: usize = 8 * 1024;
const NONE: u64 = u64::MAX;

/// What the connection's service and its gate tell each other. Only one thread looks at it; it is atomic because hyper
/// wants its connections to be `Send`.
#[derive(Debug)]
pub struct Ledger {
    heads: AtomicU64,
    doubtful: AtomicU64,
    served: AtomicU64,
    /// Another protocol has the connection.
    handed_over: AtomicBool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            heads: AtomicU64::new(0),
            doubtful: AtomicU64::new(NONE),
            served: AtomicU64::new(0),
            handed_over: AtomicBool::new(false),
        }
    }
}

impl Ledger {
    /// A request has reached the service; true when its head was doubtful or something before it was.
    pub fn serve(&self) -> bool {
        let number = self.served.load(Relaxed);
        self.served.store(number + 1, Relaxed);
        number >= self.doubtful.load(Relaxed)
    }

    /// From here on the connection is no HTTP any more.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Relaxed);
    }
}

/// The stream as hyper sees it.
#[derive(Debug)]
pub struct Gate<S> {
    stream: S,
    scanner: Scanner,
    ledger: Arc<Ledger>,
    /// What is left of an answer put in the place of hyper's.
    instead: Option<Bytes>,
}

impl<S> Gate<S> {
    /// A gate in front of `stream`.
    pub fn new(stream: S, ledger: Arc<Ledger>) -> Self {
        Self { stream, scanner: Scanner::default(), ledger, instead: None }
    }

    /// hyper answers a head by itself: no service was asked for it.
    fn is_hypers_own(&self, bytes: &[u8]) -> bool {
        bytes.len() < SHORT
            && bytes.starts_with(b"HTTP/1.")
            && bytes.get(9) == Some(&b'4')
            && !self.ledger.handed_over.load(Relaxed)
            && (self.scanner.in_head()
                || self.scanner.heads() > self.ledger.served.load(Relaxed)
                || self.scanner.doubtful().is_some())
    }

    fn replacement(&self, bytes: &[u8]) -> Bytes {
        let status = match bytes.get(9..12) {
            Some(b"431") if self.scanner.request_line() > LONG_LINE => 414,
            Some(b"431") => 494,
            Some(b"414") => 414,
            _ => 400,
        };
        let id = RequestId::new();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = Format::Text.body(message(status), id);
        let reason = status.canonical_reason().unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\
             Server: {}\r\nX-Kong-Response-Latency: 0\r\nX-Kong-Request-Id: {}\r\n\r\n",
            status.as_u16(),
            body.len(),
            identity::SERVER,
            id.as_str(),
        );
        Bytes::from([head.as_bytes(), &body[..]].concat())
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Writes out what stands in for hyper's answer; then hyper is told that all of its own was written.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.instead.as_mut().filter(|left| !left.is_empty()) {
            let sent = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            left.advance(sent);
        }
        self.instead = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut gate.stream).poll_read(cx, buffer))?;
        if !gate.ledger.handed_over.load(Relaxed) {
            gate.scanner.take(&buffer.filled()[before..]);
            gate.ledger.heads.store(gate.scanner.heads(), Relaxed);
            gate.ledger.doubtful.store(gate.scanner.doubtful().unwrap_or(NONE), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        if gate.instead.is_some() || gate.is_hypers_own(bytes) {
            if gate.instead.is_none() {
                gate.instead = Some(gate.replacement(bytes));
            }
            std::task::ready!(gate.poll_instead(cx))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut gate.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [only] => self.poll_write(cx, only),
            slices => Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
