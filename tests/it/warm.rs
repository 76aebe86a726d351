//! Children that are there before anybody asks. That each principal has its own cannot be seen from here, since nobody is authenticated.

use serde_json::json;

use crate::harness::{Ziggurat, mcp::text, process, stdio, until};

/// How many children were started, for this reason or any.
async fn spawned(z: &Ziggurat, labels: &[&str]) -> f64 {
    let metrics = z.metrics().await;
    metrics.sum("ziggurat_stdio_spawns_total", labels)
}

async fn at(z: &Ziggurat, state: &str) -> f64 {
    let label = format!("state=\"{state}\"");
    let metrics = z.metrics().await;
    metrics.sum("ziggurat_stdio_processes", &[&label])
}

#[tokio::test]
async fn the_first_session_gets_a_process_that_was_there_before_it() {
    let z = Ziggurat::yaml(&stdio("warm: 1, stop: { stdin: 50ms, term: 50ms }")).await;
    until("one waits", async || at(&z, "warm").await == 1.0).await;
    let waiting = z.servers()[0];
    let session = z.target().session().await;
    let answer = session.call(1, "echo", json!({"text": "a"})).await;
    assert_eq!(text(&answer.last().await), "a");
    assert_eq!(spawned(&z, &["reason=\"session\""]).await, 0.0);
    until("another waits", async || at(&z, "warm").await == 1.0).await;
    let report = z.report("upstreams").await;
    let states = &report[0]["endpoints"][0]["states"];
    assert_eq!(
        (&states["warm"], &states["leased"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
    assert!(z.servers().contains(&waiting));
    session.delete().await;
    until("its process has gone", async || !process::is_alive(waiting)).await;
    assert_eq!(spawned(&z, &[]).await, 2.0);

    // One that is killed while it waits is replaced.
    let waiting = z.servers()[0];
    process::signal(waiting, "KILL");
    until("another waits", async || {
        at(&z, "warm").await == 1.0 && z.servers().len() == 1 && z.servers()[0] != waiting
    })
    .await;
}

#[tokio::test]
async fn a_shared_process_is_greeted_before_anybody_comes() {
    let z = Ziggurat::yaml(&stdio("isolation: shared, warm: 1")).await;
    until("it waits", async || at(&z, "warm").await == 1.0).await;
    let greeted = async || {
        let metrics = z.metrics().await;
        let name = "ziggurat_stdio_spawn_duration_seconds_count";
        metrics.sum(name, &["phase=\"handshake\""])
    };
    until("it is greeted", async || greeted().await == 1.0).await;
    let (one, other) = (z.target().session().await, z.target().session().await);
    for session in [&one, &other] {
        assert_eq!(session.ask(1, "ping", json!({})).await.status, 200);
    }
    assert_eq!((spawned(&z, &[]).await, greeted().await), (1.0, 1.0));
}

#[tokio::test]
async fn what_waits_ends_with_ziggurat() {
    let mut z = Ziggurat::yaml(&stdio("warm: 2")).await;
    until("two wait", async || z.servers().len() == 2).await;
    let waiting = z.servers();
    process::signal(z.pid(), "TERM");
    assert!(z.ended().await.success());
    assert!(!waiting.iter().any(|pid| process::is_alive(*pid)));
}

#[tokio::test]
async fn other_settings_of_a_command_change_beneath_its_sessions() {
    let z = Ziggurat::yaml(&stdio("idle: 10m")).await;
    let session = z.target().session().await;
    let servers = z.servers();
    z.reload(&stdio("idle: 9m, max: 2, warm: 1, silence: 3s"), "ok")
        .await;
    until("one waits", async || at(&z, "warm").await == 1.0).await;
    assert!(servers.iter().all(|pid| z.servers().contains(pid)));
    let answer = session.call(1, "echo", json!({"text": "still"})).await;
    assert_eq!(text(&answer.last().await), "still");
    // Another process is another matter.
    z.reload(&stdio("env: { A: b }"), "ok").await;
    until("the old ones have gone", async || {
        !servers.iter().any(|pid| process::is_alive(*pid))
    })
    .await;
    assert_eq!(session.ask(2, "ping", json!({})).await.status, 404);
}

#[tokio::test]
async fn a_session_that_begins_from_a_snapshot_is_confirmed_and_serves() {
    let z = Ziggurat::yaml(&stdio("snapshot: on")).await;
    let first = z.target().session().await;
    let second = z.target().session().await;
    for session in [&first, &second] {
        let answer = session.call(1, "echo", json!({"text": "a"})).await;
        assert_eq!(text(&answer.last().await), "a");
    }
    let metrics = z.metrics().await;
    let snapshots = "ziggurat_stdio_snapshots_total";
    assert_eq!(metrics.sum(snapshots, &["outcome=\"confirmed\""]), 1.0);
    assert_eq!(metrics.sum(snapshots, &[]), 1.0);
    assert_eq!(z.servers().len(), 2);
}
