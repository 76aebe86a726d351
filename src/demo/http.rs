//! The Streamable HTTP transport, for both eras at one path.
//!
//! A request is legacy or modern by what it says. Legacy calls belong to their session and outlive the connection that
//! asked; a modern call is run by its response and ends with it. An answer that is there at once is sent as JSON; when
//! something is said before it, or it takes long, the response is an event stream.

mod events;
mod handler;
mod headers;
mod sessions;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::handler::Handler;
use super::engine::Engine;

/// How long running calls may take to finish once the server closes.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections are served at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;

/// A response body: whole, or a stream of events.
pub(crate) type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// The connection is to be cut without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the tool crash was called")]
pub(crate) struct Cut;

/// Serves until `shutdown`. All connections and sessions belong to this future.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let handler = Arc::new(Handler::new(Arc::clone(&engine)));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&handler), graceful.watcher()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    engine.closing().cancel();
    // What has not ended by then is aborted when `connections` is dropped.
    drop(tokio::time::timeout(GRACE, graceful.shutdown()).await);
    Ok(())
}

async fn connection(
    stream: TcpStream,
    handler: Arc<Handler>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Events must not wait for each other; a socket that refuses this is still good enough.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let handler = Arc::clone(&handler);
        async move { handler.handle(request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    // The client left, or was cut off: there is nobody to tell.
    drop(watcher.watch(connection).await);
}
