//! SIGTERM, and being full.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use crate::harness::{Ziggurat, client::read_until, config, demo, mcp::text, process, until};

async fn readiness(z: &Ziggurat) -> u16 {
    z.admin().get("/readyz").await.status.as_u16()
}

#[tokio::test]
async fn a_drain_finishes_calls_sends_streams_away_and_exits_with_0() {
    let mut z = Ziggurat::yaml(&config(
        "drain: { delay: 200ms, limit: 20s }",
        "",
        "",
        &demo(""),
    ))
    .await;
    assert_eq!(readiness(&z).await, 200);
    let session = z.target().session().await;
    let mut stream = session.stream().await;
    let first = stream.event().await.expect("an id to come back with");
    assert!(first.id.is_some() && first.data.is_empty(), "{first:?}");
    let mut running = session
        .call_with_token("r", 1, "progress", json!({"steps": 10, "interval_ms": 100}))
        .await;
    running.next().await;
    let family = process::descendants(z.pid());
    assert!(!family.is_empty());

    process::signal(z.pid(), "TERM");
    until("readiness goes", async || readiness(&z).await == 503).await;
    assert_eq!(z.admin().get("/livez").await.status, 200);
    let told = stream.event().await.expect("retry");
    assert!(told.retry.is_some(), "{told:?}");
    assert_eq!(stream.event().await, None, "then it closes");
    assert_eq!(text(&running.last().await), "10 steps done");
    assert_eq!(z.ended().await.code(), Some(0));
    until("nobody is left", async || {
        !family.iter().any(|pid| process::is_alive(*pid))
    })
    .await;
}

