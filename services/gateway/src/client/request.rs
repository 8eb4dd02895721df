//! The request body on its way upstream: streamed, with a bounded memory so that a failed try can be repeated.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

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
    received: u64,
    /// Most bytes taken from the client.
    limit: u64,
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
            received: 0,
            limit: u64::MAX,
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
        Poll::Ready(Ok(piece))
    }

    fn remember(&mut self, piece: &Piece) {
        if let Piece::Data(data) = piece {
            self.received += data.len() as u64;
            self.kept += data.len();
        }
        if self.kept > self.keep_at_most {
            self.taken = None;
        } else if let Some(taken) = &mut self.taken {
            taken.push(piece.clone());
            self.repeat = taken.len();
        }
    }
}
