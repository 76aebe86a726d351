//! Connections: how they come about, in which time, and how they are kept.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use http::{Uri, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client as HyperClient,
        connect::{
            self, Connected, HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use pin_project::pin_project;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

use super::{
    Client,
    error::{ConnectTimeout, DnsFailed},
    settings::{HttpUpstreamError, HttpUpstreamSettings},
    tls,
};
use crate::error::BoxError;

/// Opens connections, each within a time limit.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    kind: Kind,
    limit: Duration,
}

#[derive(Debug, Clone)]
enum Kind {
    Tcp(Tcp),
    Tls(HttpsConnector<Tcp>),
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    Http1,
    Http2,
    /// Whichever the server prefers, by ALPN.
    Both,
}

/// Where a name leads.
#[derive(Debug, Clone)]
enum Resolver {
    /// Where the system says.
    System(GaiResolver),
    /// There.
    Fixed(IpAddr),
}

type Tcp = HttpConnector<Resolver>;
type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection that tells nothing of itself: what hyper's own would put into each response (its addresses), nobody reads.
#[pin_project]
pub(super) struct Stream(#[pin] Connection);

/// How many TCP probes go unanswered before a connection is given up, and the time between them.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

// === impl Versions ===

impl Versions {
    pub(super) fn of(settings: &HttpUpstreamSettings) -> Self {
        match (settings.http2, settings.url.scheme()) {
            (true, _) => Self::Http2,
            (false, Some(scheme)) if *scheme == Scheme::HTTPS => Self::Both,
            (false, _) => Self::Http1,
        }
    }

    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Both => &[b"h2", b"http/1.1"],
        }
    }
}

/// A pool of connections to one endpoint.
pub(super) fn client(
    settings: &HttpUpstreamSettings,
    versions: Versions,
) -> Result<Client, HttpUpstreamError> {
    // The tasks of the executor live as long as the connections that they serve.
    let mut builder = HyperClient::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(settings.pool_idle)
        .pool_max_idle_per_host(settings.pool_max)
        .http2_only(versions == Versions::Http2)
        // Repeats what a closing connection gave back untouched, and nothing else.
        .retry_canceled_requests(true);
    if !settings.keepalive.is_zero() {
        builder
            .http2_keep_alive_interval(settings.keepalive)
            .http2_keep_alive_timeout(PROBE_INTERVAL);
    }
    Ok(builder.build(Connector::new(settings, versions)?))
}

// === impl Connector ===

impl Connector {
    fn new(settings: &HttpUpstreamSettings, versions: Versions) -> Result<Self, HttpUpstreamError> {
        let resolver = match settings.address {
            Some(address) => Resolver::Fixed(address),
            None => Resolver::System(GaiResolver::new()),
        };
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        if !settings.keepalive.is_zero() {
            tcp.set_keepalive(Some(settings.keepalive));
            tcp.set_keepalive_interval(Some(PROBE_INTERVAL));
            tcp.set_keepalive_retries(Some(PROBES));
        }
        let kind = if settings.url.scheme() == Some(&Scheme::HTTPS) {
            let tls = tls::config(&settings.tls, versions.alpn())?;
            Kind::Tls(HttpsConnector::from((tcp, tls)))
        } else {
            Kind::Tcp(tcp)
        };
        Ok(Self {
            kind,
            limit: settings.connect_timeout,
        })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { kind, limit } = self.clone();
        Box::pin(async move {
            let connected = async {
                match kind {
                    Kind::Tcp(tcp) => match tcp.oneshot(uri).await {
                        Ok(stream) => Ok(MaybeHttpsStream::Http(stream)),
                        Err(error) => Err(error.into()),
                    },
                    Kind::Tls(tls) => tls.oneshot(uri).await,
                }
            };
            match tokio::time::timeout(limit, connected).await {
                Ok(result) => result.map(Stream),
                Err(_) => Err(ConnectTimeout { limit }.into()),
            }
        })
    }
}

// === impl Resolver ===

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = DnsFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DnsFailed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DnsFailed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let all: Vec<SocketAddr> = match resolver {
                Self::System(system) => system.oneshot(name).await.map_err(DnsFailed)?.collect(),
                // The connector puts the port in.
                Self::Fixed(address) => vec![SocketAddr::new(address, 0)],
            };
            Ok(all.into_iter())
        })
    }
}

// === impl Stream ===

impl connect::Connection for Stream {
    fn connected(&self) -> Connected {
        if self.0.connected().is_negotiated_h2() {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.project().0.poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().0.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().0.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_shutdown(cx)
    }
}
