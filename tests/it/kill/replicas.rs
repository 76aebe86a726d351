//! Three replicas under load, of which one is killed, comes back, and another is killed.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    load,
    replica::{Replica, journal},
};
use crate::harness::{
    Ziggurat,
    client::{Answer, Target},
    config,
    mcp::Session,
    process, until,
};

/// Sessions whose calls are all safe, and how many callers each has.
const SAFE: usize = 10;
const EACH: usize = 10;
/// Sessions that do something, and callers of the modern era.
const UNSAFE: usize = 70;
const MODERN: usize = 70;
/// So many calls are in flight when a replica is killed.
const IN_FLIGHT: f64 = 200.0;

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
enum Ended {
    /// It was answered, by this process.
    Answered(u32),
    /// It failed, and this is what came of it.
    Failed(String),
    /// Its session is gone.
    Gone,
}

/// Callers who call until they are told to stop, and what became of their calls.
#[derive(Clone)]
struct Load {
    target: Target,
    stop: CancellationToken,
    next: Arc<AtomicUsize>,
    done: Arc<Mutex<Vec<(String, Ended)>>>,
}

/// A session all of whose calls are safe.
struct Safe {
    session: Session,
    /// The process that answered last, and the one whose event came last.
    answers: AtomicU32,
    streams: AtomicU32,
}

/// What an answer says of its call.
async fn ended(answer: Answer) -> Ended {
    if answer.status == 404 {
        return Ended::Gone;
    }
    assert_eq!(answer.status, 200, "a failed call is no transport error");
    let answer = answer.last().await;
    if answer["result"].is_object() {
        let pid = answer["result"]["pid"].as_u64().unwrap();
        return Ended::Answered(pid.try_into().unwrap());
    }
    let data = &answer["error"]["data"];
    assert_eq!(data["source"], "proxy", "{answer}");
    Ended::Failed(data["outcome"].as_str().unwrap().to_owned())
}

// === impl Load ===

impl Load {
    fn new(target: Target) -> Self {
        Self {
            target,
            stop: CancellationToken::new(),
            next: Arc::default(),
            done: Arc::default(),
        }
    }