#[tokio::test]
async fn it_may_be_told_to_stop_as_soon_as_it_says_that_it_serves() {
    for _ in 0..3 {
        let mut z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
        process::signal(z.pid(), "TERM");
        assert_eq!(z.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_drain_is_told_at_once_and_new_requests_are_served_through_its_delay() {
    // The delay is longer than any test, and the limit is none of it.
    let server = "drain: { delay: 1h, limit: 0s }";
    let z = Ziggurat::yaml(&config(server, "", "", &demo(""))).await;
    assert_eq!(readiness(&z).await, 200);
    process::signal(z.pid(), "TERM");
    until("readiness goes", async || readiness(&z).await == 503).await;
    let session = z.target().session().await;
    let answer = session.call(1, "echo", json!({"text": "still here"})).await;
    assert_eq!(text(&answer.last().await), "still here");
}

#[tokio::test]
async fn the_second_signal_ends_a_drain_that_takes_too_long() {
    // Longer than any test.
    let server = "drain: { delay: 1h, limit: 1h }";
    let mut z = Ziggurat::yaml(&config(server, "", "", &demo(""))).await;
    let session = z.target().session().await;
    let mut running = session.endless(1).await;
    running.next().await;
    let family = process::descendants(z.pid());
    // An order to drain may come before the usual signal, which is no second one.
    z.act("drain", &json!({})).await;
    until("readiness goes", async || readiness(&z).await == 503).await;
    process::signal(z.pid(), "TERM");
    running.next().await;
    process::signal(z.pid(), "INT");
    assert_eq!(z.ended().await.code(), Some(0));
    until("nobody is left", async || {
        !family.iter().any(|pid| process::is_alive(*pid))
    })
    .await;
}

#[tokio::test]
async fn the_limit_of_a_drain_begins_after_its_delay() {
    // Longer than the limit and the time that streams have to end after it.
    let delay = Duration::from_secs(4);
    let mut z = Ziggurat::yaml(&config(
        "drain: { delay: 4s, limit: 1s }",
        "",
        "",
        &demo(""),
    ))
    .await;
    let session = z.target().session().await;
    let mut stream = session.stream().await;
    stream.event().await.expect("an id to come back with");
    let signalled = Instant::now();
    process::signal(z.pid(), "TERM");
    let told = stream.event().await.expect("retry");
    assert!(told.retry.is_some(), "{told:?}");
    assert!(signalled.elapsed() >= delay, "{:?}", signalled.elapsed());
    assert_eq!(stream.event().await, None, "then it closes");
    assert_eq!(z.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_token_is_gone_before_another_can_have_the_admin_port() {
    let z = Ziggurat::yaml(&config("", "", "", &demo(""))).await;
    let tokens = || std::fs::read_dir(z.dir().join("ziggurat")).unwrap().count();
    let bearer = {
        z.report("build").await;
        z.admin_token()
    };
    assert_eq!(tokens(), 1);
    // The listener is closed, and then waits a while for this.
    let mut slow = z.admin().connect().await;
    let begun = format!(
        "POST /admin/v1/drain HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    );
    slow.write_all(begun.as_bytes()).await.unwrap();
    read_until(&mut slow, "100 Continue").await;
    process::signal(z.pid(), "TERM");
    until("the port is free", async || {
        TcpStream::connect(z.admin).await.is_err()
    })
    .await;
    assert_eq!(tokens(), 0);
}

#[tokio::test]
async fn a_call_that_outlives_the_drain_fails_clearly() {
    let mut z = Ziggurat::yaml(&config("drain: { limit: 300ms }", "", "", &demo(""))).await;
    let session = z.target().session().await;
    let mut streaming = session.endless("s").await;
    streaming.next().await;
    let target = session.clone();
    let silent = tokio::spawn(async move {
        target
            .call("q", "sleep", json!({"ms": 3_600_000}))
            .await
            .last()
            .await
    });
    until("both are under way", async || {
        z.metrics()
            .await
            .sum("ziggurat_stdio_pending_requests", &[])
            == 2.0
    })
    .await;
    process::signal(z.pid(), "TERM");
    let last = streaming.last().await;
    assert_eq!(last["id"], "s");
    for (error, id) in [(last, "s"), (silent.await.unwrap(), "q")] {
        assert_eq!(error["id"], id);
        assert_eq!(error["error"]["code"], 503, "{error}");
        assert_eq!(error["error"]["data"]["kind"], "draining");
    }
    assert_eq!(z.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_ziggurat_ends_at_once_also_on_sigint() {
    for signal in ["TERM", "INT"] {
        // Whoever waits for the limit waits longer than any test does.
        let mut z = Ziggurat::yaml(&config("drain: { limit: 1h }", "", "", &demo(""))).await;
        z.target().session().await;
        process::signal(z.pid(), signal);
        assert_eq!(z.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_call_over_the_limit_fails_clearly_and_what_it_waits_for_passes() {
    let z = Ziggurat::yaml(&config("concurrency: 1, streams: 1", "", "", &demo(""))).await;
    let session = z.target().session().await;
    let before = z.baseline().await;
    let mut asking = session.call(1, "ask", json!({})).await;
    let question = asking.next().await;
    let over = session.call("over", "echo", json!({"text": "x"})).await;
    assert_eq!(over.status, 200);
    let error = over.last().await;
    assert_eq!(error["id"], "over");
    assert_eq!(error["error"]["code"], 503);
    assert_eq!(error["error"]["data"]["kind"], "overloaded");
    assert_eq!(error["error"]["data"]["outcome"], "not_sent");
    assert!(error["error"]["data"]["retry_after_ms"].is_u64());
    // A stream has its own place, and an answer to the server needs none.
    let stream = session.stream().await;
    assert_eq!(stream.status, 200);
    assert_eq!(session.stream().await.status, 503);
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    assert_eq!(session.post(&answer).await.status, 202);
    asking.last().await;
    drop(stream);
    z.assert_back_to(&before).await;
    let fine = session.call(2, "echo", json!({"text": "room"})).await;
    assert_eq!(text(&fine.last().await), "room");
}

/// A call in hand takes the one place that there is; who comes then is told so, and gets in when it is free.
async fn there_is_one_place(z: &Ziggurat, refusal: &str) {
    let session = z.target().session().await;
    let mut running = session.endless(1).await;
    running.next().await;
    let error = session
        .call(2, "echo", json!({"text": "x"}))
        .await
        .last()
        .await;
    assert_eq!(error["error"]["data"]["kind"], refusal, "{error}");
    session
        .tell("notifications/cancelled", json!({"requestId": 1}))
        .await;
    while running.event().await.is_some() {}
    until("there is room", async || {
        let answer = session.call(3, "echo", json!({"text": "x"})).await;
        answer.last().await.get("result").is_some()
    })
    .await;
}

#[tokio::test]
async fn a_route_has_a_limit_of_its_own() {
    let z = Ziggurat::yaml(&config("", "concurrency: 1", "", &demo(""))).await;
    there_is_one_place(&z, "overloaded").await;
}

#[tokio::test]
async fn an_upstream_has_a_limit_of_its_own_at_which_calls_wait_a_while() {
    let z = Ziggurat::yaml(&config("", "", "concurrency: 1,", &demo(""))).await;
    there_is_one_place(&z, "queue_timeout").await;
}
