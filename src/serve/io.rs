//! A connection's socket: it tells the line when bytes arrive, holds the lease, and closes without losing the answer.
//!
//! When the server closes a socket that still has unread bytes (a body that was refused for its size, say), the kernel
//! resets the connection, and the client may never see the response. So after the last byte is written, what the client
//! still sends is read and thrown away, for at most [`LINGER`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::floor::Lease;
use super::line::{Line, Order};

/// How long a client may go on sending after its connection was closed on this side.
const LINGER: Duration = Duration::from_secs(2);

/// A socket with its lease.
#[pin_project]
pub(super) struct LineIo<T> {
    #[pin]
    io: T,
    line: Arc<Line>,
    closing: Closing,
    // After `io`, so that the socket is closed when the permit comes back.
    _lease: Lease,
}

/// How far the closing of a socket is.
enum Closing {
    Open,
    /// The other side has closed.
    Ended,
    /// Our side is shut.
    Shut,
    /// The client still sends.
    Lingering(Pin<Box<Sleep>>),
}

// === impl LineIo ===

impl<T> LineIo<T> {
    pub(super) fn new(io: T, lease: Lease) -> Self {
        Self {
            io,
            line: lease.line().clone(),
            closing: Closing::Open,
            _lease: lease,
        }
    }
}

impl<T: AsyncRead> AsyncRead for LineIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.line.upgraded() {
            this.line.reader.register(cx.waker());
            not_cut(this.line)?;
        }
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        ready!(this.io.poll_read(cx, buf))?;
        if buf.filled().len() > before {
            this.line.received();
        } else if room {
            *this.closing = Closing::Ended;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite> AsyncWrite for LineIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if this.line.upgraded() {
            this.line.writer.register(cx.waker());
            not_cut(this.line)?;
        }
        let sent = ready!(this.io.poll_write(cx, buf))?;
        this.line.sent();
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if this.line.upgraded() {
            this.line.writer.register(cx.waker());
            not_cut(this.line)?;
        }
        let sent = ready!(this.io.poll_write_vectored(cx, bufs))?;
        this.line.sent();
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if matches!(this.closing, Closing::Open | Closing::Ended) {
            ready!(this.io.as_mut().poll_shutdown(cx))?;
            if matches!(this.closing, Closing::Ended) || this.line.upgraded() {
                return Poll::Ready(Ok(()));
            }
            *this.closing = Closing::Shut;
        }
        poll_linger(this.io, this.closing, cx).map(Ok)
    }
}

/// Reads and drops what still comes. Returns at once if nothing is waiting to be read.
fn poll_linger<T: AsyncRead>(
    mut io: Pin<&mut T>,
    closing: &mut Closing,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let mut scratch = [0; 8 * 1024];
    loop {
        if let Closing::Lingering(limit) = closing
            && (limit.deadline() <= Instant::now() || limit.as_mut().poll(cx).is_ready())
        {
            return Poll::Ready(());
        }
        let mut buf = ReadBuf::new(&mut scratch);
        match io.as_mut().poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                if matches!(closing, Closing::Shut) {
                    *closing = Closing::Lingering(Box::pin(tokio::time::sleep(LINGER)));
                }
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending if matches!(closing, Closing::Lingering(_)) => return Poll::Pending,
            Poll::Pending => return Poll::Ready(()),
        }
    }
}

fn not_cut(line: &Line) -> io::Result<()> {
    match line.order() {
        Order::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
        Order::Serve | Order::Drain => Ok(()),
    }
}
