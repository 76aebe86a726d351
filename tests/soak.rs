//! The soak: thousands of sessions and hundreds of children, opened and abandoned in all ways. Afterwards children, descriptors,
//! tasks and gauges are what they were, and memory has not grown beyond a margin.
//!
//! `cargo test --release --test soak -- --ignored --nocapture`. `ZIGGURAT_SOAK=seconds` says how long it goes on; without it one round is
//! made: 10,000 sessions over HTTP and over a shared child, and 500 children.

#![allow(
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    missing_docs,
    reason = "a test says what went wrong by failing"
)]

#[path = "it/harness.rs"]
#[allow(dead_code, reason = "it uses only a part of it")]
mod harness;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::Semaphore, task::JoinSet, time::Instant};

use harness::{
    Ziggurat,
    client::Target,
    demo,
    mcp::{Session, request},
    process, until, within,
};

/// One round.
const SESSIONS: usize = 10_000;
const CHILDREN: usize = 500;
/// How many sessions are open at the same time.
const AT_ONCE: usize = 64;
/// Below the default `max` of children, with room for those that are still stopping.
const CHILDREN_AT_ONCE: usize = 24;
/// What memory may grow by from the end of the warm-up: allocators keep some of what they had at the peak.
const MARGIN: u64 = 32 << 20;
/// How long an abandoned session lives.
const IDLE: &str = "2s";

/// The ways to leave a session.
#[derive(Debug, Clone, Copy)]
enum Leave {
    /// In good order.
    Delete,
    /// Without a word; with an open GET stream that is closed only later.
    Silence,
    /// In the middle of a call, whose connection is cut.
    Vanish,
    /// In the middle of a request that was not sent to its end.
    Half,
    /// The child goes first.
    Crash,
}

const WAYS: [Leave; 5] = [
    Leave::Delete,
    Leave::Silence,
    Leave::Vanish,
    Leave::Half,
    Leave::Crash,
];

/// Uses a session, and leaves it. False if it did not answer: a neighbour may have crashed the child that it shares.
async fn live(session: Session, leave: Leave) -> bool {
    let echo = session.call(1, "echo", json!({"text": "soak"})).await;
    if echo.status != 200 || echo.last().await.get("result").is_none() {
        return false;
    }
    match leave {
        Leave::Delete => drop(session.delete().await),
        Leave::Silence => {
            let stream = session.stream().await;
            drop(session.call(2, "echo", json!({"text": "soak"})).await);
            drop(stream);
        }
        Leave::Vanish => {
            let arguments = json!({"steps": 40, "interval_ms": 25});
            let mut call = session.call_with_token(2, 2, "progress", arguments).await;
            if call.status == 200 {
                let _first = call.event().await;
            }
        }
        Leave::Half => {
            let body = request(&json!(2), "ping", &json!({})).to_string();
            let head = format!(
                "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 mcp-session-id: {}\r\ncontent-length: {}\r\n\r\n{}",
                session.path,
                session.id,
                body.len() + 10,
                body
            );
            let mut stream = session.target.connect().await;
            let _cut = stream.write_all(head.as_bytes()).await;
        }
        Leave::Crash => drop(session.call(2, "crash", json!({})).await),
    }
    true
}

