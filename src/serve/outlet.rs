//! The very socket, below TLS: it tells the line when the client takes nothing of what there is to send.
//!
//! The kernel takes bytes until its buffer is full, and says that there is room again when a good part of it is (on Linux a third). So
//! the time without progress is that of a client that reads nothing, or very little: less than a third of the buffer in that time. On HTTP/2
//! that is seen of a connection as a whole only; a stream whose own window stays shut while its client takes everything else has a
//! clock of its own ([`stream`](super::stream)).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line::Line;

/// A socket whose writes are watched.
#[pin_project]
pub(super) struct Outlet<T> {
    #[pin]
    io: T,
    line: Arc<Line>,
}

// === impl Outlet ===

impl<T> Outlet<T> {
    pub(super) fn new(io: T, line: Arc<Line>) -> Self {
        Self { io, line }
    }
}

impl<T: AsyncRead> AsyncRead for Outlet<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.project().io.poll_read(cx, buf)
    }
}

impl<T: AsyncWrite> AsyncWrite for Outlet<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.io.poll_write(cx, buf);
        this.line.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.io.poll_write_vectored(cx, bufs);
        this.line.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }
}
