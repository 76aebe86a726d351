//! The listener: it accepts connections, speaks HTTP/1.1 and HTTP/2 on them, and hands each request to one service.
//!
//! [`run`] owns everything that it starts. Every connection is a task that it waits for, every socket holds a permit
//! that comes back when the socket is closed, and when `run` returns, all of that is over. Dropping its future cuts all
//! connections.
//!
//! What a client may do to a listener is bounded here, before any layer sees a request: the time for a TLS handshake
//! and for a request head, the size of a head, idle time, the time for which a client reads nothing of what there is to send (60 s: its
//! connection is cut, so that nothing is held for it, and its streams can be resumed; of a connection that goes on, an HTTP/2 stream whose own
//! window stays shut is reset), streams on one connection, and connections altogether.
//!
//! A shutdown has two stages, driven through [`Drain`]. *Draining*: after `drain_delay` nothing more is accepted, idle
//! connections close, and exchanges that are under way finish. *Closing*: the stack above has `close_grace` to end its
//! streams well; what is still open then is cut.

mod accept;
mod again;
mod connection;
mod drain;
mod exchange;
mod fd;
mod floor;
mod io;
mod line;
mod meter;
mod outlet;
mod stream;
mod tls;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::accept::Acceptor;
use self::connection::Server;
use self::floor::{CutOnDrop, Floor};
use self::line::Order;

pub use self::drain::{Drain, DrainWatch, Phase};
pub use self::fd::{connection_bound, raise_fd_limit};
pub use self::tls::{Tls, TlsError, load_tls};

/// How a listener treats its connections.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// What the listener is called in logs and in the label `listener` of its metrics.
    pub name: &'static str,
    /// How long a client may take for a request head, and for the first byte on a new connection.
    pub header_read_timeout: Duration,
    /// How long a connection, or a stream of HTTP/2, may take no byte of what there is to send before it is cut; none is for ever.
    pub write_stall: Option<Duration>,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a connection without an exchange is kept open.
    pub idle_timeout: Duration,
    /// The largest request head, in bytes; at least 8192.
    pub max_header_bytes: usize,
    /// How many streams an HTTP/2 client may have open on one connection.
    pub max_streams: u32,
    /// How many connections may be open; more wait in the kernel's queue. See [`connection_bound`].
    pub max_connections: usize,
    /// How long a draining listener goes on accepting, so that load balancers can notice.
    pub drain_delay: Duration,
    /// How long the stack above has to end its streams when the drain's limit is reached.
    pub close_grace: Duration,
}

/// Who sent a request; found in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address of the other end of the connection.
    pub addr: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// What became of the exchanges that were open when a listener began to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// They ended by themselves while draining.
    pub finished: u64,
    /// They were still open at the drain's limit, and ended in the grace or were cut after it.
    pub cut: u64,
}

type BoxError = Box<dyn Error + Send + Sync>;

/// After the last connection was told to end, how long its socket may take to go.
const LAST_SOCKET: Duration = Duration::from_secs(1);

/// Serves `service` on `listener` until `drain` says that it is over, and every connection has ended.
pub async fn run<S, B>(
    listener: TcpListener,
    tls: Option<Tls>,
    service: S,
    settings: ServeSettings,
    mut drain: DrainWatch,
) -> Served
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let floor = Floor::new(drain.clone());
    let _cut = CutOnDrop(floor.clone());
    let tasks = TaskTracker::new();
    let room = settings
        .max_connections
        .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let permits = Arc::new(Semaphore::new(room));
    // Every permit back means that every socket is closed.
    let all_closed = async |within: Duration| {
        let all = permits.acquire_many(room as u32);
        tokio::time::timeout(within, all).await.is_ok()
    };

    let server = Arc::new(Server::new(
        service,
        tls,
        settings,
        tasks.clone(),
        floor.clone(),
    ));
    Acceptor::new(listener, permits.clone(), server.clone())
        .accept_until_drained(drain.clone())
        .await;

    floor.order(Order::Drain);
    tokio::select! {
        all = permits.acquire_many(room as u32) => drop(all),
        () = drain.closing() => {}
    }
    all_closed(server.settings.close_grace).await;
    floor.order(Order::Cut);
    tasks.close();
    tasks.wait().await;
    if !all_closed(LAST_SOCKET).await {
        let left = floor.connections();
        tracing::warn!(
            listener = server.settings.name,
            left,
            "upgraded connections were not given back"
        );
    }
    floor.served()
}

// === impl ServeSettings ===

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            name: "data",
            header_read_timeout: Duration::from_secs(10),
            write_stall: Some(Duration::from_secs(60)),
            handshake_timeout: Duration::from_secs(10),
            // Longer than the 60 s after which common load balancers let go, so that they close first.
            idle_timeout: Duration::from_secs(75),
            max_header_bytes: 64 * 1024,
            max_streams: 256,
            max_connections: 4096,
            drain_delay: Duration::ZERO,
            close_grace: Duration::from_secs(2),
        }
    }
}