/// Opens a session. Where all children are in use, or the shared one has crashed just then, it tries again.
async fn open(z: &Target, path: &str) -> Session {
    let opened = async {
        loop {
            if let Some(session) = try_open(z, path).await {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(&format!("a session opens at {path}"), opened).await
}

async fn try_open(z: &Target, path: &str) -> Option<Session> {
    let body = harness::mcp::initialize(harness::mcp::LEGACY).to_string();
    let answer = z.post(path, &[], body).await;
    let id = answer.header("mcp-session-id").to_owned();
    let good = answer.status == 200 && !id.is_empty();
    drop(answer);
    good.then(|| Session {
        target: z.clone(),
        path: path.to_owned(),
        id,
        version: harness::mcp::LEGACY.to_owned(),
    })
}

/// Opens and abandons `count` sessions at `path`; gives how many came to life.
async fn storm(
    z: &Ziggurat,
    path: &'static str,
    count: usize,
    at_once: usize,
    ways: &[Leave],
) -> usize {
    let places = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    let mut lived = 0;
    for at in 0..count {
        let place = places.clone().acquire_owned().await.unwrap();
        let (target, leave) = (z.target(), ways[at % ways.len()]);
        tasks.spawn(async move {
            let session = open(&target, path).await;
            let lived = live(session, leave).await;
            drop(place);
            lived
        });
        while let Some(done) = tasks.try_join_next() {
            lived += usize::from(done.unwrap());
        }
    }
    for done in tasks.join_all().await {
        lived += usize::from(done);
    }
    lived
}

/// One round; a tenth of it warms up.
async fn round(z: &Ziggurat, part: usize) {
    // A shared child is crashed rarely: each crash ends all its sessions, which is what they are abandoned by then.
    let mut shared = [Leave::Delete, Leave::Silence, Leave::Vanish, Leave::Half].repeat(25);
    shared.push(Leave::Crash);
    let plain = [Leave::Delete, Leave::Silence, Leave::Vanish, Leave::Half];
    let (over_http, on_shared, children) = tokio::join!(
        storm(z, "/http", SESSIONS / 2 / part, AT_ONCE / 2, &plain),
        storm(z, "/shared", SESSIONS / 2 / part, AT_ONCE / 2, &shared),
        storm(z, "/own", CHILDREN / part, CHILDREN_AT_ONCE, &WAYS),
    );
    eprintln!(
        "sessions that lived: {over_http} over HTTP, {on_shared} on a shared child, {children} with a child of their own"
    );
    assert!(over_http == SESSIONS / 2 / part, "{over_http}");
    assert!(on_shared * 2 > SESSIONS / 2 / part, "{on_shared}");
    assert!(children == CHILDREN / part, "{children}");
}

/// Waits until what was abandoned has ended, as far as can be seen from outside.
async fn calm(z: &Ziggurat) {
    until("all sessions and children are gone", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let metrics = z.metrics().await;
        metrics.sum("ziggurat_sessions", &[]) == 0.0
            && metrics.sum("ziggurat_stdio_sessions", &[]) == 0.0
            && metrics.sum("ziggurat_stdio_processes", &[]) == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes about a minute; CI runs it by itself"]
async fn what_was_abandoned_leaves_nothing_behind() {
    let seconds = std::env::var("ZIGGURAT_SOAK").ok();
    let seconds = seconds.map_or(0, |text| text.parse().expect("a number of seconds"));
    let server = harness::process::Server::demo().await;
    let url = format!("http://{}/mcp", server.address);
    let stop = "stop: { stdin: 500ms, term: 500ms }";
    let z = Ziggurat::yaml(&format!(
        "server: {{ access_log: false }}\n\
         routes:\n\
         - {{ match: {{ path: /http }}, upstream: http, session: {{ idle: {IDLE} }} }}\n\
         - {{ match: {{ path: /shared }}, upstream: shared, session: {{ idle: {IDLE} }} }}\n\
         - {{ match: {{ path: /own }}, upstream: own, session: {{ idle: {IDLE} }} }}\n\
         upstreams:\n  \
         http: {{ endpoints: [{{ url: \"{url}\", pool_idle: 500ms }}] }}\n  \
         shared: {{ endpoints: [{{ {}, isolation: shared }}] }}\n  \
         own: {{ endpoints: [{{ {}, max: 32 }}] }}\n",
        demo(&format!("idle: {IDLE}, {stop}")),
        demo(&format!("idle: {IDLE}, {stop}")),
    ))
    .await;

    round(&z, 10).await;
    calm(&z).await;
    let before = z.baseline().await;
    let memory = process::resident(z.pid());
    let began = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || began.elapsed() < Duration::from_secs(seconds) {
        round(&z, 1).await;
        rounds += 1;
        calm(&z).await;
        z.assert_back_to(&before).await;
        let now = process::resident(z.pid());
        eprintln!(
            "round {rounds} after {:?}: resident {} -> {} KiB",
            began.elapsed(),
            memory / 1024,
            now / 1024
        );
        assert!(now < memory + MARGIN, "{memory} -> {now}");
    }
    assert!(z.servers().is_empty());
}
