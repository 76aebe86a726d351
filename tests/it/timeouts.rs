//! Clocks: what fails when they run out, who is told, and what goes on.

use serde_json::{Value, json};

use crate::harness::{
    Ziggurat, config, demo, hasty,
    mcp::{call, initialize, text},
    process::Server,
    upstream::{Received, Upstream, Wire},
};

/// A stdio server that is slow, and a copy of all that it was told in a file.
fn recorded(file: &std::path::Path) -> String {
    let script = format!("tee '{}' | '{}' demo", file.display(), crate::harness::BIN);
    format!("command: [sh, -c, \"{script}\"]")
}

#[tokio::test]
async fn a_deadline_in_the_middle_of_a_stream_is_its_last_event_and_the_child_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    let endpoint = format!("{}, silence: 50ms", recorded(&heard));
    let z = Ziggurat::yaml(&hasty("", &endpoint)).await;
    let session = z.target().session().await;
    let slow = session
        .at("/hasty")
        .call("slow", "sleep", json!({"ms": 3_600_000}))
        .await;
    assert!(slow.is_stream(), "after the silence it is a stream");
    let last = slow.last().await;
    assert_eq!(last["id"], "slow");
    assert_eq!(last["error"]["code"], 504);
    let data = &last["error"]["data"];
    assert_eq!(data["kind"], "deadline_exceeded");
    assert_eq!(data["phase"], "deadline");
    assert_eq!(data["outcome"], "unknown");
    assert_eq!(data["source"], "proxy");

    // The child was told which call that was, and the session goes on.
    let answer = session.call(2, "echo", json!({"text": "still"})).await;
    assert_eq!(text(&answer.last().await), "still");
    let heard = std::fs::read_to_string(&heard).unwrap();
    let lines: Vec<Value> = heard
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let asked = lines
        .iter()
        .find(|l| l["params"]["name"] == "sleep")
        .unwrap();
    let told = lines
        .iter()
        .find(|l| l["method"] == "notifications/cancelled")
        .expect("a cancellation");
    assert_eq!(told["params"]["requestId"], asked["id"]);
    let metrics = z.metrics().await;
    assert_eq!(metrics.sum("ziggurat_timeouts_total", &["deadline"]), 1.0);
}

#[tokio::test]
async fn progress_extends_the_deadline_up_to_its_cap() {
    let z = Ziggurat::yaml(&config(
        "",
        "deadline: { limit: 1500ms, cap: 3s }",
        "",
        &demo(""),
    ))
    .await;
    let session = z.target().session().await;
    // Longer than the limit altogether, but never silent for that long.
    let fine = session
        .call_with_token(1, 1, "progress", json!({"steps": 18, "interval_ms": 100}))
        .await;
    assert_eq!(text(&fine.last().await), "18 steps done");
    let endless = session.endless(2).await;
    let last = endless.last().await;
    assert_eq!(last["error"]["data"]["kind"], "deadline_exceeded", "{last}");
    assert_eq!(last["id"], 2);
}

#[tokio::test]
async fn no_clock_runs_while_the_client_is_being_asked() {
    let z = Ziggurat::yaml(&hasty("", &demo(""))).await;
    let session = z.target().session().await.at("/hasty");
    let mut asking = session.call(1, "ask", json!({})).await;
    let question = asking.next().await;
    // The call of another client runs into the same deadline meanwhile: so much time has passed.
    let other = z.target().session().await.at("/hasty");
    let other = other.call(2, "sleep", json!({"ms": 3_600_000})).await;
    assert_eq!(other.last().await["error"]["code"], 504);
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    session.post(&answer).await;
    assert!(asking.next().await.get("result").is_some());
}