    fn going(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// The number of a call, which no other has.
    fn number(&self) -> usize {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn count(&self, like: impl Fn(&Ended) -> bool) -> usize {
        let done = self.done.lock().unwrap();
        done.iter().filter(|(_, ended)| like(ended)).count()
    }

    /// Opens a session, however often it takes: also an `initialize` may be lost.
    async fn open(&self) -> Session {
        loop {
            if let Ok(session) = load::open(&self.target).await {
                let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
                drop(session.post(&ready).await);
                return session;
            }
        }
    }

    /// Calls of a session that are safe to repeat. It is never gone.
    async fn safe(self, safe: Arc<Safe>) {
        while self.going() {
            let answer = safe.session.ask(1, "tools/list", json!({})).await;
            match ended(answer).await {
                Ended::Answered(pid) => safe.answers.store(pid, Ordering::SeqCst),
                Ended::Failed(_) => {}
                Ended::Gone => panic!("a session that could have been healed was lost"),
            }
        }
    }

    /// The GET stream of such a session, which is opened again when it ends.
    async fn stream(self, safe: Arc<Safe>) {
        while self.going() {
            let mut stream = safe.session.stream().await;
            assert_ne!(stream.status, 404, "a session was lost");
            while let Some(Some(event)) = self.stop.run_until_cancelled(stream.event()).await {
                if !event.data.is_empty() {
                    let beat: Value = serde_json::from_str(&event.data).unwrap();
                    let pid = beat["params"]["data"].as_u64().unwrap();
                    safe.streams
                        .store(pid.try_into().unwrap(), Ordering::SeqCst);
                }
            }
        }
    }

    /// Calls that do something, one after another, in a session with a GET stream; both are gone together. It gives its last session.
    async fn acts(self) -> Session {
        loop {
            let session = self.open().await;
            let mut stream = session.stream().await;
            loop {
                if !self.going() {
                    return session;
                }
                let number = self.number();
                let key = format!("key-{number}");
                let arguments = json!({"key": key});
                let tool = ["write", "progress"][number % 2];
                let answer = session.call_with_token(1, "t", tool, arguments).await;
                let ended = ended(answer).await;
                self.done.lock().unwrap().push((key, ended.clone()));
                if ended == Ended::Gone {
                    break;
                }
            }
            if stream.status == 200 {
                while stream.event().await.is_some() {}
            }
        }
    }

    /// Modern calls, some of which do something.
    async fn modern(self) {
        while self.going() {
            let number = self.number();
            let key = format!("key-{number}");
            let arguments = json!({"key": key});
            let answer = match number % 3 {
                0 => self.target.modern(1, "tools/list", json!({})).await,
                1 => self.target.modern_call(1, "write", arguments).await,
                _ => self.target.modern_call(1, "progress", arguments).await,
            };
            let ended = ended(answer).await;
            assert_ne!(ended, Ended::Gone);
            if !number.is_multiple_of(3) {
                self.done.lock().unwrap().push((key, ended));
            }
        }
    }

    /// Nothing was done twice, and what was said of it is true.
    fn is_true_to(&self, path: &Path) {
        let mut executed = BTreeMap::<String, usize>::new();
        for (_, key) in journal(path) {
            *executed.entry(key).or_default() += 1;
        }
        for (key, ended) in &*self.done.lock().unwrap() {
            let times = executed.remove(key).unwrap_or(0);
            let true_to = match ended {
                Ended::Answered(_) => times == 1,
                Ended::Failed(outcome) if outcome == "unknown" => times <= 1,
                Ended::Failed(_) | Ended::Gone => times == 0,
            };
            assert!(true_to, "{key} was executed {times} times, and {ended:?}");
        }
        assert!(executed.is_empty(), "nobody knows of these: {executed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed_under_load_cost_no_session_that_may_be_healed_and_nothing_is_done_twice()
 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut replicas = Vec::new();
    for number in 0..3 {
        replicas.push(Replica::start(number, &path).await);
    }
    let urls: Vec<_> = replicas
        .iter()
        .map(|replica| format!("url: \"{}\", pool_idle: 50ms", replica.url()))
        .collect();
    let upstream = "health: off, outlier: off, circuit: { consecutive: 5, open: 100ms, open_max: 200ms }, \
                    balance: { policy: round_robin, slow_start: 0s },";
    let z = Ziggurat::yaml(&config(
        "access_log: off",
        "",
        upstream,
        &urls.join(" }, { "),
    ))
    .await;
    let before = z.baseline().await;

    let load = Load::new(z.target());
    let mut callers = JoinSet::new();
    let mut safe = Vec::new();
    for _ in 0..SAFE {
        let one = Arc::new(Safe {
            session: load.open().await,
            answers: AtomicU32::default(),
            streams: AtomicU32::default(),
        });
        for _ in 0..EACH {
            callers.spawn(load.clone().safe(one.clone()));
        }
        callers.spawn(load.clone().stream(one.clone()));
        safe.push(one);
    }
    for _ in 0..MODERN {
        callers.spawn(load.clone().modern());
    }
    let mut acting = JoinSet::new();
    for _ in 0..UNSAFE {
        acting.spawn(load.clone().acts());
    }

    for replica in &mut replicas[..2] {
        let lives = |safe: &Safe| {
            let lives = [&safe.answers, &safe.streams].map(|pid| pid.load(Ordering::SeqCst));
            lives[0] == lives[1] && process::is_alive(lives[0].try_into().unwrap())
        };
        until(
            "all sessions work, and several hundred calls go on",
            async || {
                let metrics = z.metrics().await;
                safe.iter().all(|safe| lives(safe))
                    && metrics.sum("ziggurat_inflight", &[]) >= IN_FLIGHT
                    && metrics.sum("ziggurat_sse_streams", &["upstream"]) >= 50.0
            },
        )
        .await;
        let killed = replica.pid();
        let mut homes = safe.iter().map(|safe| safe.answers.load(Ordering::SeqCst));
        assert!(homes.any(|home| home == killed));
        let was = [
            load.count(|e| *e == Ended::Failed("unknown".into())),
            load.count(|_| true),
        ];
        replica.kill();
        until("calls were lost, and others go on", async || {
            load.count(|e| *e == Ended::Failed("unknown".into())) > was[0]
                && load.count(|_| true) > was[1] + 60
        })
        .await;
        replica.again().await;
        let anew = replica.pid();
        until("it takes calls again", async || {
            journal(&path).iter().any(|(pid, _)| *pid == anew)
        })
        .await;
        until("every session works again", async || {
            assert!(callers.try_join_next().is_none(), "a caller has failed");
            safe.iter().all(|safe| lives(safe))
        })
        .await;
    }

    load.stop.cancel();
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let metrics = z.metrics().await;
    assert!(metrics.sum("ziggurat_reinitialize_total", &["healed"]) >= 2.0);
    assert!(load.count(|ended| *ended == Ended::Gone) > 0);
    let mut sessions: Vec<_> = safe.iter().map(|safe| safe.session.clone()).collect();
    while let Some(session) = acting.join_next().await {
        sessions.push(session.unwrap());
    }
    load.is_true_to(&path);
    for session in sessions {
        drop(session.delete().await);
    }
    z.assert_back_to(&before).await;
}
