//! The request body on its way upstream: streamed, with a bounded memory so that a failed try can be repeated. Plugins
//! that look into bodies have it gathered whole before.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use super::error::Fault;
use crate::tick;

/// Any error of a body's source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How the body's length is announced to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// No body, nothing announced.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// One piece of a request body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes, perhaps none.
    Data(Bytes),
    /// The trailer fields.
    Trailers(HeaderMap),
    /// The end.
    End,
}

/// The client's body is longer than a plugin lets pass ([`RequestBody::at_most`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request body longer than allowed")]
pub struct TooLong;

/// Why a body could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum Ungathered {
    /// More bytes than may be held in memory.
    #[error("request body larger than plugins may hold in memory")]
    TooLarge,
    /// More bytes than a plugin lets pass.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The client sent nothing for longer than allowed.
    #[error("the client sent nothing of its body for too long")]
    Timeout,
    /// It broke off or was malformed.
    #[error("the client's request body broke off")]
    Broken(#[source] BoxError),
}

enum Source {
    Empty,
    Incoming(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

/// A request body.
pub struct RequestBody {
    source: Source,
    coding: Coding,
    /// Pieces taken so far, for the next try; `None` once they are more than the limit.
    taken: Option<Vec<Piece>>,
    /// Index into `taken` of the next piece to repeat.
    repeat: usize,
    kept: usize,
    keep_at_most: usize,
    /// Everything taken now is for later.
    buffering: bool,
    received: u64,
    /// Most bytes taken from the client.
    limit: u64,
    /// Most bytes the client may send.
    most: u64,
    ended: bool,
}

/// The client's body is larger than allowed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("request body larger than the limit of {0} bytes")]
pub struct BodyTooLarge(pub u64);

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBody").field("coding", &self.coding).field("received", &self.received).finish()
    }
}

impl RequestBody {
    fn with(source: Source, coding: Coding, keep_at_most: usize) -> Self {
        Self {
            source,
            coding,
            taken: Some(Vec::new()),
            repeat: 0,
            kept: 0,
            keep_at_most,
            buffering: false,
            received: 0,
            limit: u64::MAX,
            most: u64::MAX,
            ended: false,
        }
    }

    /// No body; `announced` says whether the client sent `Content-Length: 0`.
    #[must_use]
    pub fn empty(announced: bool) -> Self {
        Self::with(Source::Empty, if announced { Coding::Length(0) } else { Coding::None }, 0)
    }

    /// The client's body; up to `keep_at_most` bytes of it are remembered for a repetition.
    #[must_use]
    pub fn incoming(body: Incoming, announced: bool, keep_at_most: usize) -> Self {
        if body.is_end_stream() {
            return Self::empty(announced);
        }
        let coding = body.size_hint().exact().map_or(Coding::Chunked, Coding::Length);
        Self::with(Source::Incoming(body), coding, keep_at_most)
    }

    /// Any other body.
    #[must_use]
    pub fn boxed(body: UnsyncBoxBody<Bytes, BoxError>, keep_at_most: usize) -> Self {
        let coding = body.size_hint().exact().map_or(Coding::Chunked, Coding::Length);
        Self::with(Source::Boxed(body), coding, keep_at_most)
    }

    /// Lets no more than this many bytes through; 0 = any number.
    #[must_use]
    pub fn limited(mut self, limit: u64) -> Self {
        self.limit = if limit == 0 { u64::MAX } else { limit };
        self
    }

    /// It is announced to be larger than its limit.
    #[must_use]
    pub fn announces_too_much(&self) -> bool {
        matches!(self.coding, Coding::Length(length) if length > self.limit)
    }

    /// How its length is announced.
    #[must_use]
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// Bytes received from the client so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// From now on more bytes than this are an error of the source: [`TooLong`].
    pub fn at_most(&mut self, most: u64) {
        self.most = self.most.min(most);
    }

