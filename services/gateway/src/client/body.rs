//! A response body read from its upstream connection as the client takes it. At its end the connection goes back to
//! the pool; dropped before, the connection is closed.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::chunked::{Decoder, Piece};
use super::connection::{Connection, Pump};
use super::error::Fault;
use super::pool::{PoolKey, Pools};

/// Most bytes read at once.
const READ_ROOM: usize = 64 * 1024;

/// How the end is recognised.
#[derive(Debug)]
pub(super) enum Decoding {
    /// This many bytes are left.
    Length(u64),
    /// The coding says.
    Chunked(Decoder),
    /// The connection closes.
    Close,
}

/// Where a connection goes after its exchange.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub pools: Rc<Pools>,
    pub key: PoolKey,
}

/// A streaming response body.
#[derive(Debug)]
pub struct UpstreamBody {
    pub(super) connection: Option<Connection>,
    pub(super) decoding: Decoding,
    /// The rest of the request, when the answer came early.
    pub(super) pump: Option<Pump>,
    /// `None` when the connection is not to be kept.
    pub(super) home: Option<Home>,
    pub(super) read_timeout: Duration,
    pub(super) waiting: bool,
}

/// Reads a whole body, at most `limit` bytes. Trailers are left out: they would follow another body.
///
/// # Errors
/// [`Fault::BodyTooLarge`], or what broke the body off; the connection is closed then.
pub async fn gather<B>(mut body: B, limit: usize) -> Result<Bytes, Fault>
where
    B: Body<Data = Bytes, Error = Fault> + Unpin,
{
    let mut whole = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame.transpose()? else { return Ok(whole.freeze()) };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Fault::BodyTooLarge);
        }
        whole.extend_from_slice(&data);
    }
}

impl UpstreamBody {
    /// The next bytes out of the read buffer.
    fn decode(&mut self) -> Result<Piece, Fault> {
        let Some(connection) = self.connection.as_mut() else { return Ok(Piece::End) };
        match &mut self.decoding {
            Decoding::Chunked(decoder) => decoder.next(&mut connection.read),
            Decoding::Length(0) => Ok(Piece::End),
            Decoding::Length(_) | Decoding::Close if connection.read.is_empty() => Ok(Piece::More),
            Decoding::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(connection.read.len());
                *left -= here as u64;
                Ok(Piece::Data(connection.read.split_to(here).freeze()))
            }
            Decoding::Close => Ok(Piece::Data(connection.read.split().freeze())),
        }
    }

    fn complete(&self) -> bool {
        match &self.decoding {
            Decoding::Length(left) => *left == 0,
            Decoding::Chunked(decoder) => decoder.ended(),
            Decoding::Close => self.connection.is_none(),
        }
    }

    /// Gives the connection back, or closes it.
    fn release(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        connection.deadline.clear();
        if let (Some(home), None) = (self.home.take(), self.pump.take()) {
            home.pools.put(home.key, connection);
        }
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.home = None;
        self.release();
        Poll::Ready(Some(Err(fault)))
    }

    /// Sends on what is left of the request. A broken request does not spoil the response, but the connection.
    fn drive_pump(&mut self, cx: &mut Context<'_>) {
        let (Some(pump), Some(connection)) = (self.pump.as_mut(), self.connection.as_mut()) else { return };
        match pump.poll_rest(cx, connection) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.pump = None,
            Poll::Ready(Err(_)) => {
                self.pump = None;
                self.home = None;
            }
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let body = &mut *self;
        body.drive_pump(cx);
        loop {
            match body.decode() {
                Err(fault) => return body.fail(fault),
                Ok(Piece::End) => {
                    body.release();
                    return Poll::Ready(None);
                }
                Ok(Piece::Data(data)) => {
                    if body.complete() {
                        body.release();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::Trailers(trailers)) => {
                    body.release();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::More) => {}
            }
            let Some(connection) = body.connection.as_mut() else { return Poll::Ready(None) };
            if connection.read.capacity() - connection.read.len() < READ_ROOM / 4 {
                let room = match &body.decoding {
                    Decoding::Length(left) => usize::try_from(*left).unwrap_or(READ_ROOM).min(READ_ROOM),
                    _ => READ_ROOM,
                };
                connection.read.reserve(room);
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(0)) if matches!(body.decoding, Decoding::Close) => {
                    body.home = None;
                    body.release();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return body.fail(Fault::Closed),
                Poll::Ready(Err(error)) => return body.fail(Fault::Read(error)),
                Poll::Ready(Ok(_)) => body.waiting = false,
                Poll::Pending => {
                    if !body.waiting {
                        body.waiting = true;
                        connection.deadline.set(body.read_timeout);
                    }
                    if connection.deadline.poll(cx).is_ready() {
                        return body.fail(Fault::ReadTimeout);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.decoding {
            Decoding::Length(left) => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }
}
