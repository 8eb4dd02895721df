//! One connection to an upstream and one exchange over it, driven inside the request's own future: no task, no
//! channel, one reused write buffer.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::error::Fault;
use super::head::{self, Asked, Head};
use super::request::{Coding, Piece, RequestBody};
use super::stream::Stream;
use crate::tick::Deadline;

/// Room made for a response head and a small body.
const HEAD_ROOM: usize = 8 * 1024;
/// Pieces up to this size are copied behind the head or the chunk size; larger ones are written from where they are.
const COPY_UP_TO: usize = 8 * 1024;

/// Limits of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between two writes.
    pub write_timeout: Duration,
    /// Between two reads.
    pub read_timeout: Duration,
    /// Between two pieces of the client's body.
    pub client_body_timeout: Duration,
    /// Bytes of a response head, interim ones included.
    pub head_bytes: usize,
}

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: Stream,
    pub(super) read: BytesMut,
    write: Vec<u8>,
    pub(super) deadline: Deadline,
    pub(super) requests: u32,
    /// Times the pool's reaper has seen it idle.
    pub(super) idle_rounds: u32,
}

impl Connection {
    /// Wraps a fresh stream.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::with_capacity(HEAD_ROOM),
            write: Vec::with_capacity(1024),
            deadline: Deadline::new(),
            requests: 0,
            idle_rounds: 0,
        }
    }

    /// It has served a request before.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.requests > 0
    }

    /// The stream and what was read from it beyond the response head (after an upgrade).
    #[must_use]
    pub fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.read.freeze())
    }

    /// Reads what there is into the read buffer; `Ok(0)` is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }
}

/// What sending waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Everything was sent.
    Sent,
    /// The client's next piece.
    Client,
    /// Room in the upstream's socket.
    Upstream,
}

/// The sending half of an exchange.
#[derive(Debug)]
pub struct Pump {
    body: RequestBody,
    written: usize,
    piece: Bytes,
    line_end_due: bool,
    body_left: u64,
    ended: bool,
    progressed: bool,
}

impl Pump {
    fn new(body: RequestBody) -> Self {
        let (ended, body_left) = match body.coding() {
            Coding::None | Coding::Length(0) => (true, 0),
            Coding::Length(length) => (false, length),
            Coding::Chunked => (false, 0),
        };
        Self {
            body,
            written: 0,
            piece: Bytes::new(),
            line_end_due: false,
            body_left,
            ended,
            progressed: false,
        }
    }

