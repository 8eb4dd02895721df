//! A limit on how long the head of a request may take from its first byte on. An idle connection has none: who sends the next
//! request just when the server closes cannot know whether it was done. And none begins before the first byte, unlike with
//! hyper's own limit, which counts from the end of the request before.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Up to this many bytes, head and body are copied together: one flat `send` costs the kernel less than a `writev` of parts.
const FLAT: usize = 4 << 10;

thread_local! {
    /// Where they are put together; one for each thread that serves, not for each connection.
    static TOGETHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
/// The head is whole: body and answer take their own time.
const REQUEST: u8 = 2;

/// What a connection is at; told by whoever answers its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU8>);

impl Progress {
    /// From a whole head to the answer, by being held.
    pub fn request(&self) -> Running {
        self.0.store(REQUEST, Ordering::Relaxed);
        Running(self.0.clone())
    }

    /// A whole head that was answered at once.
    pub fn answered(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }
}

/// See [`Progress::request`].
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicU8>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }
}

/// A connection that ends with [`io::ErrorKind::TimedOut`] when a head takes longer than the limit.
#[derive(Debug)]
pub(crate) struct Limited<S> {
    stream: S,
    limit: Duration,
    progress: Progress,
    /// Runs while a head is being read and the client keeps us waiting; most heads come whole and never need it.
    clock: Option<Pin<Box<Sleep>>>,
}

impl<S> Limited<S> {
    pub fn new(stream: S, limit: Duration) -> (Limited<S>, Progress) {
        let progress = Progress::default();
        (Limited { stream, limit, progress: progress.clone(), clock: None }, progress)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let at = &self.progress.0;
        if buffer.filled().len() > before {
            // ordering is not needed: the connection's task is the only one that reads, and it is told by itself
            let _ = at.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
        }
        if at.load(Ordering::Relaxed) != HEAD {
            self.clock = None;
            return read;
        }
        if read.is_ready() {
            return read;
        }
        let limit = self.limit;
        let clock = self.clock.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request's head did not come in time")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if size > FLAT {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        }
        TOGETHER.with_borrow_mut(|together| {
            together.clear();
            parts.iter().for_each(|part| together.extend_from_slice(part));
            Pin::new(&mut self.stream).poll_write(cx, together)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LIMIT: Duration = Duration::from_millis(80);
    const LONGER: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn only_a_head_that_has_begun_has_a_limit() {
        let (mut client, server) = tokio::io::duplex(64);
        let (mut server, progress) = Limited::new(server, LIMIT);
        let mut byte = [0];
        assert!(
            tokio::time::timeout(LONGER, server.read_exact(&mut byte)).await.is_err(),
            "idle for as long as it likes"
        );
        client.write_all(b"G").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        let running = progress.request();
        assert!(
            tokio::time::timeout(LONGER, server.read_exact(&mut byte)).await.is_err(),
            "a body may take longer"
        );
        drop(running);
        assert!(tokio::time::timeout(LONGER, server.read_exact(&mut byte)).await.is_err(), "idle again");
        client.write_all(b"G").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        let ended = tokio::time::timeout(LONGER, server.read_exact(&mut byte)).await.expect("in time");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn bytes_that_trickle_in_do_not_start_it_anew() {
        let (mut client, server) = tokio::io::duplex(64);
        let (mut server, _progress) = Limited::new(server, LIMIT);
        let trickle = tokio::spawn(async move {
            while client.write_all(b"a").await.is_ok() {
                tokio::time::sleep(LIMIT / 8).await;
            }
        });
        let read = async {
            let mut byte = [0];
            loop {
                if let Err(error) = server.read_exact(&mut byte).await {
                    return error.kind();
                }
            }
        };
        assert_eq!(tokio::time::timeout(10 * LONGER, read).await.expect("in time"), io::ErrorKind::TimedOut);
        trickle.abort();
    }
}