/// A legacy server over HTTP that never answers a call.
async fn silent_legacy(received: Received, wire: Wire) -> Option<Wire> {
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    let id = &body["id"];
    match body["method"].as_str() {
        Some("initialize") => {
            let result = json!({
                "protocolVersion": "2025-11-25", "capabilities": {},
                "serverInfo": {"name": "s", "version": "0"},
            });
            let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
            let headers = "content-type: application/json\r\nmcp-session-id: abc\r\n";
            wire.answer("200 OK", headers, &body).await
        }
        Some("tools/call") => {
            let progress = json!({
                "jsonrpc": "2.0", "method": "notifications/message",
                "params": {"level": "info", "data": "working"},
            });
            wire.sse()
                .await
                .event(&progress.to_string())
                .await
                .stall()
                .await
        }
        Some("ping") => {
            let body = json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string();
            wire.json(&body).await
        }
        _ => wire.answer("202 Accepted", "", "").await,
    }
}

/// The same, that asks its client something first.
async fn asking_legacy(received: Received, wire: Wire) -> Option<Wire> {
    let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
    if body["method"] != "tools/call" {
        return silent_legacy(received, wire).await;
    }
    let question = json!({
        "jsonrpc": "2.0", "id": "q", "method": "elicitation/create",
        "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
    });
    let wire = wire.sse().await.event(&question.to_string()).await;
    wire.stall().await
}

#[tokio::test]
async fn the_clocks_of_a_call_run_on_though_its_client_answers_after_a_reload() {
    let upstream = Upstream::start(asking_legacy).await;
    let endpoint = format!("url: \"{}\"", upstream.url("/mcp"));
    let z = Ziggurat::yaml(&hasty("", &endpoint)).await;
    let session = z.target().session().await.at("/hasty");
    let mut asking = session.call(1, "ask", json!({})).await;
    let question = asking.next().await;
    z.reload(&hasty("errors: status", &endpoint), "ok").await;
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    assert_eq!(session.post(&answer).await.status, 202);
    let last = asking.next().await;
    assert_eq!(last["error"]["data"]["kind"], "deadline_exceeded", "{last}");
}

#[tokio::test]
async fn a_legacy_http_server_is_told_by_a_posted_cancellation_and_keeps_its_session() {
    let upstream = Upstream::start(silent_legacy).await;
    let endpoint = format!("url: \"{}\", pool_idle: 50ms", upstream.url("/mcp"));
    let z = Ziggurat::yaml(&hasty("", &endpoint)).await;
    let before = z.baseline().await;
    let session = z.target().session().await;
    let mut slow = session
        .at("/hasty")
        .call("s", "sleep", json!({"ms": 1}))
        .await;
    assert_eq!(slow.next().await["method"], "notifications/message");
    let last = slow.next().await;
    assert_eq!(last["id"], "s");
    assert_eq!(last["error"]["data"]["kind"], "deadline_exceeded");
    assert_eq!(slow.event().await, None);
    let told = upstream
        .receives("a cancellation is posted", |r| {
            r.body.contains("notifications/cancelled")
        })
        .await;
    let body: Value = serde_json::from_str(&told.body).unwrap();
    assert_eq!(body["params"]["requestId"], "s");
    assert_eq!(told.header("mcp-session-id"), "abc");
    upstream.left().await;
    assert_eq!(session.ask(2, "ping", json!({})).await.status, 200);
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_modern_http_server_is_told_by_a_closed_stream_alone() {
    let upstream = Upstream::start(async |_received: Received, wire: Wire| {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}});
        wire.sse()
            .await
            .event(&message.to_string())
            .await
            .stall()
            .await
    })
    .await;
    let endpoint = format!("url: \"{}\", pool_idle: 50ms", upstream.url("/mcp"));
    let z = Ziggurat::yaml(&config("", "deadline: 300ms", "", &endpoint)).await;
    let before = z.baseline().await;
    let slow = z.target().modern_call("m", "sleep", json!({"ms": 1})).await;
    let last = slow.last().await;
    assert_eq!(last["id"], "m");
    assert_eq!(last["error"]["data"]["kind"], "deadline_exceeded");
    upstream.left().await;
    z.assert_back_to(&before).await;
    assert_eq!(upstream.received().len(), 1, "nothing else was sent");
}

