//! Against real connections: what the HTTP upstream gives back of a body.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::upstream::http::{HttpUpstream, HttpUpstreamSettings};

/// Asks the first address, and at a further attempt the second.
async fn ask(
    first: SocketAddr,
    second: SocketAddr,
    request: Request<Body>,
) -> Result<StatusCode, BoxError> {
    let upstreams = [first, second].map(|address| {
        let url = format!("http://{address}/").parse().expect("a URL");
        HttpUpstream::new(HttpUpstreamSettings::new("u", url)).expect("an upstream")
    });
    let turn = Arc::new(Mutex::new(upstreams.into_iter()));
    let inner = tower::service_fn(move |request: Request<Body>| {
        let upstream = turn.lock().expect("not poisoned").next();
        upstream.expect("one of two attempts").oneshot(request)
    });
    let settings = RetrySettings {
        attempts: NonZeroU32::new(2).expect("not 0"),
        ..settings()
    };
    let service = RetryLayer::new("u", settings).layer(inner);
    Ok(service.oneshot(request).await?.status())
}

/// A server that reads one request until it has `until`, then says `reply` and closes.
async fn peer(
    until: &'static str,
    reply: &'static str,
) -> (SocketAddr, impl Future<Output = String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut text = String::new();
        let mut piece = [0; 1024];
        while !text.contains(until) {
            let length = stream.read(&mut piece).await.expect("a request");
            text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        stream.write_all(reply.as_bytes()).await.expect("a reader");
        text
    });
    (address, async { served.await.expect("served") })
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const LAST: &str = "0\r\n\r\n";
const WHOLE: &str = "\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n";

#[tokio::test]
async fn a_body_that_no_connection_took_goes_to_the_next() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dead = closed.local_addr().expect("an address");
    drop(closed);
    let (live, seen) = peer(LAST, OK).await;
    let request = plain(Method::POST, streamed(&["ab", "cd"]));
    assert_eq!(ask(dead, live, request).await.expect("an answer"), 200);
    assert!(seen.await.ends_with(WHOLE));
}

#[tokio::test]
async fn a_body_that_was_begun_goes_to_the_next_if_it_may() {
    for (until, reply, method, again) in [
        ("ab", "", Method::PUT, true),
        (LAST, "", Method::PUT, true),
        (
            LAST,
            "HTTP/1.1 503 No\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
            Method::PUT,
            true,
        ),
        ("ab", "", Method::POST, false),
    ] {
        let (first, first_seen) = peer(until, reply).await;
        let (live, seen) = peer(LAST, OK).await;
        let request = plain(method, streamed(&["ab", "cd"]));
        let result = ask(first, live, request).await;
        assert!(first_seen.await.contains(until));
        assert_eq!(result.is_ok(), again, "{result:?}");
        if again {
            assert!(seen.await.ends_with(WHOLE));
        }
    }
}