    /// Goes on sending; an early response may come while this is not done.
    pub(super) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
    ) -> Poll<Result<(), Fault>> {
        match self.poll_send(cx, connection) {
            Ok(Step::Sent) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// Bytes received from the client so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.body.received()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Result<Step, Fault> {
        self.progressed = false;
        loop {
            let mut starved = false;
            while !self.ended && self.piece.is_empty() && connection.write.len() < COPY_UP_TO {
                match self.body.poll_piece(cx) {
                    Poll::Pending => {
                        starved = true;
                        break;
                    }
                    Poll::Ready(Err(error)) => return Err(Fault::RequestBody(error)),
                    Poll::Ready(Ok(piece)) => self.encode(piece, &mut connection.write)?,
                }
            }
            if self.poll_write(cx, connection)?.is_pending() {
                return Ok(Step::Upstream);
            }
            if self.ended {
                return Ok(Step::Sent);
            }
            if starved {
                return Ok(Step::Client);
            }
        }
    }

    fn encode(&mut self, piece: Piece, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.line_end_due {
            self.line_end_due = false;
            out.extend_from_slice(b"\r\n");
        }
        let chunked = self.body.coding() == Coding::Chunked;
        match piece {
            Piece::Data(data) if data.is_empty() => {}
            Piece::Data(data) if chunked => {
                io::Write::write_fmt(out, format_args!("{:x}\r\n", data.len())).map_err(Fault::Write)?;
                if data.len() <= COPY_UP_TO {
                    out.extend_from_slice(&data);
                    out.extend_from_slice(b"\r\n");
                } else {
                    self.piece = data;
                    self.line_end_due = true;
                }
            }
            Piece::Data(data) => {
                self.body_left = self
                    .body_left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| Fault::RequestBody("body longer than announced".into()))?;
                if data.len() <= COPY_UP_TO {
                    out.extend_from_slice(&data);
                } else {
                    self.piece = data;
                }
                // the announced length is the end: nobody needs to be asked for another piece
                self.ended = self.body_left == 0;
            }
            Piece::Trailers(trailers) => {
                if chunked {
                    out.extend_from_slice(b"0\r\n");
                    for (name, value) in trailers.iter().filter(|(name, _)| !head::forbidden_trailer(name)) {
                        out.extend_from_slice(name.as_str().as_bytes());
                        out.extend_from_slice(b": ");
                        out.extend_from_slice(value.as_bytes());
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"\r\n");
                }
                self.ended = true;
            }
            Piece::End if chunked => {
                out.extend_from_slice(b"0\r\n\r\n");
                self.ended = true;
            }
            Piece::End if self.body_left > 0 => {
                return Err(Fault::RequestBody("body shorter than announced".into()));
            }
            Piece::End => self.ended = true,
        }
        Ok(())
    }

    /// Writes the buffer and the piece behind it.
    fn poll_write(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Result<Poll<()>, Fault> {
        let Connection { stream, write, .. } = connection;
        let mut stream = Pin::new(stream);
        while self.written < write.len() || !self.piece.is_empty() {
            let buffered = &write[self.written..];
            let outcome = if self.piece.is_empty() {
                stream.as_mut().poll_write(cx, buffered)
            } else {
                let both = [IoSlice::new(buffered), IoSlice::new(&self.piece)];
                stream.as_mut().poll_write_vectored(cx, &both)
            };
            let sent = match outcome {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => return Err(Fault::Write(error)),
                Poll::Ready(Ok(0)) => return Err(Fault::Write(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => sent,
            };
            self.progressed = true;
            let of_buffer = sent.min(write.len() - self.written);
            self.written += of_buffer;
            self.piece.advance(sent - of_buffer);
        }
        write.clear();
        self.written = 0;
        match stream.as_mut().poll_flush(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(Fault::Write(error)),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
        }
    }
}

/// What an exchange left behind besides the head.
#[derive(Debug)]
pub struct Exchanged {
    /// The final response's head.
    pub head: Head,
    /// The unsent rest of the request, when the answer came early.
    pub pump: Option<Pump>,
}

/// Sends one request (its head is written by `write_head`) and reads the response's head.
///
/// On failure the body is back in `body`, to be rewound for another try.
///
/// # Errors
/// Any [`Fault`] but those of connecting.
pub async fn exchange(
    connection: &mut Connection,
    write_head: &dyn Fn(&mut Vec<u8>),
    body: &mut RequestBody,
    asked: Asked<'_>,
    limits: &Limits,
) -> Result<Exchanged, Fault> {
    connection.requests += 1;
    connection.write.clear();
    write_head(&mut connection.write);
    connection.read.reserve(HEAD_ROOM);
    let mut exchange = Exchange {
        pump: Pump::new(std::mem::replace(body, RequestBody::empty(false))),
        waits: None,
        sent: false,
        write_fault: None,
        head_bytes: 0,
        asked,
        limits,
    };
    let outcome = std::future::poll_fn(|cx| exchange.poll(cx, connection)).await;
    connection.deadline.clear();
    match outcome {
        Ok(mut head) => {
            head.keep_alive &= exchange.write_fault.is_none();
            let unsent = !exchange.sent && exchange.write_fault.is_none();
            if unsent {
                return Ok(Exchanged { head, pump: Some(exchange.pump) });
            }
            *body = exchange.pump.body;
            Ok(Exchanged { head, pump: None })
        }
        Err(fault) => {
            *body = exchange.pump.body;
            Err(fault)
        }
    }
}

struct Exchange<'a> {
    pump: Pump,
    waits: Option<Step>,
    sent: bool,
    write_fault: Option<Fault>,
    head_bytes: usize,
    asked: Asked<'a>,
    limits: &'a Limits,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Poll<Result<Head, Fault>> {
        if !self.sent && self.write_fault.is_none() {
            match self.pump.poll_send(cx, connection) {
                Ok(step) => self.waiting_for(step, connection),
                Err(fault @ Fault::Write(_)) => {
                    // it may have answered before it closed (413 and the like): read on, briefly
                    self.write_fault = Some(fault);
                    connection.deadline.set(self.limits.read_timeout.min(Duration::from_secs(1)));
                }
                Err(fault) => return Poll::Ready(Err(fault)),
            }
        }
        match self.poll_head(cx, connection) {
            Poll::Pending => {}
            ready => return ready,
        }
        if connection.deadline.poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(match (self.write_fault.take(), self.waits) {
            (Some(fault), _) => fault,
            (None, Some(Step::Client)) => Fault::RequestBodyTimeout,
            (None, Some(Step::Upstream)) => Fault::WriteTimeout,
            _ => Fault::ReadTimeout,
        }))
    }

    /// Starts the clock of whoever is waited for now, when that changed or something moved.
    fn waiting_for(&mut self, step: Step, connection: &Connection) {
        if self.waits == Some(step) && !self.pump.progressed {
            return;
        }
        self.waits = Some(step);
        self.sent = step == Step::Sent;
        connection.deadline.set(match step {
            Step::Sent => self.limits.read_timeout,
            Step::Client => self.limits.client_body_timeout,
            Step::Upstream => self.limits.write_timeout,
        });
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Poll<Result<Head, Fault>> {
        loop {
            match connection.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.write_fault.take().unwrap_or(Fault::Closed)));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.write_fault.take().unwrap_or(Fault::Read(error))));
                }
                Poll::Ready(Ok(_)) => {}
            }
            loop {
                let before = connection.read.len();
                match head::take(&mut connection.read, self.asked)? {
                    Some(head) if head.status.is_informational() && head.status.as_u16() != 101 => {
                        // interim answers are ours to swallow: hyper has already told the client to go on
                        self.head_bytes += before - connection.read.len();
                    }
                    Some(head) => return Poll::Ready(Ok(head)),
                    None => break,
                }
            }
            if self.head_bytes + connection.read.len() > self.limits.head_bytes {
                return Poll::Ready(Err(Fault::HeadTooLarge));
            }
            if self.sent {
                connection.deadline.set(self.limits.read_timeout);
            }
            connection.read.reserve(HEAD_ROOM);
        }
    }
}
