//! Children under load: sessions with GET streams and calls that tell their progress, and callers of the modern era.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{
    BIN, Start, Ziggurat,
    client::{Answer, Target},
    config,
    mcp::{LEGACY, Session, initialize},
    process, until,
};

/// Where each process of a child's family writes down that it is there.
const FAMILY: &str = "family";

/// The demo server with a grandchild that does not go by itself.
const DEMO: &str = "sleep 600 </dev/null >/dev/null 2>&1 &\necho $! >>family\necho $$ >>family";

const SESSIONS: usize = 10;
const MODERN: usize = 6;

/// How often clients had an answer, an error, and a new session.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) answered: AtomicUsize,
    pub(super) failed: AtomicUsize,
    pub(super) opened: AtomicUsize,
}

/// Clients who call until they are told to stop, or, if that is to be expected, until ziggurat is not there any more.
pub(super) struct Load {
    pub(super) tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

#[derive(Clone)]
struct Client {
    target: Target,
    tally: Arc<Tally>,
    stop: CancellationToken,
}

/// A ziggurat over this script for `sh`, with these settings of its endpoint; each process tells of itself.
pub(super) fn over(script: &str, endpoint: &str) -> Start {
    let endpoint = format!("command: [sh, demo.sh], cwd: ., {endpoint}");
    Start::yaml(&config("access_log: off", "", "", &endpoint)).file("demo.sh", script)
}

/// The demo server, with these settings.
pub(super) fn demo(endpoint: &str) -> Start {
    over(&format!("{DEMO}\nexec '{BIN}' demo\n"), endpoint)
}

/// Where the processes are written down.
pub(super) fn family(z: &Ziggurat) -> PathBuf {
    z.dir().join(FAMILY)
}

/// Waits until all processes that were ever started are gone; there were at least so many.
pub(super) async fn nobody_is_left(family: &str, least: usize) {
    let pids: Vec<i32> = family.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() >= least, "{pids:?}");
    until("every child and grandchild is gone", async || {
        !pids.iter().any(|pid| process::is_alive(*pid))
    })
    .await;
}

/// Whether a call was answered; none if its session is gone.
pub(super) async fn ended(answer: Answer) -> Option<bool> {
    if answer.status == 404 {
        return None;
    }
    assert_eq!(answer.status, 200, "a failed call is no transport error");
    let answer = answer.last().await;
    if answer["result"].is_object() {
        return Some(true);
    }
    let data = &answer["error"]["data"];
    assert!(data["outcome"].is_string(), "{answer}");
    Some(false)
}

/// Sends an `initialize`; the session, or the error.
pub(super) async fn open(target: &Target) -> Result<Session, Value> {
    let body = initialize(LEGACY).to_string();
    let answer = target.post("/mcp", &[], body).await;
    assert_eq!(answer.status, 200);
    let id = answer.header("mcp-session-id").to_owned();
    let answer = answer.last().await;
    if !answer["result"].is_object() {
        assert!(answer["error"]["data"]["outcome"].is_string(), "{answer}");
        return Err(answer);
    }
    Ok(Session {
        id,
        ..target.stateless("/mcp")
    })
}

// === impl Load ===

impl Load {
    pub(super) fn start(z: &Ziggurat) -> Self {
        let client = Client {
            target: z.target(),
            tally: Arc::default(),
            stop: CancellationToken::new(),
        };
        let mut clients = JoinSet::new();
        for _ in 0..SESSIONS {
            clients.spawn(client.clone().sessions());
        }
        for _ in 0..MODERN {
            clients.spawn(client.clone().modern());
        }
        Self {
            tally: client.tally,
            stop: client.stop,
            clients,
        }
    }

    /// Waits until all clients are busy, with their streams open.
    pub(super) async fn is_on(&mut self, z: &Ziggurat) {
        until("all clients are busy", async || {
            assert!(
                self.clients.try_join_next().is_none(),
                "a client has failed"
            );
            let metrics = z.metrics().await;
            let sessions = metrics.sum("ziggurat_stdio_sessions", &[]);
            let streams = metrics.sum("ziggurat_sse_streams", &["downstream"]);
            let calls = metrics.sum("ziggurat_stdio_pending_requests", &[]);
            let each =
                [1.0, 2.0, 1.0].map(|each| each * f64::from(u8::try_from(SESSIONS).unwrap()));
            sessions >= each[0] && streams >= each[1] && calls >= each[2]
        })
        .await;
    }

    /// Waits until, from now on, clients have had errors and new sessions, and many more answers.
    pub(super) async fn goes_on(&mut self) {
        let now = |tally: &Tally| {
            [&tally.answered, &tally.failed, &tally.opened].map(|n| n.load(Ordering::SeqCst))
        };
        let before = now(&self.tally);
        until("clients fail and begin again", async || {
            let now = now(&self.tally);
            now[0] > before[0] + 50 && now[1] > before[1] && now[2] > before[2]
        })
        .await;
    }

    /// Ends it: every client ends its calls, and its session.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }

    /// Ends it where nobody answers any more.
    pub(super) async fn abort(mut self) {
        self.clients.shutdown().await;
    }
}

// === impl Client ===

impl Client {
    fn going(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// Counts how a call ended; whether its session is still there.
    async fn count(&self, answer: Answer) -> bool {
        let ended = ended(answer).await;
        let count = match ended {
            Some(true) => &self.tally.answered,
            Some(false) | None => &self.tally.failed,
        };
        count.fetch_add(1, Ordering::SeqCst);
        ended.is_some()
    }

    /// One session after another, each until it is gone, and with it its GET stream and the call that goes on and on.
    async fn sessions(self) {
        while self.going() {
            let Ok(session) = open(&self.target).await else {
                continue;
            };
            self.tally.opened.fetch_add(1, Ordering::SeqCst);
            let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            drop(session.post(&ready).await);
            let mut stream = session.stream().await;
            let endless = session.endless("endless").await;
            loop {
                if !self.going() {
                    drop(session.delete().await);
                    break;
                }
                let arguments = json!({"steps": 2, "interval_ms": 1});
                let call = session.call_with_token(1, "t", "progress", arguments).await;
                if !self.count(call).await {
                    break;
                }
            }
            self.count(endless).await;
            if stream.status == 200 {
                while stream.event().await.is_some() {}
            }
        }
    }

    async fn modern(self) {
        while self.going() {
            let arguments = json!({"steps": 3, "interval_ms": 5});
            let call = self.target.modern_call(1, "progress", arguments).await;
            assert!(self.count(call).await);
        }
    }
}