#[tokio::test]
async fn an_initialize_that_takes_too_long_is_not_cancelled() {
    let upstream =
        Upstream::start(async |_received: Received, wire: Wire| wire.stall().await).await;
    let endpoint = format!("url: \"{}\", pool_idle: 50ms", upstream.url("/mcp"));
    let z = Ziggurat::yaml(&config("", "deadline: 200ms", "", &endpoint)).await;
    let before = z.baseline().await;
    let body = initialize("2025-11-25").to_string();
    let error = z.target().post("/mcp", &[], body).await.last().await;
    assert_eq!(error["error"]["code"], 504);
    upstream.left().await;
    z.assert_back_to(&before).await;
    assert_eq!(upstream.received().len(), 1, "no cancellation was sent");
}

#[tokio::test]
async fn one_failed_call_costs_no_session_over_http() {
    let demo = Server::demo().await;
    let endpoint = format!("url: \"http://{}/mcp\"", demo.address);
    let z = Ziggurat::yaml(&hasty("", &endpoint)).await;
    let session = z.target().session().await;
    let failed = session
        .at("/hasty")
        .call(1, "sleep", json!({"ms": 3_600_000}))
        .await;
    assert_eq!(failed.status, 200);
    assert_eq!(failed.last().await["error"]["code"], 504);
    let cut = session.call(2, "crash", json!({})).await;
    assert_eq!(cut.status, 200);
    let error = cut.last().await;
    assert_eq!(error["error"]["code"], 502, "{error}");
    assert_eq!(error["id"], 2);
    let fine = session.call(3, "echo", json!({"text": "on"})).await;
    assert_eq!(text(&fine.last().await), "on");
}

#[tokio::test]
async fn errors_as_status_are_the_same_errors_with_their_status() {
    let z = Ziggurat::yaml(&hasty("errors: status", &demo(""))).await;
    let session = z.target().session().await.at("/hasty");
    let failed = session.call(1, "sleep", json!({"ms": 3_600_000})).await;
    assert_eq!(failed.status, 504);
    assert_eq!(failed.last().await["error"]["code"], 504);
}

#[tokio::test]
async fn head_and_idle_clocks_end_a_plain_http_exchange() {
    let upstream = Upstream::start(async |received: Received, wire: Wire| {
        if received.path == "/stalls" {
            return wire.stall().await;
        }
        wire.sse().await.drip("data: one\n\n").await.stall().await
    })
    .await;
    let yaml = format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: plain }}]\n\
         upstreams: {{ plain: {{ timeouts: {{ head: 700ms, idle: 700ms }}, endpoints: [{{ url: \"{}\", pool_idle: 50ms }}] }} }}",
        upstream.url("")
    );
    let z = Ziggurat::yaml(&yaml).await;
    let before = z.baseline().await;
    let late = z.target().get("/stalls").await;
    assert_eq!(late.status, 504);
    assert_eq!(late.header("content-type"), "application/problem+json");
    assert_eq!(late.json().await["kind"], "upstream_timeout");
    let mut silent = z.target().get("/").await;
    assert_eq!(silent.event().await.unwrap().data, "one");
    // Nothing is added to what is not ours; it breaks off.
    let end = silent.chunk().await;
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    drop(silent);
    z.assert_back_to(&before).await;
    let metrics = z.metrics().await;
    assert_eq!(metrics.sum("ziggurat_timeouts_total", &["head"]), 1.0);
    assert_eq!(metrics.sum("ziggurat_timeouts_total", &["idle"]), 1.0);
}

#[tokio::test]
async fn a_modern_call_that_takes_too_long_is_cancelled_at_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    let z = Ziggurat::yaml(&hasty("", &recorded(&heard))).await;
    z.target()
        .modern_call(0, "echo", json!({"text": "warm"}))
        .await;
    let params = call("sleep", json!({"ms": 3_600_000}));
    let hasty = z.target().at("/hasty");
    let error = hasty.modern("m", "tools/call", params).await;
    assert_eq!(error.last().await["error"]["code"], 504);
    crate::harness::until("the child is told", async || {
        std::fs::read_to_string(&heard)
            .unwrap()
            .contains("notifications/cancelled")
    })
    .await;
}
