//! Upstreams that do what a test tells them, over bare TCP.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use super::until;

/// A server that plays a script for each request.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Received>>,
    left: AtomicUsize,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// The connection that a request came on; what is told to it goes out at once.
pub(crate) struct Wire {
    stream: TcpStream,
    seen: Arc<Seen>,
    chunked: bool,
}

/// An address where nobody listens, and nobody can while the socket is kept.
pub(crate) fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

impl Upstream {
    /// Plays `script` for each request.
    pub(crate) async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Received, Wire) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = Option<Wire>> + Send + 'static,
    {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// The same at this address.
    pub(crate) async fn at<F, Fut>(address: SocketAddr, script: F) -> Self
    where
        F: Fn(Received, Wire) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = Option<Wire>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (script, seen) = (script.clone(), shared.clone());
                connections.spawn(async move {
                    let mut wire = Wire {
                        stream,
                        seen: seen.clone(),
                        chunked: false,
                    };
                    while let Some(request) = wire.read().await {
                        seen.requests.lock().unwrap().push(request.clone());
                        match script(request, wire).await {
                            Some(back) => wire = back,
                            None => return,
                        }
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What has come so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Waits for a request that is like this.
    pub(crate) async fn receives(&self, what: &str, like: impl Fn(&Received) -> bool) -> Received {
        let mut found = None;
        until(what, async || {
            found = self.received().into_iter().find(|r| like(r));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Waits until the proxy has left a stalled connection.
    pub(crate) async fn left(&self) {
        until("the upstream's connection is closed", async || {
            self.seen.left.load(Ordering::SeqCst) > 0
        })
        .await;
    }
}

// === impl Received ===

impl Received {
    /// The header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }
}

// === impl Wire ===

impl Wire {
    async fn read(&mut self) -> Option<Received> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ').map(str::to_owned);
        let mut received = Received {
            method: first.next()?,
            path: first.next()?,
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            body: String::new(),
        };
        let mut body = bytes[end + 4..].to_vec();
        let length: usize = received.header("content-length").parse().unwrap_or(0);
        let chunked = received.header("transfer-encoding") == "chunked";
        while body.len() < length || chunked && !body.ends_with(b"0\r\n\r\n") {
            if self.stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        received.body = String::from_utf8_lossy(&body).into_owned();
        Some(received)
    }

    /// A whole answer.
    pub(crate) async fn answer(mut self, status: &str, headers: &str, body: &str) -> Option<Self> {
        let text = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(text.as_bytes()).await.ok()?;
        Some(self)
    }

    /// A JSON answer.
    pub(crate) async fn json(self, body: &str) -> Option<Self> {
        self.answer("200 OK", "content-type: application/json\r\n", body)
            .await
    }

    /// The head of an event stream.
    pub(crate) async fn sse(mut self) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let _gone = self.stream.write_all(head.as_bytes()).await;
        self.chunked = true;
        self
    }

    /// Bytes of the body.
    pub(crate) async fn drip(mut self, text: &str) -> Self {
        let text = if self.chunked {
            format!("{:x}\r\n{text}\r\n", text.len())
        } else {
            text.to_owned()
        };
        let _gone = self.stream.write_all(text.as_bytes()).await;
        self
    }

    /// A message event.
    pub(crate) async fn event(self, data: &str) -> Self {
        self.drip(&format!("event: message\ndata: {data}\n\n"))
            .await
    }

    /// The end of the body.
    pub(crate) async fn end(mut self) -> Option<Self> {
        self.stream.write_all(b"0\r\n\r\n").await.ok()?;
        self.chunked = false;
        Some(self)
    }

    /// Says nothing more until the other side goes away, and notes that it did.
    pub(crate) async fn stall(mut self) -> Option<Self> {
        let mut sink = [0; 1024];
        while let Ok(1..) = self.stream.read(&mut sink).await {}
        self.seen.left.fetch_add(1, Ordering::SeqCst);
        None
    }

    /// Waits until the other side goes away, and notes that it did.
    pub(crate) async fn gone(&mut self) {
        let mut sink = [0; 1024];
        while let Ok(1..) = self.stream.read(&mut sink).await {}
        self.seen.left.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts the connection with a reset.
    pub(crate) fn reset(self) -> Option<Self> {
        #[expect(
            deprecated,
            reason = "lingering for no time is how a reset is sent; it does not block"
        )]
        self.stream
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        None
    }

    /// Cuts the connection in the middle.
    pub(crate) fn close(self) -> Option<Self> {
        None
    }

    /// Switches protocols and echoes.
    pub(crate) async fn upgrade_and_echo(mut self) -> Option<Self> {
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        self.stream.write_all(head.as_bytes()).await.ok()?;
        let mut chunk = [0; 1024];
        while let Ok(n @ 1..) = self.stream.read(&mut chunk).await {
            self.stream.write_all(&chunk[..n]).await.ok()?;
        }
        self.seen.left.fetch_add(1, Ordering::SeqCst);
        None
    }
}
