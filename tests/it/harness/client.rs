//! A small HTTP client: one connection for each request, so that dropping the answer is going away.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::within;

/// Whom to talk to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Where its MCP endpoint is.
    pub(crate) path: &'static str,
}

/// The answer to a request; dropping it closes the connection.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    unread: Vec<u8>,
    connection: JoinHandle<()>,
}

/// An event of an event stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) data: String,
}

// === impl Target ===

impl Target {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            path: "/mcp",
        }
    }

    /// The same, with its MCP endpoint at another path.
    pub(crate) fn at(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// Sends a request, and waits for the head of its answer.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// The same, where it may fail.
    pub(crate) async fn try_send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Answer, hyper::Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            let _ended = connection.with_upgrades().await;
        });
        if !request.headers().contains_key(header::HOST) {
            let host = format!("localhost:{}", self.address.port());
            request
                .headers_mut()
                .insert(header::HOST, host.parse().unwrap());
        }
        let answer = within("the head of an answer", sender.send_request(request)).await;
        let (parts, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) => {
                connection.abort();
                return Err(error);
            }
        };
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
            unread: Vec::new(),
            connection,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "").await
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(body.into())).unwrap())
            .await
    }

    /// A POST as MCP clients send it, with more headers.
    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut all = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        all.extend_from_slice(headers);
        self.request("POST", path, &all, body).await
    }

    /// A bare connection.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A bare connection that takes little at a time.
    pub(crate) async fn narrow(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Writes bytes, and reads until the other side closes. A connection that is reset counts as closed.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        let _cut = stream.write_all(bytes.as_ref()).await;
        read_all(&mut stream).await
    }
}

/// Reads until the other side closes.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut chunk = vec![0; 16 << 10];
    within("the other side closes", async {
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            all.extend_from_slice(&chunk[..n]);
        }
    })
    .await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until `what` has come.
pub(crate) async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), what: &str) -> String {
    let mut all = Vec::new();
    within(what, async {
        loop {
            let from = all.len().saturating_sub(what.len());
            all.reserve(64 << 10);
            let n = stream.read_buf(&mut all).await.unwrap();
            let new = all[from..].windows(what.len());
            if new.into_iter().any(|window| window == what.as_bytes()) {
                return String::from_utf8_lossy(&all).into_owned();
            }
            assert!(
                n > 0,
                "closed before {what:?}: {}",
                String::from_utf8_lossy(&all)
            );
        }
    })
    .await
}

// === impl Answer ===

impl Answer {
    /// The header as text; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type").starts_with("text/event-stream")
    }

    /// The next bytes; `None` at the end, the error if it broke off.
    pub(crate) async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match within("more of an answer", self.body.frame()).await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => {}
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }

    pub(crate) async fn bytes(mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.unread);
        while let Some(chunk) = self.chunk().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        all
    }

    pub(crate) async fn text(self) -> String {
        String::from_utf8(self.bytes().await).unwrap()
    }

    pub(crate) async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"))
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|w| w == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..at + 2).collect();
                match Event::read(&String::from_utf8(block).unwrap()) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            match self.chunk().await? {
                Ok(chunk) => self.unread.extend_from_slice(&chunk),
                Err(_broken) => return None,
            }
        }
    }

    /// The next message of an event stream.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            let event = self.event().await.expect("the stream has ended");
            if !event.data.is_empty() {
                return serde_json::from_str(&event.data).unwrap();
            }
        }
    }

    /// All messages: of a JSON answer, or of an event stream up to its end.
    pub(crate) async fn messages(mut self) -> Vec<Value> {
        if !self.is_stream() {
            return match self.json().await {
                Value::Array(all) => all,
                one => vec![one],
            };
        }
        let mut all = Vec::new();
        while let Some(event) = self.event().await {
            if !event.data.is_empty() {
                all.push(serde_json::from_str(&event.data).unwrap());
            }
        }
        all
    }

    /// The last message: the answer to a call.
    pub(crate) async fn last(self) -> Value {
        self.messages().await.pop().expect("a message")
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

// === impl Event ===

impl Event {
    fn read(block: &str) -> Option<Self> {
        let mut event = Self::default();
        let mut found = false;
        for line in block.lines().filter(|line| !line.starts_with(':')) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "data" => event.data.push_str(value),
                "id" => event.id = Some(value.to_owned()),
                "retry" => event.retry = Some(value.to_owned()),
                _ => {}
            }
            found |= !line.is_empty();
        }
        found.then_some(event)
    }
}
