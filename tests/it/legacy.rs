//! The revisions with a handshake, over stdio and over HTTP.

use serde_json::json;

use crate::harness::{
    Start, Ziggurat,
    client::Target,
    http,
    mcp::{LEGACY, initialize, request, text},
    process::Server,
    stdio, until,
};

/// The demo server over HTTP, as a process of its own behind ziggurat.
async fn over_http() -> (Server, Ziggurat) {
    let demo = Server::demo().await;
    let z = Ziggurat::yaml(&http(&format!("http://{}/mcp", demo.address))).await;
    (demo, z)
}

/// What a session can do, whatever is behind it.
async fn a_whole_session(target: Target) {
    let session = target.session().await;
    assert!(!session.id.is_empty());
    let tools = session.ask(1, "tools/list", json!({})).await.last().await;
    assert!(tools["result"]["tools"].as_array().unwrap().len() > 5);

    // Progress comes in order, and before the result.
    let messages = session
        .call_with_token("p", "token", "progress", json!({"steps": 3}))
        .await
        .messages()
        .await;
    let seen: Vec<_> = messages[..3]
        .iter()
        .map(|m| m["params"]["progress"].as_u64())
        .collect();
    assert_eq!(seen, [Some(1), Some(2), Some(3)]);
    assert_eq!(messages[3]["id"], "p");

    // The server asks, the client answers.
    let mut asking = session.call(2, "ask", json!({"question": "Who?"})).await;
    let question = asking.next().await;
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["message"], "Who?");
    let answer = json!({
        "jsonrpc": "2.0", "id": question["id"],
        "result": {"action": "accept", "content": {"name": "Ada"}},
    });
    assert_eq!(session.post(&answer).await.status, 202);
    let result = asking.next().await;
    assert_eq!(result["id"], 2);
    assert!(text(&result).contains("Ada"), "{result}");

    // What belongs to no call comes on the GET stream.
    let mut stream = session.stream().await;
    assert!(stream.is_stream());
    let told = session.call(3, "tick", json!({"list": "tools"})).await;
    told.last().await;
    assert_eq!(
        stream.next().await["method"],
        "notifications/tools/list_changed"
    );

    // A call that is cancelled gets no answer; the session lives on.
    let mut endless = session.endless(4).await;
    endless.next().await;
    session
        .tell("notifications/cancelled", json!({"requestId": 4}))
        .await;
    while let Some(event) = endless.event().await {
        assert!(!event.data.contains("\"result\""), "{event:?}");
    }
    let echo = session.call(5, "echo", json!({"text": "still here"})).await;
    assert_eq!(text(&echo.last().await), "still here");

    assert!(session.delete().await.status.is_success());
    assert_eq!(
        session.ask(6, "ping", json!({})).await.status,
        404,
        "a session that was deleted is gone"
    );
}

#[tokio::test]
async fn a_session_over_stdio_does_all_that_a_session_does() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let before = z.warm().await;
    a_whole_session(z.target()).await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_session_over_http_does_all_that_a_session_does() {
    let (_demo, z) = over_http().await;
    let before = z.baseline().await;
    a_whole_session(z.target()).await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_get_stream_ends_with_its_session() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let mut stream = session.stream().await;
    session.delete().await;
    while stream.event().await.is_some() {}
    until("the child is gone", async || z.servers().is_empty()).await;
}

#[tokio::test]
async fn a_legacy_client_that_goes_away_does_not_cancel_its_call() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let before = z.baseline().await;
    let mut call = session
        .call_with_token(1, "t", "progress", json!({"steps": 12, "interval_ms": 50}))
        .await;
    call.next().await;
    drop(call);
    until("the client is seen to be gone", async || {
        z.metrics()
            .await
            .sum("ziggurat_sse_streams", &["downstream"])
            == 0.0
    })
    .await;
    assert_eq!(
        z.metrics()
            .await
            .sum("ziggurat_stdio_pending_requests", &[]),
        1.0,
        "the child still works on it"
    );
    z.assert_back_to(&before).await;
    // Nobody told it to stop: it took its twelve steps, and then answered.
    let again = session.call(2, "echo", json!({"text": "x"})).await;
    assert_eq!(text(&again.last().await), "x");
}

#[tokio::test]
async fn a_batch_is_taken_where_its_revision_has_it() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session_at("/mcp", "2025-03-26").await;
    let batch = json!([
        request(&json!(1), "ping", &json!({})),
        request(&json!("1"), "tools/call", &json!({"name": "echo", "arguments": {"text": "b"}})),
        {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
    ]);
    let answer = session.post(&batch).await;
    assert_eq!(answer.status, 200);
    let mut ids: Vec<String> = answer
        .messages()
        .await
        .iter()
        .flat_map(|m| m.as_array().cloned().unwrap_or_else(|| vec![m.clone()]))
        .map(|m| m["id"].to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["\"1\"", "1"]);
}

#[tokio::test]
async fn a_batch_is_refused_where_its_revision_does_not_have_it() {
    let z = Ziggurat::yaml(&stdio("")).await;
    for version in ["2025-06-18", LEGACY] {
        let session = z.target().session_at("/mcp", version).await;
        let batch = json!([request(&json!(1), "ping", &json!({}))]);
        let answer = session.post(&batch).await;
        assert_eq!(answer.status, 400, "{version}");
    }
}

#[tokio::test]
async fn an_initialize_in_a_batch_is_refused() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let batch = json!([initialize("2025-03-26")]).to_string();
    let headers = [("mcp-protocol-version", "2025-03-26")];
    let answer = z.target().post("/mcp", &headers, batch).await;
    assert_eq!(answer.status, 400);
    assert!(z.servers().is_empty());
}

#[tokio::test]
async fn a_session_is_required_and_must_be_known() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let ping = request(&json!(1), "ping", &json!({})).to_string();
    let without = z.target().post("/mcp", &[], ping.clone()).await;
    assert_eq!(without.status, 400);
    let unknown = [("mcp-session-id", "not-a-session")];
    let unknown = z.target().post("/mcp", &unknown, ping).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json().await["id"], 1);
    until("it is logged", async || z.log().contains("session_gone")).await;
    assert!(!z.log().contains("outcome_unknown"), "nothing was done");
}

#[tokio::test]
async fn revisions_from_the_first_to_the_last_are_negotiated() {
    let z = Ziggurat::yaml(&stdio("")).await;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY] {
        let session = z.target().session_at("/mcp", version).await;
        assert_eq!(session.version, version);
        session.delete().await;
    }
}

#[tokio::test]
async fn nothing_said_runs_the_demo_and_a_command_after_dashes_runs_that() {
    let z = Start::args(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .up()
        .await;
    let session = z.target().session().await;
    let answer = session.call(1, "echo", json!({"text": "demo"})).await;
    assert_eq!(text(&answer.last().await), "demo");
    assert!(z.log().contains("curl"));

    let z = Start::args(&[
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--",
    ])
    .arg(crate::harness::BIN)
    .arg("demo")
    .up()
    .await;
    let session = z.target().session().await;
    let answer = session.call(1, "echo", json!({"text": "quick"})).await;
    assert_eq!(text(&answer.last().await), "quick");
}
