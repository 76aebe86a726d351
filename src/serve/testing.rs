//! What tests of a listener need: one that runs, services for it, and a client that writes bytes as they are.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{BoxError, Drain, ServeSettings, Served, Tls, run};

/// The body of every test response.
pub(crate) type TestBody = BoxBody<Bytes, Infallible>;

/// A listener that runs on a port of its own.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) task: JoinHandle<Served>,
}

/// A connection on which a test writes what it likes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

/// A whole response.
pub(crate) fn whole(body: impl Into<Bytes>) -> Response<TestBody> {
    Response::new(Full::new(body.into()).boxed())
}

/// An event stream with one event, that never ends.
pub(crate) fn endless() -> Response<TestBody> {
    use futures_util::StreamExt;
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))]);
    let body = StreamBody::new(first.chain(stream::pending()));
    let mut response = Response::new(BodyExt::boxed(body));
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("text/event-stream"),
    );
    response
}

// === impl Running ===

impl Running {
    pub(crate) async fn start<S, B>(service: S, settings: ServeSettings) -> Self
    where
        S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::start_tls(service, settings, None).await
    }

    pub(crate) async fn start_tls<S, B>(
        service: S,
        settings: ServeSettings,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self
    where
        S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let drain = Drain::new();
        let tls = tls.map(Tls::new);
        let task = tokio::spawn(run(listener, tls, service, settings, drain.watch()));
        Self { addr, drain, task }
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw {
            stream: TcpStream::connect(self.addr).await.unwrap(),
        }
    }
}

// === impl Raw ===

impl Raw {
    pub(crate) async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
    }

    /// Reads until `end` has come.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            match self.stream.read_u8().await {
                Ok(byte) => text.push(char::from(byte)),
                Err(error) => panic!("{error} after {text:?}, before {end:?}"),
            }
        }
        text
    }

    /// Reads until the other side closes, in whatever way.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        drop(self.stream.read_to_end(&mut bytes).await);
        String::from_utf8(bytes).unwrap()
    }
}
