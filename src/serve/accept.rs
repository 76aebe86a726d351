//! The accept loop, which nothing but a drain ends.
//!
//! When the process is out of file descriptors, `accept` fails again and again at once. The loop then waits a little, says
//! so once a second, and goes on.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::BoxError;
use super::connection::Server;
use super::drain::DrainWatch;

/// Accepts connections and hands them to the server.
pub(super) struct Acceptor<S> {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    server: Arc<Server<S>>,
    trouble: Trouble,
}

/// What an error of `accept` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// That one connection, which is gone; the next one may be fine.
    Connection,
    /// The process or the system has run out of something; accepting at once would fail again.
    Exhausted,
}

/// Counts failures in a row, and says when to log.
#[derive(Debug, Default)]
struct Trouble {
    row: u32,
    logged: Option<Instant>,
}

const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(1);

// === impl Acceptor ===

impl<S, B> Acceptor<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        listener: TcpListener,
        permits: Arc<Semaphore>,
        server: Arc<Server<S>>,
    ) -> Self {
        Self {
            listener,
            permits,
            server,
            trouble: Trouble::default(),
        }
    }

    /// Accepts until the drain has begun and its delay is over. The listening socket is closed then.
    pub(super) async fn accept_until_drained(mut self, mut drain: DrainWatch) {
        let delay = self.server.settings.drain_delay;
        let mut closing = drain.clone();
        let mut stop = pin!(async move {
            drain.draining().await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = closing.closing() => {}
            }
        });
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = self.accept() => {}
            }
        }
        self.empty_queue();
    }

    async fn accept(&mut self) {
        let Some(permit) = self.permit().await else {
            return;
        };
        match self.listener.accept().await {
            Ok(accepted) => {
                self.trouble.row = 0;
                self.start(accepted, permit);
            }
            Err(error) => self.failed(error, permit).await,
        }
    }

    /// Room for one more connection.
    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        if self.trouble.may_log(Instant::now()) {
            tracing::warn!(
                listener = self.server.settings.name,
                limit = self.server.settings.max_connections,
                "as many connections are open as may be; new ones wait"
            );
        }
        self.permits.clone().acquire_owned().await.ok()
    }

    async fn failed(&mut self, error: io::Error, permit: OwnedSemaphorePermit) {
        drop(permit);
        self.server.meter.accept_failed();
        let name = self.server.settings.name;
        match AcceptError::of(&error) {
            AcceptError::Connection => {
                tracing::debug!(listener = name, %error, "a connection was gone before it was accepted")
            }
            AcceptError::Exhausted => {
                if self.trouble.may_log(Instant::now()) {
                    tracing::error!(listener = name, %error, "cannot accept connections; trying again");
                }
                tokio::time::sleep(self.trouble.wait()).await;
            }
        }
    }

    /// Serves what the kernel has already accepted, which would be reset otherwise.
    fn empty_queue(&mut self) {
        while let Ok(permit) = self.permits.clone().try_acquire_owned() {
            match self.listener.accept().now_or_never() {
                Some(Ok(accepted)) => self.start(accepted, permit),
                Some(Err(_)) | None => break,
            }
        }
    }

    fn start(&self, (stream, addr): (TcpStream, SocketAddr), permit: OwnedSemaphorePermit) {
        self.server.clone().start(stream, addr, permit);
    }
}

// === impl AcceptError ===

impl AcceptError {
    pub(super) fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            // What Linux passes on from the new connection's own network, and a connection that went away.
            Some(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::CONNREFUSED
                | Errno::INTR
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::PERM,
            ) => Self::Connection,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever is not known is not tried again in a hot loop either.
            _ => Self::Exhausted,
        }
    }
}

// === impl Trouble ===

impl Trouble {
    fn may_log(&mut self, now: Instant) -> bool {
        let due = self
            .logged
            .is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY);
        if due {
            self.logged = Some(now);
        }
        due
    }

    fn wait(&mut self) -> Duration {
        let wait = FIRST_WAIT
            .saturating_mul(1 << self.row.min(7))
            .min(LONGEST_WAIT);
        self.row = self.row.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_told_from_a_lack_of_descriptors() {
        let of = |errno: Errno| AcceptError::of(&errno.into());
        assert_eq!(of(Errno::CONNABORTED), AcceptError::Connection);
        assert_eq!(of(Errno::MFILE), AcceptError::Exhausted);
        assert_eq!(of(Errno::NFILE), AcceptError::Exhausted);
        assert_eq!(of(Errno::NOMEM), AcceptError::Exhausted);
        assert_eq!(
            AcceptError::of(&io::Error::other("odd")),
            AcceptError::Exhausted
        );
    }

    #[test]
    fn waits_grow_up_to_a_second() {
        let mut trouble = Trouble::default();
        let waits: Vec<_> = (0..10).map(|_| trouble.wait().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_logged_once_a_second() {
        let mut trouble = Trouble::default();
        assert!(trouble.may_log(Instant::now()));
        assert!(!trouble.may_log(Instant::now()));
        tokio::time::advance(LOG_EVERY).await;
        assert!(trouble.may_log(Instant::now()));
    }
}