    /// Reads the whole body, at most `limit` bytes, each piece within `timeout`. It can be sent any number of times
    /// afterwards; trailers stay with it.
    ///
    /// # Errors
    /// Nothing of the body is usable then.
    pub async fn gather(&mut self, limit: usize, timeout: Duration) -> Result<Bytes, Ungathered> {
        let announced = match self.coding {
            Coding::Length(length) => length,
            Coding::None | Coding::Chunked => 0,
        };
        if announced > self.most {
            return Err(Ungathered::TooLong(TooLong));
        }
        let announced =
            usize::try_from(announced).ok().filter(|length| *length <= limit).ok_or(Ungathered::TooLarge)?;
        let (mut whole, mut last) = (BytesMut::new(), Bytes::new());
        let mut trailers = None;
        loop {
            let piece = tick::within(timeout, std::future::poll_fn(|cx| self.poll_piece(cx)));
            match piece.await.ok_or(Ungathered::Timeout)? {
                Err(error) => {
                    return Err(match error.downcast::<TooLong>() {
                        Ok(too_long) => Ungathered::TooLong(*too_long),
                        Err(error) if error.is::<BodyTooLarge>() => Ungathered::TooLarge,
                        Err(error) => Ungathered::Broken(error),
                    });
                }
                Ok(Piece::End) => break,
                Ok(Piece::Trailers(fields)) => trailers = Some(fields),
                Ok(Piece::Data(data)) => {
                    if whole.len() + last.len() + data.len() > limit {
                        return Err(Ungathered::TooLarge);
                    }
                    // one piece, the usual case, is not copied
                    if !last.is_empty() {
                        whole.reserve(announced.saturating_sub(whole.len()).max(last.len()));
                        whole.extend_from_slice(&last);
                    }
                    last = data;
                }
            }
        }
        if !whole.is_empty() {
            whole.extend_from_slice(&last);
            last = whole.freeze();
        }
        self.hold(last.clone(), trailers);
        Ok(last)
    }

    /// Takes what the client sends before anybody upstream is bothered with it: all of a body that can be remembered for another
    /// try, the beginning of one whose length nobody knows. A body announced to be larger is left to be streamed.
    ///
    /// # Errors
    /// The client broke off, sent too much, or nothing for longer than `timeout`.
    pub async fn buffer(&mut self, timeout: Duration) -> Result<(), Fault> {
        if matches!(self.coding, Coding::Length(length) if length > self.keep_at_most as u64) {
            return Ok(());
        }
        self.buffering = true;
        while !self.ended && self.kept <= self.keep_at_most {
            let piece = tick::within(timeout, std::future::poll_fn(|cx| self.poll_piece(cx))).await;
            piece.ok_or(Fault::RequestBodyTimeout)?.map_err(Fault::RequestBody)?;
        }
        self.buffering = false;
        self.repeat = 0;
        let trailers = self.taken.iter().flatten().any(|piece| matches!(piece, Piece::Trailers(_)));
        if self.ended && self.coding == Coding::Chunked && !trailers {
            self.coding = Coding::Length(self.kept as u64);
        }
        Ok(())
    }

    /// Another body in its place; what was received stays counted.
    pub fn replace(&mut self, bytes: Bytes) {
        self.coding = Coding::Length(bytes.len() as u64);
        self.hold(bytes, None);
    }

    fn hold(&mut self, bytes: Bytes, trailers: Option<HeaderMap>) {
        if self.coding == Coding::Chunked && trailers.is_none() {
            self.coding = Coding::Length(bytes.len() as u64);
        }
        self.source = Source::Empty;
        self.ended = true;
        self.repeat = 0;
        self.kept = bytes.len();
        let data = (!bytes.is_empty()).then_some(Piece::Data(bytes));
        self.taken = Some(data.into_iter().chain(trailers.map(Piece::Trailers)).collect());
    }

    /// Starts over from the first byte; false when what was taken is no longer known.
    pub fn rewind(&mut self) -> bool {
        self.repeat = 0;
        self.taken.is_some()
    }

    /// The next piece.
    ///
    /// # Errors
    /// The source's: the client went away or its coding was malformed.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BoxError>> {
        if let Some(piece) = self.taken.as_ref().and_then(|taken| taken.get(self.repeat)) {
            self.repeat += 1;
            return Poll::Ready(Ok(piece.clone()));
        }
        if self.ended {
            return Poll::Ready(Ok(Piece::End));
        }
        let frame = match &mut self.source {
            Source::Empty => None,
            Source::Incoming(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(BoxError::from)),
            },
            Source::Boxed(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            },
        };
        let piece = match frame {
            None => {
                self.ended = true;
                return Poll::Ready(Ok(Piece::End));
            }
            Some(Err(error)) => return Poll::Ready(Err(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(frame) => Piece::Trailers(frame.into_trailers().unwrap_or_default()),
            },
        };
        self.remember(&piece);
        if self.received > self.limit {
            return Poll::Ready(Err(BodyTooLarge(self.limit).into()));
        }
        if self.received > self.most {
            return Poll::Ready(Err(TooLong.into()));
        }
        Poll::Ready(Ok(piece))
    }

    fn remember(&mut self, piece: &Piece) {
        if let Piece::Data(data) = piece {
            self.received += data.len() as u64;
            self.kept += data.len();
        }
        if self.kept > self.keep_at_most && !self.buffering {
            self.taken = None;
        } else if let Some(taken) = &mut self.taken {
            taken.push(piece.clone());
            self.repeat = taken.len();
        }
    }
}

#[cfg(test)]
mod tests;
