//! One connection: its TLS handshake, its HTTP, its clocks, and how it ends.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;

use super::again::Again;
use super::exchange::Exchanges;
use super::floor::{Floor, Lease};
use super::io::LineIo;
use super::line::{Doing, Line, Order};
use super::meter::Meter;
use super::outlet::Outlet;
use super::stream::Stream;
use super::tls::Tls;
use super::{BoxError, Peer, ServeSettings};

/// What all connections of a listener share.
pub(super) struct Server<S> {
    pub(super) settings: ServeSettings,
    pub(super) meter: Meter,
    service: S,
    tls: Option<Tls>,
    http: auto::Builder<Streams>,
    tasks: TaskTracker,
    floor: Arc<Floor>,
}

/// Runs hyper's tasks (the streams of HTTP/2) where the listener waits for them, each with its clock.
#[derive(Clone)]
struct Streams {
    tasks: TaskTracker,
    stall: Option<Duration>,
    meter: Meter,
}

/// The clocks of one connection: one timer, which looks at the line when it fires.
struct Clock {
    line: Arc<Line>,
    head: Duration,
    idle: Duration,
    stall: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    /// The connection was asked to close for idleness, so the next time it is cut.
    warned: bool,
}

/// What a clock says about its connection.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// It waits for nothing, and should close in good order.
    Close,
    /// The client has had its time.
    Cut,
    /// The client reads nothing of what there is to send.
    Stalled,
}

/// How often a silent TCP connection is probed, so that a vanished client is noticed under a standing stream.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15));
const H2_PING: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

// === impl Server ===

impl<S> Server<S> {
    pub(super) fn new(
        service: S,
        tls: Option<Tls>,
        settings: ServeSettings,
        tasks: TaskTracker,
        floor: Arc<Floor>,
    ) -> Self {
        let meter = Meter::new(settings.name);
        Self {
            service,
            tls,
            http: http(&settings, tasks.clone(), meter.clone()),
            meter,
            settings,
            tasks,
            floor,
        }
    }
}

impl<S, B> Server<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts the task of a new connection.
    pub(super) fn start(
        self: Arc<Self>,
        stream: TcpStream,
        addr: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let lease = self.floor.enter(permit, self.meter.clone());
        let line = lease.line().clone();
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let mut connection = pin!(self.connection(stream, addr, lease));
            Again::new(poll_fn(|cx| {
                line.task.register(cx.waker());
                match line.order() {
                    Order::Cut => Poll::Ready(()),
                    Order::Serve | Order::Drain => connection.as_mut().poll(cx),
                }
            }))
            .await;
        });
    }

    async fn connection(&self, stream: TcpStream, addr: SocketAddr, lease: Lease) {
        tune(&stream);
        let stream = Outlet::new(stream, lease.line().clone());
        let Some(tls) = &self.tls else {
            return self.serve(stream, Peer { addr, tls: false }, lease).await;
        };
        let handshake = tls.acceptor().accept(stream);
        match tokio::time::timeout(self.settings.handshake_timeout, handshake).await {
            // Boxed, so that connections without TLS are not as large.
            Ok(Ok(stream)) => Box::pin(self.serve(stream, Peer { addr, tls: true }, lease)).await,
            Ok(Err(error)) => {
                self.meter.handshake_failed();
                tracing::debug!(%addr, %error, "a TLS handshake failed");
            }
            Err(_) => {
                self.meter.handshake_failed();
                tracing::debug!(%addr, "a TLS handshake took too long");
            }
        }
    }

    async fn serve<T>(&self, stream: T, peer: Peer, lease: Lease)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let line = lease.line().clone();
        line.opened();
        let exchanges = Exchanges {
            service: self.service.clone().into(),
            peer,
            line: line.clone(),
            floor: self.floor.clone(),
        };
        let io = TokioIo::new(LineIo::new(stream, lease));
        let mut http = pin!(self.http.serve_connection_with_upgrades(io, exchanges));
        let mut clock = Clock::new(line.clone(), &self.settings);
        let mut closing = false;
        let ended = poll_fn(|cx| {
            loop {
                // HTTP first: a request that has arrived is served, whatever the clock or a drain say.
                if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                match clock.poll(cx) {
                    Poll::Ready(Due::Cut) => return Poll::Ready(None),
                    Poll::Ready(Due::Stalled) => {
                        self.meter.write_stalled();
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Due::Close) => {}
                    Poll::Pending if !closing && line.should_close() => {}
                    Poll::Pending => return Poll::Pending,
                }
                if !closing {
                    closing = true;
                    http.as_mut().graceful_shutdown();
                }
            }
        })
        .await;
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(addr = %peer.addr, %error, "a connection ended with an error")
            }
            None => tracing::debug!(addr = %peer.addr, "a client took too long"),
        }
    }
}

fn http(settings: &ServeSettings, tasks: TaskTracker, meter: Meter) -> auto::Builder<Streams> {
    let stall = settings.write_stall;
    let mut builder = auto::Builder::new(Streams {
        tasks,
        stall,
        meter,
    });
    let head = settings.max_header_bytes.max(8 * 1024);
    builder
        .http1()
        // The line's clock does this, and tells a slow head from an idle connection.
        .header_read_timeout(None)
        .max_buf_size(head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .max_concurrent_streams(settings.max_streams);
    builder
}

fn tune(stream: &TcpStream) {
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket option could not be set");
    }
}

// === impl Streams ===

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let task = Stream::new(task, self.stall, self.meter.clone());
        self.tasks.spawn(task);
    }
}

// === impl Clock ===

impl Clock {
    fn new(line: Arc<Line>, settings: &ServeSettings) -> Self {
        Self {
            line,
            head: settings.header_read_timeout,
            idle: settings.idle_timeout,
            stall: settings.write_stall,
            timer: Box::pin(tokio::time::sleep(settings.header_read_timeout)),
            warned: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        // The timer may fire early, never late: only a head and a write that waits bring the deadline closer.
        let head = match self.line.doing() {
            Doing::Head(since) => Some(since + self.head),
            Doing::Fresh(_) | Doing::Idle(_) | Doing::Busy => None,
        };
        for closer in head.into_iter().chain(self.stalled()) {
            if closer < self.timer.deadline() {
                self.timer.as_mut().reset(closer);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let stalled = self.stalled();
            if stalled.is_some_and(|due| due <= now) {
                return Poll::Ready(Due::Stalled);
            }
            let deadline = match self.line.doing() {
                Doing::Fresh(since) | Doing::Head(since) => {
                    if since + self.head <= now {
                        return Poll::Ready(Due::Cut);
                    }
                    since + self.head
                }
                Doing::Idle(since) if since + self.idle <= now => {
                    if self.warned {
                        return Poll::Ready(Due::Cut);
                    }
                    self.warned = true;
                    self.timer.as_mut().reset(now + self.idle);
                    return Poll::Ready(Due::Close);
                }
                Doing::Idle(since) => since + self.idle,
                Doing::Busy => now + self.idle,
            };
            let deadline = stalled.map_or(deadline, |due| due.min(deadline));
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// When the client, which reads nothing now, has had its time for it.
    fn stalled(&self) -> Option<Instant> {
        Some(self.line.stalled()? + self.stall?)
    }
}
