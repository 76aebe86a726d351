//! One of several equal servers, as a process of its own: this program, started anew. It speaks both eras, forgets all sessions when it dies, and
//! writes down each call before it carries it out.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::{
    mcp::LEGACY,
    process::{self, Owned},
    until,
    upstream::{Received, Upstream, Wire},
};

/// What says to the test below where to listen, and where its journal is.
const ADDRESS: &str = "ZIGGURAT_TEST_REPLICA";
const JOURNAL: &str = "ZIGGURAT_TEST_JOURNAL";

/// How long a call takes, and a step of one that tells its progress.
const WORK: Duration = Duration::from_millis(600);
const STEP: Duration = Duration::from_millis(120);
/// How often something passes on a GET stream.
const BEAT: Duration = Duration::from_millis(200);

/// A replica that runs, or did; dropping it kills it.
pub(super) struct Replica {
    pub(super) address: SocketAddr,
    journal: PathBuf,
    process: Option<Owned>,
}

/// What the process of a replica does.
#[derive(Clone)]
struct Server {
    journal: Arc<PathBuf>,
    sessions: Arc<Mutex<BTreeSet<String>>>,
    begun: Arc<AtomicUsize>,
}

#[tokio::test]
#[ignore = "run as a process by those who need a replica"]
async fn serves() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let server = Server {
        journal: Arc::new(std::env::var(JOURNAL).unwrap().into()),
        sessions: Arc::default(),
        begun: Arc::default(),
    };
    let _upstream = Upstream::at(address.parse().unwrap(), move |received, wire| {
        server.clone().answer(received, wire)
    })
    .await;
    std::future::pending().await
}

/// What the replicas wrote down: each line is the process and the key of a call.
pub(super) fn journal(path: &Path) -> Vec<(u32, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(pid, key)| (pid.parse().unwrap(), key.to_owned()))
        .collect()
}

// === impl Replica ===

impl Replica {
    /// The one of this number, at an address that no other program of these tests has, also while it is down.
    pub(super) async fn start(number: u8, journal: &Path) -> Self {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 1 + a % 250, b, c);
        let mut replica = Self {
            address: SocketAddr::from((address, 8000 + u16::from(number))),
            journal: journal.to_owned(),
            process: None,
        };
        replica.again().await;
        replica
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().0.id()
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        process::signal(self.pid().try_into().unwrap(), "KILL");
        self.process = None;
    }

    /// Starts it, at its address, and waits until it is there.
    pub(super) async fn again(&mut self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "kill::replica::serves", "--ignored"])
            .env(ADDRESS, self.address.to_string())
            .env(JOURNAL, &self.journal)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(Owned(command.spawn().unwrap()));
        until("a replica listens", async || {
            tokio::net::TcpStream::connect(self.address).await.is_ok()
        })
        .await;
    }
}

// === impl Server ===

impl Server {
    async fn answer(self, received: Received, wire: Wire) -> Option<Wire> {
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        let modern = body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
        if body["method"] == "initialize" {
            return self.begin(&body, wire).await;
        }
        let id = received.header("mcp-session-id");
        if !modern && !self.sessions.lock().unwrap().contains(id) {
            return wire.answer("404 Not Found", "", "").await;
        }
        match &*received.method {
            "GET" => return beat(wire).await,
            "DELETE" => {
                self.sessions.lock().unwrap().remove(id);
                return wire.answer("204 No Content", "", "").await;
            }
            _ => {}
        }
        if body["id"].is_null() {
            return wire.answer("202 Accepted", "", "").await;
        }
        self.call(&body, wire).await
    }

    async fn begin(self, body: &Value, wire: Wire) -> Option<Wire> {
        let (pid, at) = (
            std::process::id(),
            self.begun.fetch_add(1, Ordering::SeqCst),
        );
        let id = format!("{pid}-{at}");
        self.sessions.lock().unwrap().insert(id.clone());
        let headers = format!("content-type: application/json\r\nmcp-session-id: {id}\r\n");
        let result = json!({"protocolVersion": LEGACY, "capabilities": {}});
        wire.answer("200 OK", &headers, &done(body, result)).await
    }

    async fn call(self, body: &Value, mut wire: Wire) -> Option<Wire> {
        let params = &body["params"];
        if let Some(key) = params["arguments"]["key"].as_str() {
            self.write_down(key);
        }
        let result = json!({"content": [], "tools": [], "resultType": "complete", "pid": std::process::id()});
        if params["name"] != "progress" {
            sleep(WORK).await;
            return wire.json(&done(body, result)).await;
        }
        wire = wire.sse().await;
        for step in 0..5 {
            sleep(STEP).await;
            let progress =
                json!({"progressToken": params["_meta"]["progressToken"], "progress": step});
            let progress =
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress});
            wire = wire.event(&progress.to_string()).await;
        }
        wire.event(&done(body, result)).await.end().await
    }

    /// One write at the end of the file, before the work begins: a kill takes nothing of it back.
    fn write_down(&self, key: &str) {
        let mut file = OpenOptions::new();
        let mut file = file.append(true).create(true).open(&*self.journal).unwrap();
        let line = format!("{} {key}\n", std::process::id());
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// A GET stream over which something passes again and again.
async fn beat(wire: Wire) -> Option<Wire> {
    let mut wire = wire.sse().await;
    let params = json!({"level": "info", "data": std::process::id()});
    let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
    while timeout(BEAT, wire.gone()).await.is_err() {
        wire = wire.event(&message.to_string()).await;
    }
    None
}

fn done(body: &Value, result: Value) -> String {
    json!({"jsonrpc": "2.0", "id": body["id"], "result": result}).to_string()
}
