//! After a 101: bytes both ways until either side ends, with an idle limit.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::tick::Deadline;

const ROOM: usize = 16 * 1024;

/// One direction.
struct Lane {
    buffer: BytesMut,
    ended: bool,
    shut: bool,
    bytes: u64,
}

impl Lane {
    fn new(first: &Bytes) -> Self {
        Self { buffer: BytesMut::from(&first[..]), ended: false, shut: false, bytes: 0 }
    }

    /// Moves what can be moved; ready when this direction is over. Sets `moved` when anything was.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &mut bool,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.buffer.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, &self.buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(sent)) => {
                        self.buffer.advance(sent);
                        self.bytes += sent as u64;
                        *moved = true;
                    }
                }
            }
            if self.ended {
                if self.shut {
                    return Poll::Ready(Ok(()));
                }
                std::task::ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(Pin::new(&mut *to).poll_flush(cx))?;
            self.buffer.reserve(ROOM);
            match pin!(from.read_buf(&mut self.buffer)).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => *moved = true,
            }
        }
    }
}

/// Copies both ways until both directions ended or one broke, or nothing moved for `idle`. `early` are bytes the
/// upstream sent right behind its 101. Gives back the bytes moved towards upstream and client.
///
/// # Errors
/// The first error of either side; `TimedOut` when idle for too long.
pub async fn tunnel<C, U>(
    client: &mut C,
    upstream: &mut U,
    early: &Bytes,
    idle: Duration,
) -> io::Result<(u64, u64)>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Lane::new(&Bytes::new()), Lane::new(early));
    let deadline = Deadline::new();
    deadline.set(idle);
    std::future::poll_fn(|cx| -> Poll<io::Result<()>> {
        let mut moved = false;
        let to_upstream = up.poll_move(cx, client, upstream, &mut moved)?;
        let to_client = down.poll_move(cx, upstream, client, &mut moved)?;
        if to_upstream.is_ready() && to_client.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if moved {
            deadline.set(idle);
        }
        deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await?;
    Ok((up.bytes, down.bytes))
}
