//! A response body read from its upstream connection as the client takes it, or a little ahead of it. At its end the
//! connection goes back to the pool; dropped before, the connection is closed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use plinth_core::balance::InFlight;

use super::chunked::{Decoder, Piece};
use super::connection::{Connection, Pump};
use super::error::Fault;
use super::pool::{PoolKey, Pools};

/// Most bytes read at once.
const READ_ROOM: usize = 64 * 1024;
/// What a piece read ahead costs besides its bytes: an answer in tiny chunks must not hold much more than it seems to.
const PIECE_COST: usize = 64;

type Polled = Poll<Option<Result<Frame<Bytes>, Fault>>>;

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
    /// Somebody has asked for a piece since [`Self::read_ahead`] looked last.
    pub(super) polled: bool,
    /// What was read before the client could take it.
    pub(super) ahead: VecDeque<Result<Frame<Bytes>, Fault>>,
    pub(super) ahead_bytes: usize,
    /// The endpoint has one request less when the last byte was read from it.
    pub(super) in_flight: Option<InFlight>,
}

fn cost(piece: &Result<Frame<Bytes>, Fault>) -> usize {
    let data = piece.as_ref().ok().and_then(Frame::data_ref);
    data.map_or(0, Bytes::len) + PIECE_COST
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
        self.in_flight = None;
        let Some(connection) = self.connection.take() else { return };
        connection.deadline.clear();
        if let (Some(home), None) = (self.home.take(), self.pump.take()) {
            home.pools.put(home.key, connection);
        }
    }

    fn fail(&mut self, fault: Fault) -> Polled {
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

    /// The next piece, of what is here or can be read without waiting.
    fn advance(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            match self.decode() {
                Err(fault) => return self.fail(fault),
                Ok(Piece::End) => {
                    self.release();
                    return Poll::Ready(None);
                }
                Ok(Piece::Data(data)) => {
                    if self.complete() {
                        self.release();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::Trailers(trailers)) => {
                    self.release();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::More) => {}
            }
            let Some(connection) = self.connection.as_mut() else { return Poll::Ready(None) };
            if connection.read.capacity() - connection.read.len() < READ_ROOM / 4 {
                let room = match &self.decoding {
                    Decoding::Length(left) => usize::try_from(*left).unwrap_or(READ_ROOM).min(READ_ROOM),
                    _ => READ_ROOM,
                };
                connection.read.reserve(room);
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(0)) if matches!(self.decoding, Decoding::Close) => {
                    self.home = None;
                    self.release();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return self.fail(Fault::Closed),
                Poll::Ready(Err(error)) => return self.fail(Fault::Read(error)),
                Poll::Ready(Ok(_)) => self.waiting = false,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The client has taken nothing for a while: reads on in its place, until `most` bytes are held, at most `room`
    /// of them new. Never waits. What is left of the request is the client's to send, so then nothing is read.
    pub(super) fn read_ahead(&mut self, most: usize, room: usize) -> usize {
        let moving = std::mem::take(&mut self.polled) || self.waiting;
        if moving || self.pump.is_some() {
            return 0;
        }
        // nobody waits for the upstream: whoever asks for the next piece registers a waker of its own
        let mut cx = Context::from_waker(Waker::noop());
        let before = self.ahead_bytes;
        while self.connection.is_some() && self.ahead_bytes < most && self.ahead_bytes - before < room {
            let Poll::Ready(Some(piece)) = self.advance(&mut cx) else { break };
            self.ahead_bytes += cost(&piece);
            self.ahead.push_back(piece);
        }
        self.ahead_bytes - before
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let body = &mut *self;
        body.polled = true;
        if let Some(piece) = body.ahead.pop_front() {
            body.ahead_bytes -= cost(&piece);
            return Poll::Ready(Some(piece));
        }
        body.drive_pump(cx);
        if let Poll::Ready(piece) = body.advance(cx) {
            return Poll::Ready(piece);
        }
        let Some(connection) = body.connection.as_mut() else { return Poll::Ready(None) };
        if !body.waiting {
            body.waiting = true;
            connection.deadline.set(body.read_timeout);
        }
        if connection.deadline.poll(cx).is_ready() {
            return body.fail(Fault::ReadTimeout);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() && self.ahead.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let here = self.ahead.iter().filter_map(|piece| piece.as_ref().ok().and_then(Frame::data_ref));
        match &self.decoding {
            Decoding::Length(left) => {
                SizeHint::with_exact(*left + here.map(|data| data.len() as u64).sum::<u64>())
            }
            _ => SizeHint::default(),
        }
    }
}
