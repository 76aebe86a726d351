//! Against scripted servers on loopback: raw TCP where bytes and closes matter, hyper where HTTP/2 or TLS do.

use std::net::SocketAddr;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

use super::*;
use crate::{error::find, mcp::CallFacts};

mod cancel;
mod failures;
mod headers;
mod pool;
mod streams;
mod upgrade;
mod versions;

/// A raw server.
struct Peer(TcpListener);

/// One of its connections.
struct Conn(BufReader<TcpStream>);

/// A request as it came over the wire.
#[derive(Debug)]
struct Seen {
    line: String,
    headers: HeaderMap,
    body: String,
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Peer {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    fn settings(&self, path: &str) -> HttpUpstreamSettings {
        let url = format!("http://{}{path}", self.address());
        HttpUpstreamSettings::new("test", url.parse().expect("a URL"))
    }

    fn upstream(&self) -> HttpUpstream {
        HttpUpstream::new(self.settings("")).expect("of use")
    }

    async fn accept(&self) -> Conn {
        let (stream, _) = self.0.accept().await.expect("a connection");
        Conn(BufReader::new(stream))
    }

    /// Answers one request on a new connection.
    async fn serve(&self, answer: &str) -> (Conn, Seen) {
        let mut conn = self.accept().await;
        let seen = conn.request().await;
        conn.write(answer).await;
        (conn, seen)
    }

    /// Nobody has connected since the last accept.
    async fn is_left_alone(&self) -> bool {
        let marker = TcpStream::connect(self.address()).await.expect("open");
        let (_, first) = self.0.accept().await.expect("the marker at least");
        marker.local_addr().expect("connected") == first
    }
}

impl Conn {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.expect("text");
        line.trim_end().to_owned()
    }

    async fn head(&mut self) -> Seen {
        let line = self.line().await;
        let mut headers = HeaderMap::new();
        loop {
            let field = self.line().await;
            let Some((name, value)) = field.split_once(": ") else {
                break;
            };
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        Seen {
            line,
            headers,
            body: String::new(),
        }
    }

    async fn chunk(&mut self) -> String {
        let size = usize::from_str_radix(&self.line().await, 16).expect("a size");
        let chunk = self.bytes(size).await;
        assert_eq!(self.line().await, "");
        chunk
    }

    async fn bytes(&mut self, size: usize) -> String {
        let mut bytes = vec![0; size];
        self.0.read_exact(&mut bytes).await.expect("enough");
        String::from_utf8(bytes).expect("text")
    }

    async fn request(&mut self) -> Seen {
        let mut seen = self.head().await;
        let size = seen.headers.get("content-length");
        if let Some(size) = size.and_then(|v| v.to_str().ok()?.parse().ok()) {
            seen.body = self.bytes(size).await;
        } else if seen.headers.contains_key("transfer-encoding") {
            loop {
                match self.chunk().await {
                    end if end.is_empty() => break,
                    chunk => seen.body.push_str(&chunk),
                }
            }
        }
        seen
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("open");
    }

    /// Waits until the other side has closed the connection.
    async fn closed(mut self) {
        let mut rest = Vec::new();
        let _reset = self.0.read_to_end(&mut rest).await;
    }
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    Request::post(path)
        .body(Body::full(body))
        .expect("a request")
}

/// The request with its MCP facts filed.
fn mcp(body: &'static str) -> (Request<Body>, Arc<Exchange>) {
    let mut request = post("/mcp", body);
    for (name, value) in [
        ("mcp-session-id", "s-1"),
        ("mcp-protocol-version", "2025-11-25"),
        ("authorization", "Bearer t"),
    ] {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let bytes = Bytes::from_static(body.as_bytes());
    let facts = CallFacts::read(&Method::POST, request.headers(), &bytes).expect("a message");
    let exchange = Exchange::of(&mut request);
    exchange.set_call(facts);
    (request, exchange)
}

async fn text(response: Response<HttpBody>) -> String {
    let bytes = response.into_body().collect().await.expect("whole");
    String::from_utf8(bytes.to_bytes().to_vec()).expect("text")
}

/// Lets everything that can go on do so.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn error(upstream: HttpUpstream, request: Request<Body>) -> BoxError {
    upstream
        .oneshot(request)
        .await
        .map(|r| r.status())
        .expect_err("a failure")
}
