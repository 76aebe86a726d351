//! What every server here shares: bind, say where, accept, and speak HTTP/1.1; and answers without a body, and in pieces.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::BoxError;

/// Serves until the process ends. `answer` is called for each request and cannot fail: a proxy
/// whose upstream is gone says so with a status.
pub(crate) async fn serve<F, Fut, B>(listen: SocketAddr, answer: F) -> Result<(), BoxError>
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind(listen).await?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let response = answer(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        tokio::spawn(async move {
            // A client that goes away ends its connection with an error: nothing to report.
            let _gone = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The line that ziggurat prints too, so that one reader waits for all.
fn announce(listen: SocketAddr) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{{\"listen\":\"{listen}\"}}")?;
    stdout.flush()
}

/// An answer whose pieces come one by one.
pub(crate) fn streamed<E: 'static>(
    pieces: impl Stream<Item = Result<Frame<Bytes>, E>> + Send + 'static,
    kind: &'static str,
) -> Response<UnsyncBoxBody<Bytes, E>> {
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// An answer that is no more than its status.
pub(crate) fn status<E: 'static>(status: StatusCode) -> Response<UnsyncBoxBody<Bytes, E>> {
    let nothing = Empty::new().map_err(|never| match never {});
    let mut response = Response::new(nothing.boxed_unsync());
    *response.status_mut() = status;
    response
}
